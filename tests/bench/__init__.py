"""The benchmark: sparsediff against other tools on the same files. `python -m tests.bench -h`."""
