"""Tests with SGLang's own classes, in an environment of its own: run with ``-m sglang`` there."""
