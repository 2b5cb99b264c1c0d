"""Tests of sparsediff."""
