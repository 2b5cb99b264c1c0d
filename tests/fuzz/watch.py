"""What no hostile bytes may bring about: watched while a target reads them."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sparsediff.errors import CorruptError, SparsediffError, UnsupportedError

MAX_SECONDS = 10.0  # of CPU, of one input of at most 64 kB; what is slow on purpose takes hours
MAX_BYTES = 300 << 20  # beyond what the process had taken before

_FORBIDDEN = {
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.system",
    "pickle.find_class",
    "socket.connect",
    "subprocess.Popen",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_watching = False
_seen: list[str] = []


class FindingError(AssertionError):
    """Something that hostile bytes must not bring about."""


def accepts(
    read: Callable[[bytes], object],
    data: bytes,
    refusals: tuple[type[SparsediffError], ...] = (CorruptError, UnsupportedError),
) -> bool:
    """Let ``read`` have the bytes; whether it takes them, or refuses them with an error of ours.

    Raises:
        FindingError: another error, or one without a line of its own; or it took too long or too
            much memory, wrote something, or ran something.
    """
    global _watching
    before, started, taken = _peak(), time.process_time(), True
    compiles = not sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # a module that is imported late is written by nobody's bytes
    _watching = True
    try:
        read(data)
    except refusals as e:
        taken = False
        text = str(e)
        if not text.isprintable() or len(text) > 2000:
            raise FindingError(f"not one short line: {text[:300]!r}") from e
    except SparsediffError as e:
        raise FindingError(f"{type(e).__name__} ({e.exit_code}): {e}") from e
    except FindingError:
        raise
    except (Exception, SystemExit) as e:
        raise FindingError(f"{type(e).__name__}: {e}") from e
    finally:
        _watching = False
        sys.dont_write_bytecode = not compiles
    if _seen:
        found, _seen[:] = ", ".join(_seen), []
        raise FindingError(f"did {found}")
    if time.process_time() - started > MAX_SECONDS:
        raise FindingError(f"took {time.process_time() - started:.0f} s")
    if _peak() - before > MAX_BYTES:
        raise FindingError(f"took {(_peak() - before) >> 20} MiB")
    return taken


@contextmanager
def unwatched() -> Iterator[None]:
    """For what a target does itself, such as writing the file that is then read."""
    global _watching
    before, _watching = _watching, False
    try:
        yield
    finally:
        _watching = before


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        flags = arguments[2]
        if isinstance(flags, int) and flags & _WRITING:
            _seen.append(f"open {arguments[0]!r} to write")
    elif event in _FORBIDDEN:
        _seen.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_audit)
