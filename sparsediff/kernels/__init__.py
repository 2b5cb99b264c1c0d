"""Kernels: the loops over every word and every symbol, free of files and formats."""
