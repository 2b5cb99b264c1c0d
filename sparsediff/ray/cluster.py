"""A cluster of Ray: connected to, given calls, and left as it was.

Enters: an address and calls. Leaves: what they return, in whatever order they are ready.
A call whose worker or node is lost is made again, and that is said; an error that a call
raises arrives as it is, and no other call is begun. Ray is imported when a cluster is asked for.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from sparsediff.errors import (
    SparsediffError,
    UnavailableError,
    UnsupportedError,
    UsageError,
    one_line,
)

R = TypeVar("R")

Note = Callable[[str], None]
"""Told what a user should know while a call works, in one line."""

_SMALLEST = 64 << 20  # bytes of the target for which a task is worth its start
_LARGEST = 2 << 30  # a part is in the memory of a node, and an anchor's has the target's size
_PER_CPU = 2  # so that no processor waits long for the slowest
_TRIES = 4  # of one call: whatever kills four workers is probably the call
_CONNECT = 10.0  # seconds
_SILENCE = 60.0  # seconds without a result after which it is said what is waited for


class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        n_cpus: of all its nodes, when it was connected to.
    """

    def __init__(self, ray: Any, note: Note | None) -> None:
        self._ray, self._note = ray, note or (lambda _: None)
        self.n_cpus = int(ray.cluster_resources().get("CPU", 0))
        if self.n_cpus < 1:
            raise UnavailableError("the Ray cluster has no processors")

    def n_tasks(self, n_bytes: int) -> int:
        """How many tasks a target of so many bytes is cut into."""
        most = max(1, n_bytes // _SMALLEST)
        return min(most, max(_PER_CPU * self.n_cpus, -(-n_bytes // _LARGEST)))

    def results(
        self, function: Callable[..., R], calls: Mapping[str, tuple[Any, ...]]
    ) -> Iterator[tuple[str, R]]:
        """Make calls on the nodes, each on one processor; yield what they return, when ready.

        On an error or an interrupt, calls that are being made end with the connection, or go
        on to their end where that is not ours. They are not cancelled: to cancel a call that
        is about to return makes Ray abort this process (seen with Ray 2.60: "Tried to
        complete task that was not pending").

        Args:
            function: of a module, which every node must have; what it is given and returns is
                pickled.
            calls: arguments, by what messages call it, as "part 3/16".

        Raises:
            SparsediffError: that of the first call that raises one.
            UnavailableError: a call was lost with its worker several times.
            UnsupportedError: a node has no sparsediff.
        """
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(_guarded)
        tries = dict.fromkeys(calls, 0)
        waiting = list(calls)[::-1]
        running: dict[Any, str] = {}
        while waiting or running:
            # No more than are needed to keep all busy: results wait in the nodes' memory.
            while waiting and len(running) < 2 * self.n_cpus:
                name = waiting.pop()
                tries[name] += 1
                running[task.remote(function, calls[name])] = name
            ready, _ = ray.wait(list(running), timeout=_SILENCE)
            if not ready:
                self._say_what_is_waited_for(len(waiting) + len(running))
                continue
            name = running.pop(ready[0])
            try:
                result, error = ray.get(ready.pop())
            except ray.exceptions.RayTaskError as e:
                problem = "a node of the Ray cluster cannot run this version of sparsediff"
                raise UnsupportedError(problem, found=_last_line(e)) from None
            except ray.exceptions.RayError as e:
                self._again(name, tries[name], e)
                waiting.append(name)
                continue
            if error is not None:
                raise error
            yield name, result

    def _again(self, name: str, tries: int, error: Exception) -> None:
        """Say that a call is made again, or that it was tried often enough."""
        what = f"{name} was lost with its worker or node ({type(error).__name__})"
        if tries >= _TRIES:
            raise UnavailableError(f"{what} {tries} times; the last time: {_last_line(error)}")
        self._note(f"{what}; it is made again")

    def _say_what_is_waited_for(self, n_calls: int) -> None:
        free = self._ray.available_resources().get("CPU", 0)
        self._note(
            f"waiting for {n_calls} tasks; nothing was ready for {_SILENCE:.0f} s, and {free:.0f} "
            f"processors of the Ray cluster are free"
        )


@contextmanager
def connected(address: str | None, note: Note | None = None) -> Iterator[Cluster]:
    """Connect to a cluster; what this process is connected to already is used and kept.

    Args:
        address: as ``ray.init`` takes it, such as ``auto`` for the cluster of this machine.
        note: told which calls are made again, and what is waited for.

    Raises:
        UsageError: Ray is not installed.
        UnavailableError: there is no cluster at this address.
    """
    ray = _library()
    if ray.is_initialized():
        yield Cluster(ray, note)
        return
    try:
        _check_answers(address)
        with _signals_kept():
            ray.init(address, logging_level="ERROR", log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as e:
        where = "" if address is None else f" at {address}"
        raise UnavailableError(f"no Ray cluster{where}", found=_last_line(e)) from e
    try:
        with _output_kept():
            yield Cluster(ray, note)
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Raise OSError if nobody listens there: Ray itself finds that out in minutes, line by line."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()


def _library() -> Any:
    try:
        with _signals_kept():
            return import_module("ray")
    except ImportError as e:
        if e.name is None or e.name.partition(".")[0] != "ray":
            raise
        raise UsageError("a Ray cluster needs ray: pip install ray") from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep this process's answers to signals, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in kept.items():
            signal.signal(signum, handler)


@contextmanager
def _output_kept() -> Iterator[None]:
    """Keep Ray from printing what happens to workers on stdout, where results go.

    It has no setting for that; what concerns a call is said by `Cluster` itself.
    """
    worker: Any = import_module("ray._private.worker")
    kept = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = kept


def _guarded(function: Callable[..., R], arguments: tuple[Any, ...]) -> tuple[R | None, Any]:
    """On a node: what a call returns, or the error it raises, without Ray's words around it."""
    try:
        return function(*arguments), None
    except Exception as e:
        if isinstance(e, UsageError):
            # The process that asked has found everything: only this node does not see it.
            e.problem += f", on node {_node()}: every node must see the same files"
        if not isinstance(e, SparsediffError):
            e.add_note(f"on node {_node()}")
        return None, e


def _node() -> str:
    return str(import_module("ray").util.get_node_ip_address())


def _last_line(error: Exception) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[-1])
