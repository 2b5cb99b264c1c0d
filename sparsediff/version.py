"""The versions of the package and of the patches it writes, in one place."""

__version__ = "0.1.0"
FORMAT_VERSION = 1
