"""Where the processor time of `make` and `apply` goes: an account, as JSON.

    python -m tests.bench.account make BASE TARGET PATCH
    python -m tests.bench.account apply BASE PATCH OUTPUT

One thread, so that the parts add up. Calls of C that release the interpreter lock are
timed one by one; what is left is Python, which only one thread runs at a time, so that share
bounds how many threads are of use. The figures are those of the second run in a process: the
start, which threads do not share either, is told apart.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import thread_time as clock
from types import SimpleNamespace
from typing import Any

UNLOCKED_HASH_BYTES = 1 << 16  # xxhash keeps the lock for less
AT_ONCE = {"choose_by_sample", "take_in", "rebuild"}  # these read, hash or write as well
OTHERS = [  # of what we call, what releases the lock as well: SHA-256, and zstd
    ("sparsediff.checksum", "digest", "hash"),
    ("sparsediff.patch.container", "digest", "hash"),
    ("sparsediff.codec.bucket", "compress", "kernels"),
    ("sparsediff.make.encode", "compress", "kernels"),
    ("sparsediff.patch.container", "compress_columns", "kernels"),
    ("sparsediff.patch.container", "decompress", "kernels"),
    ("sparsediff.apply.rebuild", "decompress", "kernels"),
]
FILES = [  # what opens files whose reads and writes go past the buffer: payloads are large
    ("sparsediff.make.write", "spool"),
    ("sparsediff.make.spool", "staged_file"),
]
LOCKED = {"room", "use"}  # calls of the kernels that keep the lock


class Account:
    """CPU seconds by what they were spent on.

    Attributes:
        seconds: by kind of call.
        n_timed: how many calls were timed, each of which takes some time of its own.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.n_timed = 0

    def timed(self, call: Callable[..., Any], key: str) -> Callable[..., Any]:
        """``call``, whose time is added to that of ``key``."""

        def timed(*args: Any, **more: Any) -> Any:
            start = clock()
            try:
                return call(*args, **more)
            finally:
                self.seconds[key] = self.seconds.get(key, 0.0) + clock() - start
                self.n_timed += 1

        return timed

    @staticmethod
    def cost() -> float:
        """What it takes to time a call, besides the call."""
        other, start = Account(), clock()
        nothing = other.timed(lambda: None, "")
        for _ in range(1000):
            nothing()
        return (clock() - start - other.seconds[""]) / 1000

    def timed_hash(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same of a call on bytes that releases the lock if they are many."""
        timed = self.timed(call, "hash")
        return lambda data: (
            timed(data) if memoryview(data).nbytes > UNLOCKED_HASH_BYTES else call(data)
        )

    def timed_file(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        """``opened``, a context of an open file, whose reads and writes are timed."""

        @contextmanager
        def timed(*args: Any, **more: Any) -> Iterator[Any]:
            with opened(*args, **more) as file:
                keys = {"read": "read", "write": "write", "flush": "write"}
                calls = {name: self.timed(getattr(file, name), key) for name, key in keys.items()}
                yield SimpleNamespace(**calls, seek=file.seek)

        return timed


def _watch(account: Account) -> None:
    """Have the calls that release the lock timed."""
    import xxhash

    from sparsediff.kernels import _native

    os.preadv = account.timed(os.preadv, "read")
    os.pwrite = account.timed(os.pwrite, "write")

    class Hash:
        def __init__(self, data: Any) -> None:
            hashed = xxhash.xxh3_128()
            self.update = account.timed_hash(hashed.update)
            self.hexdigest = hashed.hexdigest
            self.update(data)

    one = account.timed_hash(xxhash.xxh3_128_hexdigest)
    _replace("sparsediff.checksum", "xxhash", xxh3_128=Hash, xxh3_128_hexdigest=one)

    for module, name, key in OTHERS:
        owner = import_module(module)
        setattr(owner, name, account.timed(getattr(owner, name), key))

    for module, name in FILES:
        owner = import_module(module)
        setattr(owner, name, account.timed_file(getattr(owner, name)))

    def timed(call: Any, name: str) -> Any:
        return account.timed(call, "at once" if name in AT_ONCE else "kernels")

    class Stepwise:
        """A coder, each of whose steps is timed when it is taken."""

        def __init__(self, coder: object) -> None:
            self._coder = coder

        def __getattr__(self, name: str) -> Any:
            return timed(getattr(self._coder, name), name)

    def stepwise(made: Callable[..., Any]) -> Callable[..., Any]:
        made = account.timed(made, "kernels")
        return lambda *args: Stepwise(made(*args))

    found = {name: getattr(_native, name) for name in dir(_native) if not name.startswith("_")}
    functions = {
        name: stepwise(member)
        if isinstance(member, type)
        else member
        if name in LOCKED
        else timed(member, name)
        for name, member in found.items()
    }
    _replace(
        "sparsediff.kernels.compiled",
        "_native",
        **functions,
    )


def _replace(module: str, name: str, **members: Any) -> None:
    """Have a module of ours use other members of something that it imported."""
    setattr(import_module(module), name, SimpleNamespace(**members))


def measure(verb: str, paths: list[str]) -> dict[str, float]:
    """CPU seconds of the second run: ``total``, and of that each kind of call and ``rest``."""
    import sparsediff
    from sparsediff.cli.common import return_large_blocks

    return_large_blocks()
    call = sparsediff.make_patch if verb == "make" else sparsediff.apply_patch
    account, cost = Account(), Account.cost()
    for run in range(2):
        if run:
            _watch(account)
        Path(paths[-1]).unlink(missing_ok=True)  # to free what it holds takes time of its own
        start = clock()
        call(*paths, jobs=1, force=True)
        total = clock() - start
    total -= cost * account.n_timed
    return {"total": total, **account.seconds, "rest": total - sum(account.seconds.values())}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2:])))
