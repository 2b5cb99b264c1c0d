"""A real cluster of Ray with several nodes, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray leaves sockets and files to Python's end, and warns of its own future."""
    for item in items:
        if "tests/ray/" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


_TRIES = 3


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without processors, and two nodes with one each; its ``address`` is for all."""
    pytest.importorskip("ray", reason="Ray is not installed")
    made = started()
    try:
        yield made
    finally:
        made.shutdown()


def started() -> Any:
    """The cluster, begun again if it did not come up: Ray waits for a node for 30 s only."""
    from ray.cluster_utils import Cluster

    memory = 100 << 20  # of each node's object store
    head = {"num_cpus": 0, "object_store_memory": memory, "include_dashboard": False}
    for attempt in range(1, _TRIES + 1):
        made = Cluster()
        try:
            made.add_node(**head)
            for _ in range(2):
                made.add_node(num_cpus=1, object_store_memory=memory)
            made.wait_for_nodes()
        except Exception:
            if made.head_node is not None:
                made.shutdown()
            if attempt == _TRIES:
                raise
        else:
            return made
    raise AssertionError
