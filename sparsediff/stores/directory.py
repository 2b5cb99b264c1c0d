"""A store in a directory, local or mounted.

Enters: keys, which are relative file names. Leaves: files that appear by rename
after they are synced. Follows no link below the directory, touches nothing
outside of it, and ignores what it does not know. Directories that became empty
are removed, and made again by a writer who was about to use them.

`swap` is exclusive through flock on ``.lock.sparsediff-tmp`` in the directory,
the single-writer lock; the file stays. NFS passes flock on to its server
(unless mounted with local_lock or nolock), so writers on several machines
exclude each other; sshfs does not, so all writers must then share one
machine. Readers need no lock.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsediff.checksum import checksum
from sparsediff.disk.inputs import InputFile
from sparsediff.disk.locks import locked
from sparsediff.disk.names import check_relative_name, is_temp, temp_sibling
from sparsediff.errors import CorruptError, LockedError, from_os_error, os_errors
from sparsediff.stores.store import Found, Stored, check_small, pieces
from sparsediff.stores.throttle import Throttle

if TYPE_CHECKING:
    from sparsediff.signing import Signer, Trust

_LOCK = temp_sibling(Path("lock")).name  # no key can be called so
_LOCK_WAIT = 30.0  # seconds; the lock is held for one small write
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PIECE = 1 << 20
_ATTEMPTS = 100
_SETTLED = 2.0  # seconds
_ABSENT = (FileNotFoundError, NotADirectoryError)


class DirectoryStore:
    """Implements `Store`.

    Args:
        root: an existing directory; may itself be a link.
        throttle: for what `read` and `put` move.
    """

    trust: Trust | None = None
    signer: Signer | None = None

    def __init__(self, root: Path, throttle: Throttle) -> None:
        self.name = str(root)
        self._root = Path(os.path.abspath(root))
        self._throttle = throttle
        self._seen: dict[str, tuple[str, object]] = {}  # tag and state of what `get` read last

    def get(self, key: str, known: Found | None = None) -> Found | None:
        """See `Store`."""
        with self._opened(key) as fd:
            if fd is None:
                return None
            status = os.fstat(fd)
            if known is not None and self._seen.get(key) == (known[1], _state(status)):
                return known
            check_small(self._full(key), status.st_size)
            data = _read(fd, 0, status.st_size)
        tag = checksum(data)
        self._seen.pop(key, None)
        # What is younger may change once more at what its file system takes for the same time.
        if known is not None and abs(time.time() - status.st_ctime) > _SETTLED:
            self._seen[key] = tag, _state(status)
        return data, tag

    def tag(self, key: str) -> str | None:
        """See `Store`; reads the object."""
        with self._opened(key) as fd:
            if fd is None:
                return None
            n_bytes = os.fstat(fd).st_size
            check_small(self._full(key), n_bytes)
            return checksum(_read(fd, 0, n_bytes))

    def size(self, key: str) -> int | None:
        """See `Store`."""
        with self._opened(key) as fd:
            return None if fd is None else os.fstat(fd).st_size

    def read(self, key: str, offset: int, n_bytes: int) -> bytes:
        """See `Store`."""
        with self._opened(key) as fd:
            if fd is None:
                raise CorruptError("no such object in the store", file=self._full(key))
            size = os.fstat(fd).st_size
            if size < offset + n_bytes:
                raise CorruptError(
                    "object is too short",
                    file=self._full(key),
                    expected=f"at least {offset + n_bytes} bytes",
                    found=size,
                )
            parts = []
            for at in range(offset, offset + n_bytes, _PIECE):
                n = min(_PIECE, offset + n_bytes - at)
                self._throttle.take(n)
                parts.append(_read(fd, at, n))
            return b"".join(parts)

    def put(self, key: str, path: Path) -> None:
        """See `Store`."""
        file = InputFile.of(path)
        with self._replaced(key) as fd:
            for piece in pieces(file, self._throttle):
                _write(fd, piece)

    def swap(self, key: str, data: bytes, expected: str | None) -> bool:
        """See `Store`.

        Raises:
            LockedError: another run held the lock for half a minute.
        """
        with self._single_writer():
            if self.tag(key) != expected:
                return False
            with self._replaced(key) as fd:
                _write(fd, data)
            return True

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Store`."""
        for name, status in self._files(prefix):
            try:
                check_relative_name(name)
            except CorruptError:
                continue  # a temporary file, or a stranger's
            yield Stored(name, status.st_size, status.st_mtime)

    def delete(self, key: str) -> None:
        """See `Store`."""
        absent = suppress(*_ABSENT, IsADirectoryError)
        with self._errors(key), absent, self._parent(key) as (directory, name):
            os.unlink(name, dir_fd=directory)
        for end in reversed([i for i, c in enumerate(key) if c == "/"]):
            try:
                with self._parent(key[:end]) as (directory, name):
                    os.rmdir(name, dir_fd=directory)
            except OSError:  # most likely because it is not empty
                return

    def leftovers(self) -> Iterator[Stored]:
        """See `Store`: temporary files."""
        for name, status in self._files(""):
            if is_temp(name.rpartition("/")[2]) and name != _LOCK:
                yield Stored(name, status.st_size, status.st_mtime)

    def _files(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Regular files below ``prefix``."""
        with ExitStack() as stack:
            stack.enter_context(self._errors(prefix))
            try:
                top, _ = stack.enter_context(self._parent(f"{prefix}-"))
            except _ABSENT:
                return
            for directory, _, names, fd in os.fwalk(".", dir_fd=top, onerror=_unless_absent):
                for name in names:
                    try:
                        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # renamed or deleted since
                    if stat.S_ISREG(status.st_mode):
                        below = os.path.normpath(os.path.join(directory, name))
                        yield f"{prefix}{below}", status

    @contextmanager
    def _parent(self, key: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Descriptor of the directory ``key`` lies in, reached without links, and the last name."""
        *above, name = key.split("/")
        if is_temp(name) and name != _LOCK:
            check_relative_name("/".join([*above, "-"]), file=self.name)  # one of the leftovers
        else:
            check_relative_name(key, file=self.name)
        with os_errors(self.name):
            fd = os.open(self._root, _DIRECTORY)
        try:
            for part in above:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=fd)
                        os.fsync(fd)
                below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd, name
        finally:
            os.close(fd)

    @contextmanager
    def _opened(self, key: str) -> Iterator[int | None]:
        """Descriptor for reading an object, or None."""
        with ExitStack() as stack:
            stack.enter_context(self._errors(key))
            try:
                directory, name = stack.enter_context(self._parent(key))
                # NONBLOCK: a pipe must not hold us up. It is no object either.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=directory)
            except OSError as e:
                if not isinstance(e, _ABSENT) and e.errno != errno.ELOOP:  # a link is no object
                    raise
                yield None
                return
            stack.callback(os.close, fd)
            yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None

    @contextmanager
    def _replaced(self, key: str) -> Iterator[int]:
        """Build an object in a temporary file of our own; yields its descriptor."""
        with self._errors(key), ExitStack() as stack:
            directory, name, temp, fd = self._temporary(key, stack)
            try:
                try:
                    yield fd
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(temp, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temp, dir_fd=directory)
                raise
            os.fsync(directory)

    def _temporary(self, key: str, stack: ExitStack) -> tuple[int, str, str, int]:
        """The directory of ``key``, the last name, that of a new file beside it, and the file."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            with ExitStack() as trial:
                try:
                    directory, name = trial.enter_context(self._parent(key, create=True))
                    # A random part: others may be putting the same key.
                    temp = temp_sibling(Path(name), int.from_bytes(os.urandom(5), "big")).name
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    fd = os.open(temp, flags, 0o666, dir_fd=directory)
                except FileNotFoundError:  # somebody removed a directory that was empty
                    if not attempts_left:
                        raise
                    continue
                stack.enter_context(trial.pop_all())
                return directory, name, temp, fd
        raise AssertionError("unreachable")

    @contextmanager
    def _single_writer(self) -> Iterator[None]:
        end = time.monotonic() + _LOCK_WAIT
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self._root / _LOCK, os.O_RDWR | os.O_CREAT))
                    break
                except LockedError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.005)
            yield

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            e.filename = None  # relative to a descriptor; the message should name all of it
            raise from_os_error(e, self._full(key)) from e

    def _full(self, key: str) -> str:
        return f"{self.name}/{key}"


def _state(status: os.stat_result) -> object:
    """What is another after a file was replaced."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise error


def _read(fd: int, offset: int, n_bytes: int) -> bytes:
    """Bytes of a file that is never changed in place."""
    data = bytearray(n_bytes)
    done = 0
    while done < n_bytes:
        n = os.preadv(fd, [memoryview(data)[done:]], offset + done)
        if n == 0:
            raise CorruptError("object became shorter while it was read", offset=offset + done)
        done += n
    return bytes(data)


def _write(fd: int, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
