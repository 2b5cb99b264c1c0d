"""``python -m sparsediff``."""

from sparsediff.cli import main

main()
