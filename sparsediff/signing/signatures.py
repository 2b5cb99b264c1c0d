"""Signatures and who is trusted.

Enters: bytes that cover all of what is signed, and what kind of thing that is. Leaves: rows of
signatures, the same in a pointer and beside a patch; or nothing, if one of them is by a key that
is trusted, and an `UntrustedError` if none is. Decides nothing else.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsediff.checksum import digest
from sparsediff.errors import UntrustedError, UsageError, printable
from sparsediff.signing.keys import PrivateKey, PublicKey, private_key, public_key

MOST = 64
"""Signatures of one thing."""

_VARIABLE = "SPARSEDIFF_TRUST"


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count. One of them is enough.

    Attributes:
        keys: that are trusted; at least one.
    """

    keys: tuple[PublicKey, ...]

    def check(self, kind: str, data: bytes, rows: object, file: object) -> None:
        """Return if one of the signatures is by a key that is trusted.

        Args:
            kind: of what is signed; a signature of one kind is none of another.
            data: that is signed.
            rows: signatures, as `Signer.sign` made them; None if there are none.
            file: for messages.

        Raises:
            UntrustedError: none is.
        """
        trusted = f"a signature of {' or '.join(dict.fromkeys(k.id for k in self.keys))}"
        if rows is None:
            raise UntrustedError("is not signed", file=file, expected=trusted)
        message, seen = _message(kind, data), []
        for key_id, signature in parsed(rows, file):
            found = f"one of {printable(key_id)}"
            for key in self.keys:
                if key.id != key_id:
                    continue
                if not key.made(signature, message):
                    found = f"a wrong one of {key_id}"
                elif key.has_expired():
                    found = f"one of {key_id}, which has expired"
                else:
                    return
            seen.append(found)
        raise UntrustedError(
            "no signature is trusted", file=file, expected=trusted, found=", ".join(seen) or None
        )


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs.

    Attributes:
        keys: with each of which everything is signed; at least one.
    """

    keys: tuple[PrivateKey, ...]

    @property
    def trust(self) -> Trust:
        """Trusts what this signs."""
        return self.trusting(None)

    def trusting(self, others: Trust | None) -> Trust:
        """Trusts what this signs, and whoever is trusted besides."""
        own = tuple(key.public for key in self.keys)
        return Trust(own if others is None else (*others.keys, *own))

    def check(self) -> None:
        """Raise UsageError if a key has expired: nobody would take its signature."""
        for key in self.keys:
            if key.public.has_expired():
                raise UsageError(f"key {key.public.id} has expired; sign with a new one")

    def sign(self, kind: str, data: bytes) -> list[dict[str, str]]:
        """A row for each key: its ``key`` by name, and ``ed25519``, the signature in Base64.

        Raises:
            UsageError: a key has expired, so that nobody would take its signature.
        """
        self.check()
        message = _message(kind, data)
        return [
            {"key": k.public.id, "ed25519": base64.b64encode(k.sign(message)).decode()}
            for k in self.keys
        ]


def trust(sources: Sequence[Path | str] | None) -> Trust | None:
    """Who is trusted; None if ``sources`` is None: then nothing needs a signature.

    Args:
        sources: as `public_key` takes them.

    Raises:
        UsageError: there is none, or `public_key` refuses one.
        UnavailableError: a command failed.
    """
    return None if sources is None else Trust(tuple(dict.fromkeys(map(public_key, _some(sources)))))


def environment_keys() -> list[str] | None:
    """Keys that ``SPARSEDIFF_TRUST`` names, one a line, as `trust` takes them; None if it is unset.

    For programs that a user configures: the command line, and the plug-ins of engines.

    Raises:
        UsageError: it is set and names no key, which is no way to trust everybody.
    """
    if _VARIABLE not in os.environ:
        return None
    named = [line.strip() for line in os.environ[_VARIABLE].split("\n")]
    if not any(named):
        raise UsageError(f"{_VARIABLE} is set without a key; unset it to trust everybody")
    return [key for key in named if key]


def signer(sources: Sequence[Path | str] | None) -> Signer | None:
    """Who signs, as `trust`, for private keys."""
    if sources is None:
        return None
    found = Signer(tuple(dict.fromkeys(map(private_key, _some(sources)))))
    found.check()
    return found


def _some(sources: Sequence[Path | str]) -> Sequence[Path | str]:
    if isinstance(sources, str) or not sources:
        raise UsageError("keys are given as a list with one at least")
    return sources


def _message(kind: str, data: bytes) -> bytes:
    """What is signed, short enough to be written by hand."""
    return f"sparsediff {kind} sha256 {digest(data)}\n".encode()


def parsed(rows: object, file: object) -> list[tuple[str, bytes]]:
    """Names of keys, and signatures by them.

    Raises:
        UntrustedError: the rows are malformed.
    """
    found = []
    try:
        if not isinstance(rows, list) or len(rows) > MOST:
            raise ValueError
        for row in rows:
            key, text = row["key"], row["ed25519"]
            if not isinstance(key, str) or not isinstance(text, str):
                raise ValueError
            found.append((key, base64.b64decode(text, validate=True)))
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise UntrustedError("signatures are malformed", file=file) from None
    return found
