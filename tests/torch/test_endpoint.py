"""The follower of a vLLM server, with ranks of our own in place of vLLM's.

What vLLM does with it is in `tests/vllm`; here is what it decides when ranks fail.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparsediff import Policy, UsageError, open_store, pull, ship
from sparsediff.shipping.pointer import sign_store
from sparsediff.shipping.source import Rule
from sparsediff.vllm.endpoint import Endpoint, Following
from sparsediff.vllm.settings import Settings, parse
from sparsediff.vllm.worker import call
from tests.support.engine import Engine, checkpoint, fresh, same, save, step
from tests.support.keys import new_key
from tests.support.runs import settle


class Rank:
    """What a worker of vLLM is to us."""

    def __init__(self, model: Engine) -> None:
        self.model = model
        self.model_runner = SimpleNamespace(get_model=lambda: self.model)
        self.fails: dict[str, int] = {}  # how often, by verb

    def reload_weights(self, weights_path: str) -> None:
        self.model.load_weights(load_file(f"{weights_path}/model.safetensors").items())

    def call(self, verb: str, *args: Any) -> Any:
        if self.fails.get(verb, 0):
            self.fails[verb] -= 1
            return {"ok": False, "kind": "RuntimeError", "error": "injected failure"}
        return call(self, verb, *args)


class Client:
    """What vLLM's client of an engine is to us; notes what it is asked."""

    def __init__(self, ranks: list[Rank]) -> None:
        self.ranks, self.paused = ranks, False
        self.version = ""
        self.committed_running = False

    async def collective_rpc(self, method: str, args: Any) -> list[Any]:
        assert method == "sparsediff_call"
        if args[0] in ("commit", "undo", "reload") and not self.paused:
            self.committed_running = True
        await asyncio.sleep(0)
        return [rank.call(*args) for rank in self.ranks]

    async def pause_generation(self, *, mode: str) -> None:
        assert mode == "keep"
        self.paused = True

    async def resume_generation(self) -> None:
        self.paused = False

    async def update_weight_version(self, name: str) -> None:
        self.version = name

    async def reset_prefix_cache(self) -> None:
        assert self.paused


class Scene:
    """A store with one version, and an engine of two ranks that serves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tensors = [checkpoint()]
        self.store = open_store(str(root / "store"), create=True)
        self.ship(self.tensors[0])
        pull(self.store, root / "models")
        shapes = [Engine(rank=rank, size=2) for rank in (0, 1)]
        self.ranks = [Rank(fresh(self.tensors[0], shape)) for shape in shapes]
        self.client = Client(self.ranks)

    def ship(self, tensors: dict[str, torch.Tensor]) -> None:
        n = len(list((self.root / "run").glob("*"))) + 1
        settle(save(tensors, self.root / f"run/step_{n}/model.safetensors").parent)
        ship(self.root / "run", self.store, Policy(rule=Rule(quiet=0.0)))

    def step(self) -> None:
        self.tensors.append(step(self.tensors[-1], 0.2, len(self.tensors)))
        self.ship(self.tensors[-1])

    def holds(self, tensors: dict[str, torch.Tensor]) -> bool:
        return all(same(r.model, fresh(tensors, r.model)) for r in self.ranks)

    def play(self, *acts: Callable[[Following], Any], **settings: Any) -> dict[str, Any]:
        """Follow; each act is tried until it gives something true. The last status."""

        async def main() -> dict[str, Any]:
            place = {"store": str(self.root / "store"), "directory": str(self.root / "models")}
            found = parse({"sparsediff": place | {"every": 0.02} | settings})
            assert found is not None
            model = (self.root / "models/current").resolve()
            following = Following(self.client, found, model)
            following.start()
            for act in acts:
                while not act(following):
                    await asyncio.sleep(0.01)
            assert following._task is not None
            following._task.cancel()
            return following.status()

        return asyncio.run(asyncio.wait_for(main(), 60))


def at(version: str) -> Callable[[Following], bool]:
    def found(following: Following) -> bool:
        status = following.status()
        return (status["version"], status["state"]) == (version, "following")

    return found


def then(act: Callable[[], Any]) -> Callable[[Following], bool]:
    def done(_: Following) -> bool:
        act()
        return True

    return done


def state(name: str) -> Callable[[Following], bool]:
    return lambda following: following.status()["state"] == name


def test_every_version_on_all_ranks(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    status = scene.play(
        at("step_1"), then(scene.step), at("step_2"), then(scene.step), at("step_3")
    )
    assert (status["mode"], status["why"], status["lag"]) == ("routes", None, 0)
    assert [p["mode"] for p in status["pauses"]] == ["routes", "routes"]
    assert scene.holds(scene.tensors[-1])
    assert scene.client.version == "step_3"
    assert not scene.client.paused
    assert not scene.client.committed_running
    json.dumps(status)


def test_a_rank_that_fails_takes_all_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    def whole(following: Following) -> bool:
        status = following.status()
        assert "rank 1: injected failure; all ranks are back at step_1" in status["error"]
        assert scene.holds(scene.tensors[0])
        assert not scene.client.paused
        return True

    scene.ranks[1].fails = {"commit": 1}
    status = scene.play(at("step_1"), then(scene.step), state("failed"), whole, at("step_2"))
    assert status["error"] is None
    assert scene.holds(scene.tensors[1])


def test_what_cannot_be_undone_is_loaded_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    def again(following: Following) -> bool:
        assert "was loaded again, whole" in following.status()["error"]
        return scene.holds(scene.tensors[0])

    scene.ranks[1].fails = {"commit": 1}
    scene.ranks[0].fails = {"undo": 1}
    status = scene.play(at("step_1"), then(scene.step), state("failed"), again, at("step_2"))
    assert status["pauses"][-1]["mode"] == "reload"
    assert status["mode"] == "routes"  # which are learned anew
    assert scene.holds(scene.tensors[1])


def test_an_engine_of_two_versions_stays_paused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ranks[1].fails = {"commit": 1}
    scene.ranks[0].fails = {"undo": 1, "reload": 1}
    status = scene.play(at("step_1"), then(scene.step), state("stopped"))
    assert "generation stays paused" in status["error"]
    assert scene.client.paused


def test_an_engine_that_does_not_hold_its_version_is_made_to(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ranks[0].model.norm.data = scene.ranks[0].model.norm.data * 2  # or it was repacked
    status = scene.play(state("stopped"), fallback="refuse")
    assert "other words" in status["error"]
    assert scene.play(at("step_1"))["mode"] == "routes"
    assert scene.holds(scene.tensors[0])


def test_without_routes_versions_are_reloaded_or_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ranks[0].fails = {"record": 1}
    status = scene.play(at("step_1"), then(scene.step), state("failed"), fallback="refuse")
    assert status["why"] == "record, rank 0: injected failure"
    assert "step_2 is refused" in status["error"]
    assert scene.holds(scene.tensors[0])
    scene.ranks[0].fails = {"record": 2}
    assert scene.play(at("step_2"))["mode"] == "reload"
    assert scene.holds(scene.tensors[1])
    scene.ranks[0].fails = {"record": 2}
    status = scene.play(at("step_2"), then(scene.step), at("step_3"))
    assert status["pauses"][-1]["mode"] == "reload"
    assert status["mode"] == "routes"  # which are learned anew
    assert scene.holds(scene.tensors[2])


def test_a_new_tensor_is_reloaded(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    more = {**scene.tensors[0], "unused2": torch.ones(3)}
    status = scene.play(at("step_1"), then(lambda: scene.ship(more)), at("step_2"))
    assert status["pauses"][-1]["mode"] == "reload"
    scene.step()
    assert scene.play(at("step_3"))["mode"] == "routes"


def test_a_reload_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ranks[0].fails = {"record": 2}

    def fail() -> None:
        scene.ranks[1].fails = {"reload": 1}
        scene.step()

    status = scene.play(at("step_1"), then(fail), state("failed"), at("step_2"))
    assert scene.holds(scene.tensors[1])
    assert not scene.client.paused
    assert status["error"] is None


@pytest.mark.parametrize("by_variable", [False, True])
def test_nothing_unsigned_is_served_once_a_key_is_trusted(
    by_variable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    key = new_key(tmp_path / "key")
    settings = {"trust": [str(key.public)]}
    if by_variable:
        monkeypatch.setenv("SPARSEDIFF_TRUST", f"\n{key.public}\n")
        settings = {}

    def refused(following: Following) -> bool:
        return "is not signed" in (following.status()["store"] or "")

    def sign() -> None:
        scene.store.signer = key.signer
        sign_store(scene.store)

    status = scene.play(refused, then(scene.step), refused, then(sign), at("step_2"), **settings)
    assert status["store"] is None
    assert scene.holds(scene.tensors[-1])


def test_a_version_beyond_the_limit_is_not_served(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    def refused(following: Following) -> bool:
        return "is larger than `max_bytes`" in (following.status()["store"] or "")

    scene.play(then(scene.step), refused, at("step_1"), max_bytes=100)
    assert scene.holds(scene.tensors[0])


def test_settings() -> None:
    assert parse(None) is None
    assert parse({"other": 1}) is None
    given = {"store": "s3://w/x", "directory": "m", "every": 2}
    found = parse({"sparsediff": given})
    assert found == Settings("s3://w/x", Path("m").absolute(), 2.0)
    for bad in (
        1,
        {"store": "s"},
        given | {"more": 1},
        given | {"pause": "x"},
        given | {"fallback": 1},
        given | {"every": "x"},
        given | {"every": 0},
        given | {"keep": 1},
        given | {"store": 1},
        given | {"trust": "key.pub"},
        given | {"trust": []},
        given | {"max_bytes": "80GB"},
        given | {"max_bytes": 0},
    ):
        with pytest.raises(UsageError):
            parse({"sparsediff": bad})


def test_off_without_a_setting(tmp_path: Path) -> None:
    endpoint = Endpoint()
    routes: dict[str, Any] = {}
    app = SimpleNamespace(
        add_api_route=lambda path, handler, methods: routes.update({path: handler})
    )
    endpoint.attach_router(app)
    for setting, word in (({}, "no setting"), ({"sparsediff": 1}, "not understood")):
        arguments = SimpleNamespace(additional_config=setting, model="/m")
        asyncio.run(endpoint.init_state(object(), None, arguments))
        answer = asyncio.run(routes["/sparsediff"]())
        assert answer["state"] == "off"
        assert word in answer["why"]
