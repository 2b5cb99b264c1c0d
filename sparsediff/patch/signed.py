"""The signatures of a patch, in a file beside it: ``PATCH.sig``.

Enters: the beginning of a patch, header and manifest, which holds a digest of all the rest.
Leaves: a file of signatures, or a patch that is opened only if one of them is trusted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sparsediff.disk.outputs import staged_file
from sparsediff.errors import UntrustedError, UsageError, os_errors
from sparsediff.signing import Signer, Trust

SUFFIX = ".sig"
_FORMAT = "sparsediff-signatures"
_KIND = "patch"  # of what is signed
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Signed:
    """A patch that is read only if it is signed; takes the place of its path.

    Attributes:
        path: of the patch; its signatures are in ``path.sig``.
        trust: who must have signed it.
    """

    path: Path | str
    trust: Trust

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def check(self, beginning: bytes) -> None:
        """Check the signatures of a patch.

        Args:
            beginning: header and manifest, as they are in the patch.

        Raises:
            UntrustedError: nobody who is trusted signed it.
        """
        file = beside(self.path)
        try:
            with open(file, "rb") as stream:
                data = stream.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            rows = None
        except OSError:
            with os_errors(file):
                raise
        else:
            rows = _rows(data, file)
        self.trust.check(_KIND, beginning, rows, self.path)


def beside(path: Path | str | Signed) -> Path:
    """Where the signatures of a patch are."""
    if str(path) == "-":
        raise UsageError(
            "a patch on standard input has no signature beside it; let it be a file",
        )
    return Path(f"{path}{SUFFIX}")


def write_signatures(path: Path | str | Signed, beginning: bytes, signer: Signer) -> Path:
    """Write the signatures of a patch; those that are there are replaced.

    Raises:
        UsageError: a key has expired.
        UnavailableError: the disk is full.
    """
    file = beside(path)
    document = {"format": _FORMAT, "signatures": signer.sign(_KIND, beginning)}
    with staged_file(file, force=True) as stream, os_errors(file):
        stream.write((json.dumps(document, indent=1) + "\n").encode())
    return file


def _rows(data: bytes, file: Path) -> object:
    """The rows of signatures in a file."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if (
        len(data) > _MAX_BYTES
        or not isinstance(document, dict)
        or document.get("format") != _FORMAT
        or "signatures" not in document
    ):
        raise UntrustedError(f"the file of its signatures, {file.name}, is malformed", file=file)
    return document["signatures"]
