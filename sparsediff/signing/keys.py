"""Keys: a file, or what a command prints, to a key that signs or one that is trusted.

Enters: where a key is. Leaves: the key, its name and when it expires. A key is a PEM file as
OpenSSL writes it, before which lines may stand: comments, and ``Expires: TIME``. What is
secret is in no message, no representation and no argument; it leaves this module as signatures.
"""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparsediff.checksum import digest
from sparsediff.disk.outputs import staged_file
from sparsediff.errors import UnavailableError, UsageError, os_errors

COMMAND = "command:"
"""How a key begins that is not a file but what a command prints."""

_MAX_BYTES = 1 << 16
_PATIENCE = 60.0  # seconds for a command
_ID_DIGITS = 16
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----\s.*?-----END [A-Z ]+-----\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key whose signatures can be checked.

    Attributes:
        id: 16 hex digits of the SHA-256 of the key, to tell it from others.
        expires: in seconds since the epoch; its signatures count no more from then on. None:
            they always do.
    """

    id: str
    expires: float | None
    _key: Any = field(repr=False, compare=False)

    def has_expired(self) -> bool:
        """Whether its signatures count no more, by the clock of this machine."""
        return self.expires is not None and self.expires <= time.time()

    def made(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made a signature of a message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs.

    Attributes:
        public: the other half.
    """

    public: PublicKey
    _key: Any = field(repr=False, compare=False)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes."""
        made: bytes = self._key.sign(message)
        return made


def private_key(source: Path | str) -> PrivateKey:
    """Read a key that signs.

    Args:
        source: a file that nobody else may read, or ``command:`` and a line for the shell, which
            prints what would be in such a file.

    Raises:
        UsageError: it is no private key of Ed25519, or a file that others may read, or
            cryptography is not installed.
        UnavailableError: the command failed.
    """
    serialization, ed25519 = _library()
    text, name, mode = _read(source)
    expires, pem = _split(text, name)
    if b"PRIVATE KEY" not in pem:
        raise UsageError("holds no private key; KEY.pub is for who checks signatures", file=name)
    if mode & 0o077:
        raise UsageError(
            "others may read this private key; chmod 600 it, or replace it if they did",
            file=source,
            found=f"mode {mode:04o}",
        )
    key = _loaded(lambda: serialization.load_pem_private_key(pem, None))
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(
            "holds no private key that can be used", file=name, expected="Ed25519, no passphrase"
        )
    return PrivateKey(_public(key.public_key(), expires), key)


def public_key(source: Path | str) -> PublicKey:
    """Read a key that is trusted.

    Args:
        source: a file, or ``command:`` and a line for the shell, which prints one.

    Raises:
        UsageError: it is no public key of Ed25519, or cryptography is not installed.
        UnavailableError: the command failed.
    """
    serialization, ed25519 = _library()
    text, name, _ = _read(source)
    expires, pem = _split(text, name)
    if b"PRIVATE KEY" in pem:
        raise UsageError("is a private key, which stays with who signs; give KEY.pub", file=name)
    key = _loaded(lambda: serialization.load_pem_public_key(pem))
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UsageError("holds no public key that can be used", file=name, expected="Ed25519")
    return _public(key, expires)


def generate(path: Path | str, *, expires: float | None = None) -> PublicKey:
    """Make a key: ``path``, for who signs, with mode 0600; and ``path.pub``, for everybody.

    The private key gets its name first, and is never written again: where one lies alone, as
    a run leaves it that is cut off between the two, it stays and gets its other half.

    Args:
        path: of the private key.
        expires: when signatures of this key stop to count, in seconds since the epoch.

    Raises:
        UsageError: one of the files exists, but for a private key of ours that an earlier call
            with these arguments may have made; or ``expires`` is beyond the year 9999; or
            cryptography is not installed.
        UnavailableError: the disk is full.
        LockedError: another run makes this key.
    """
    path, other = Path(path), Path(f"{path}.pub")
    if os.path.lexists(other):
        raise _exists(other)
    if expires is not None and not 0 <= expires <= _LATEST:
        raise UsageError("a key would expire at no time that a calendar has", file=path)
    try:
        return _generate(path, other, None if expires is None else float(int(expires)))
    except UsageError:
        if os.path.lexists(other):  # made meanwhile
            raise _exists(other) from None
        raise


def _generate(path: Path, other: Path, expires: float | None) -> PublicKey:
    """Make ``other``, and before it ``path``, if that is not there."""
    serialization, ed25519 = _library()
    pem = serialization.Encoding.PEM
    with staged_file(other, force=False) as stream, os_errors(other):
        is_new = not os.path.lexists(path)
        key = ed25519.Ed25519PrivateKey.generate() if is_new else None
        public = _public(key.public_key(), expires) if key else _alone(path, expires)
        head = f"# sparsediff key {public.id}\n"
        if public.expires is not None:
            head += f"Expires: {datetime.fromtimestamp(public.expires, UTC).strftime(_TIME)}\n"
        shown = public._key.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        stream.write(head.encode() + shown)
        stream.flush()
        if key:
            secret = key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            with staged_file(path, force=False, mode=0o600) as stream, os_errors(path):
                stream.write(head.encode() + secret)
    return public


def _alone(path: Path, expires: float | None) -> PublicKey:
    """The other half of a private key, if a call of `generate` may have left it alone.

    Raises:
        UsageError: it may not: it is somebody else's, no key, or would last longer than is asked.
    """
    with os_errors(path):
        if os.lstat(path).st_uid != os.geteuid():
            raise _exists(path)
    try:
        found = private_key(path).public
    except UsageError as e:
        raise _exists(path) from e
    if (found.expires is None) != (expires is None) or (found.expires or 0) > (expires or 0):
        raise _exists(path)
    return found


def _exists(file: Path) -> UsageError:
    return UsageError("exists, and no key is ever replaced; choose another name", file=file)


def _public(key: Any, expires: float | None) -> PublicKey:
    """A public key of cryptography, as one of ours."""
    return PublicKey(digest(key.public_bytes_raw())[:_ID_DIGITS], expires, key)


def _loaded(load: Callable[[], Any]) -> Any:
    """What ``load`` returns; None if there is no such key: what is wrong may hold some of it."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _split(text: bytes, name: str) -> tuple[float | None, bytes]:
    """When a key expires, and the key.

    Raises:
        UsageError: there is no key, or more than one, or before it a line that says nothing: an
            ``Expires`` that is misspelled must not be taken for a comment.
    """
    found = _PEM.search(text)
    if found is None or text[found.end() :].strip():
        raise UsageError("holds no key, or more than it", file=name, expected="one, as PEM")
    expires = None
    for line in text[: found.start()].splitlines():
        word, _, value = line.partition(b":")
        if word == b"Expires" and expires is None:
            try:
                until = datetime.strptime(value.strip().decode("ascii", "replace"), _TIME)
            except ValueError:
                raise UsageError(
                    "`Expires` of a key is no time", file=name, expected="2027-11-25T00:00:00Z"
                ) from None
            expires = until.replace(tzinfo=UTC).timestamp()
        elif line.strip() and not line.startswith(b"#"):
            raise UsageError(
                "a line before the key means nothing", file=name, expected="Expires: TIME, or #"
            )
    return expires, found[0]


def _read(source: Path | str) -> tuple[bytes, str, int]:
    """What is in the file, or what the command prints; its name for messages; and its mode."""
    if isinstance(source, str) and source.startswith(COMMAND):
        return _printed(source.removeprefix(COMMAND)), "the command for a key", 0
    with os_errors(source), open(source, "rb", opener=_at_once) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError("is no regular file", file=source, found=stat.filemode(mode))
        return stream.read(_MAX_BYTES), str(source), stat.S_IMODE(mode)


def _at_once(path: str, flags: int) -> int:
    """Open a file; a pipe must not hold us up."""
    return os.open(path, flags | os.O_NONBLOCK)


def _printed(command: str) -> bytes:
    """What a command prints. Neither that nor the command, which may hold a secret, is told."""
    name, end = "the command for a key", time.monotonic() + _PATIENCE
    with subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that what it started can be ended with it
    ) as process:
        try:
            assert process.stdout is not None
            data = _until(process.stdout.fileno(), end)
            if len(data) > _MAX_BYTES:
                raise UsageError("printed more than a key", file=name, expected="64 KiB at most")
            code = process.wait(max(0.0, end - time.monotonic()))
        except BaseException as e:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(e, (subprocess.TimeoutExpired, TimeoutError)):
                raise UnavailableError(f"did not end within {_PATIENCE:.0f} s", file=name) from None
            raise
    if code:
        raise UnavailableError("failed", file=name, found=f"exit code {code}")
    return data


def _until(descriptor: int, end: float) -> bytes:
    """What is written to a pipe until it is closed, or there is more than a key has.

    Raises:
        TimeoutError: it is open still.
    """
    data, ready = b"", select.poll()
    ready.register(descriptor, select.POLLIN)
    while len(data) <= _MAX_BYTES:
        if not ready.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimeoutError
        more = os.read(descriptor, _MAX_BYTES + 1 - len(data))
        if not more:
            break
        data += more
    return data


def _library() -> tuple[Any, Any]:
    """What is used of cryptography: its ``serialization`` and ``ed25519``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as e:
        if e.name is None or e.name.partition(".")[0] != "cryptography":
            raise
        raise UsageError("signatures need cryptography: pip install cryptography") from None
    return serialization, ed25519
