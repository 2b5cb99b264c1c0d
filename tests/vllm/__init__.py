"""Tests in a real vLLM, which has an environment of its own: run with ``-m vllm`` there."""
