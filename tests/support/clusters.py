"""What befalls the nodes of a cluster of Ray: workers stopped and nodes lost in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def one_node_lost(cluster: Any) -> Iterator[None]:
    """Add a node, and take it away once a worker of it is in the middle of a task.

    However late that is: the other nodes stand still once they have begun a task each.

    Raises:
        AssertionError: no worker of it was at work until the end of this.
    """
    others = raylets(*cluster.worker_nodes)
    lost = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    stopped: list[int] = []

    def kill() -> None:
        standing: dict[int, int] = {}  # workers, by their raylets
        try:
            while not stopped:
                moving = [raylet for raylet in others if raylet not in standing]
                worker = stop_at_work(*moving, *raylets(lost))
                if _parent(worker) in moving:
                    standing[_parent(worker)] = worker
                else:
                    stopped.append(worker)
            cluster.remove_node(lost, allow_graceful=False)
            os.kill(stopped[0], signal.SIGKILL)  # with its machine
        finally:
            for worker in standing.values():
                os.kill(worker, signal.SIGCONT)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        killer.join()
    assert stopped


def raylets(*nodes: Any) -> list[int]:
    """Process ids of what starts the workers of nodes."""
    return [node.all_processes["raylet"][0].process.pid for node in nodes]


def stop_at_work(*raylets: int) -> int:
    """Stop a worker of one of the nodes in the middle of a task; returns its process id."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and is_at_work(int(process.name), *raylets):
                os.kill(int(process.name), signal.SIGSTOP)
                if is_at_work(int(process.name), *raylets):
                    return int(process.name)
                os.kill(int(process.name), signal.SIGCONT)
    raise AssertionError("no worker of the node was seen at work")


def is_at_work(pid: int, *raylets: int) -> bool:
    """Whether a process is a worker of these raylets that has a task, which Ray makes its title."""
    process = Path(f"/proc/{pid}")
    try:
        if _parent(pid) not in raylets:
            return False
        return (process / "cmdline").read_bytes().startswith(b"ray::_guarded")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
