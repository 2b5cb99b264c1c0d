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


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head without processors, and two nodes with one each; its ``address`` is for all."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    memory = 100 << 20  # of each node's object store
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": memory,
            "include_dashboard": False,
        },
    )
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=memory)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()
