"""The two libraries of the extra ``report``, imported when something is to be rendered."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparsediff.errors import UsageError


def library(name: str) -> Any:
    """``jinja2`` or ``vl_convert``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as e:
        if e.name is None or e.name.partition(".")[0] != name:
            raise
        package = {"vl_convert": "vl-convert-python"}.get(name, name)
        raise UsageError(f"a report needs {package}: pip install {package}") from None
