"""The drill of following in short, for every change: two versions, a rank that fails, no kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm.server import Client
from tests.vllm.test_following import begin

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(("tp", "kind"), [(1, "qwen2"), (2, "llama")])
def test_versions_under_load_and_a_failure(tmp_path: Path, tp: int, kind: str) -> None:
    place = begin(tmp_path, kind)
    flag = tmp_path / "fail"
    server = place.server(tp=tp)

    def proves(number: int) -> list[bool]:
        replies = server.rpc("sparsediff_call", "record", str(place.at(number)))
        return [r["ok"] for r in replies]

    try:
        assert server.at("step_1")["mode"] == "routes"
        server.rpc("fail_while", str(flag), tp - 1)
        client = Client(server)
        client.start()
        place.ship(2)
        assert server.at("step_2")["pauses"][-1]["mode"] == "routes"
        before = server.digests()
        flag.touch()  # the last rank fails half-way through its commit
        place.ship(3)
        failed = server.wait(lambda s: s["state"] == "failed")
        assert f"rank {tp - 1}: RuntimeError: injected failure" in failed["error"]
        assert "all ranks are back at step_2" in failed["error"]
        assert server.digests() == before
        flag.unlink()
        assert server.at("step_3")["pauses"][-1]["mode"] == "routes"
        assert client.end() == []
        assert client.n_requests > 0
        assert proves(2) == [False] * tp
        assert proves(3) == [True] * tp
    finally:
        server.stop()
