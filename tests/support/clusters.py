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

    Raises:
        AssertionError: no worker of it was at work until the end of this.
    """
    lost = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    stopped: list[int] = []

    def kill() -> None:
        stopped.append(stop_at_work(*raylets(lost)))
        cluster.remove_node(lost, allow_graceful=False)
        os.kill(stopped[0], signal.SIGKILL)  # with its machine

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
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        return parent in raylets and (process / "cmdline").read_bytes().startswith(b"ray::_guarded")
    except (FileNotFoundError, ProcessLookupError):
        return False
