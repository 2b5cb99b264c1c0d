"""A small JSON file that a command keeps between its runs.

Enters and leaves: a dictionary. Replaced by rename, so it is whole or as it
was. Nothing is lost with it but work: a damaged or missing one reads as empty.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsediff.disk.outputs import staged_file
from sparsediff.errors import os_errors


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote last."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def save(path: Path, document: dict[str, Any]) -> None:
    """Replace the file.

    Raises:
        UnavailableError: the disk is full, or fails.
    """
    data = (json.dumps(document, indent=1) + "\n").encode()
    with staged_file(path, force=True) as stream, os_errors(path):
        stream.write(data)
