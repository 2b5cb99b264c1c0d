"""A vLLM server follows a store under load, and is what a fresh one would be.

Needs vLLM, which has an environment of its own: CONTRIBUTING.md says how to run it.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from sparsediff import Policy, Store, open_store, pull, ship
from sparsediff.shipping.acks import read_acks
from sparsediff.shipping.source import Rule
from tests.vllm.models import Trainer
from tests.vllm.server import Client, Server

pytestmark = pytest.mark.vllm


class Place:
    """A trainer, a store, a directory of versions."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.run, self.models = root, root / "run", root / "models"
        self.run.mkdir()
        self._trainer = Trainer(kind)
        self.store: Store = open_store(str(root / "store"), create=True)

    def ship(self, *numbers: int) -> None:
        """Train, save, ship."""
        for number in numbers:
            self._trainer.save(self.at(number))
        ship(self.run, self.store, Policy(rule=Rule(quiet=0.0)))

    def server(self, **options: Any) -> Server:
        """A server that follows."""
        log = self.root / "following.log"
        return Server(self.models / "current", self.root / "store", self.models, log, **options)

    def at(self, number: int) -> Path:
        """A checkpoint of the trainer."""
        return self.run / f"step_{number}"

    def fresh(self, number: int, **options: Any) -> tuple[Any, Any]:
        """Digests and answers of a server that was started from a checkpoint."""
        log = self.root / "fresh.log"
        server = Server(self.at(number), None, self.models, log, **options)
        try:
            server.wait(lambda s: s["state"] == "off")
            return server.digests(), server.answers()
        finally:
            server.stop()


def begin(root: Path, kind: str) -> Place:
    """A store with one version, pulled."""
    place = Place(root, kind)
    place.ship(1)
    pull(place.store, place.models)
    return place


@pytest.mark.parametrize(("tp", "kind"), [(1, "qwen2"), (2, "llama")])
def test_under_load_with_failures_and_a_kill(tmp_path: Path, tp: int, kind: str) -> None:
    place = begin(tmp_path, kind)
    flag = tmp_path / "fail"
    server = place.server(tp=tp, ack="engine-1")
    try:
        first = server.at("step_1")
        assert (first["mode"], first["why"]) == ("routes", None)
        server.rpc("fail_while", str(flag), tp - 1)
        client = Client(server)
        client.start()
        for number in range(2, 5):
            place.ship(number)
            status = server.at(f"step_{number}")
            print(status["pauses"][-1])
            assert status["pauses"][-1]["mode"] == "routes"
            assert len(status["pauses"][-1]["ranks"]) == tp
        before = server.digests()
        flag.touch()  # the last rank fails half-way through its commit
        place.ship(5)
        failed = server.wait(lambda s: s["state"] == "failed")
        (ack,) = read_acks(place.store)
        assert (ack.machine, ack.name) == ("engine-1", "step_4"), "what is served, not pulled"
        assert "injected failure" in failed["error"]
        assert f"rank {tp - 1}" in failed["error"]
        assert "all ranks are back at step_4" in failed["error"]
        flag.unlink()
        status = server.at("step_5")
        assert status["error"] is None
        shipper = threading.Thread(target=place.ship, args=(6, 7))
        shipper.start()
        shipper.join()
        status = server.at("step_7")
        assert client.end() == []
        assert client.n_requests > 0
        assert server.digests() != before
        assert not any(r["ok"] for r in server.rpc("sparsediff_call", "record", str(place.at(6))))
        assert all(r["ok"] for r in server.rpc("sparsediff_call", "record", str(place.at(7))))
        metrics = server.text("/metrics")
        assert "sparsediff_version 7.0" in metrics
        assert 'sparsediff_pause_seconds_count{mode="routes"} ' in metrics
        # Killed in the middle of an update, a server follows on when it is started again.
        place.ship(8)
        server.wait(lambda s: s["state"] != "following" or s["version"] == "step_8")
        server.stop(signal.SIGKILL)
        server = place.server(tp=tp)
        assert server.at("step_8")["mode"] == "routes"
        place.ship(9)
        assert server.at("step_9")["pauses"][-1]["mode"] == "routes"
        served = server.digests(), server.answers()
        server.stop()
        assert place.fresh(9, tp=tp) == served
    finally:
        server.stop()


def test_packed_weights_are_reloaded_whole_and_exactly(tmp_path: Path) -> None:
    place = begin(tmp_path, "qwen2")  # its head is tied: a packed copy of it would stay
    server = place.server(packed=True)
    try:
        status = server.at("step_1")
        assert status["mode"] == "reload"
        assert "packed" in status["why"]
        place.ship(2, 3)
        assert server.at("step_3")["pauses"][-1]["mode"] == "reload"
        served = server.digests(), server.answers()
        server.stop()
        assert place.fresh(3, packed=True) == served
    finally:
        server.stop()
