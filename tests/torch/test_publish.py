"""Publishing from the memory of many ranks: ordinary checkpoints, whoever holds what."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sparsediff import Policy, make_patch, open_store, pull, versions
from sparsediff.disk.outputs import write_at
from sparsediff.errors import (
    CorruptError,
    UnavailableError,
    UnsupportedError,
    UntrustedError,
    UsageError,
)
from sparsediff.shipping.catalog_json import POINTER, dump, read_catalog
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.shipping.parts import parts_of, read_parts
from sparsediff.shipping.publish import Made, put_version
from sparsediff.shipping.sealing import write_catalog
from sparsediff.torch import Publisher, publish, ship_stream
from sparsediff.torch import joint as joint_module
from sparsediff.torch import publisher as publisher_module
from sparsediff.torch import shards as shards_module
from sparsediff.torch import share as share_module
from tests.support.keys import new_key
from tests.support.pairs import tree
from tests.support.ranks import SIZE, change, even, layouts, save_whole, start, tensors
from tests.support.runs import catalog_of

STEPS = 3


def publish_all_layouts(rank: int, root: Path) -> None:
    for number, (_, state_dict) in enumerate(layouts(rank)):
        here = root / str(number)
        publisher = Publisher(here / "store", jobs=1 + number % 2)
        with pytest.MonkeyPatch.context() as patched:
            if in_parts(number):
                patched.setattr(joint_module, "PART_BYTES", 1)
            for step in range(STEPS):
                if step:
                    change(state_dict, step)
                save_whole(state_dict, here / f"step_{step:06}", rank)
                done = publisher.publish(state_dict, step)
                assert done.version.version == step + 1
                assert (done.version.step is None) == (step == 0)


def in_parts(number: int) -> bool:
    return number % 3 > 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks left, which did all that needs no rank killed."""
    root = tmp_path_factory.mktemp("ranks")
    assert start(everything, root) == [""] * SIZE
    return root


def everything(rank: int, root: Path) -> None:
    for scenario in (
        publish_all_layouts,
        fail_often,
        stream,
        layout_1,
        disagree,
        elsewhere,
        the_page,
        untold,
    ):
        scenario(rank, root / scenario.__name__)


def test_what_is_pulled_is_the_checkpoint_however_it_is_held(
    published: Path, tmp_path: Path
) -> None:
    for number in range(8):
        here = published / "publish_all_layouts" / str(number)
        store = open_store(str(here / "store"))
        for step, version in enumerate(versions(store)):
            pull(store, here / "dest", version=version.name)
            assert tree(here / "dest" / "current") == tree(here / f"step_{step:06}")
            if step:
                patch = tmp_path / f"{number}-{step}"
                make_patch(here / f"step_{step - 1:06}", here / f"step_{step:06}", patch)
                assert version.step is not None
                assert (version.step.list_bytes is not None) == in_parts(number)
                parts = parts_of(store, version.step)
                assert (len(parts) > 1) == in_parts(number)
                assert read_parts(store, parts, 0, version.step.n_bytes) == patch.read_bytes()


def fails(*_: object) -> None:
    raise UnsupportedError("injected")


FAILURES: dict[int, tuple[int, str]] = {2: (1, "injected"), 3: (0, "injected")}
FAILURES |= {4: (0, "no space left"), 5: (2, "injected"), 6: (3, "injected"), 7: (0, "injected")}
FAILURES |= {8: (0, "injected")}


def fail_often(rank: int, root: Path) -> None:
    publisher = Publisher(root / "store", jobs=1)
    mine: dict[str, Any] = {n: t for i, (n, t) in enumerate(tensors().items()) if i % SIZE == rank}
    for step in range(10):
        change(mine, step)
        save_whole(mine, root / f"step_{step:06}", rank)
        failing, problem = FAILURES.get(step, (None, ""))
        with pytest.MonkeyPatch.context() as patched:
            if step > 5:
                patched.setattr(joint_module, "PART_BYTES", 1)
            if step == 2 and rank == failing:  # in its share, while others are done with theirs
                patched.setattr(share_module, "ordered_map", fails)
            if step in (3, 6) and rank == failing:  # everything is made and cannot be put
                patched.setattr(publisher, "_store", Unreachable(publisher._store))
            if step == 4 and rank == failing:  # what others send has no room
                patched.setattr(joint_module, "write_at", is_full)
            if step == 5 and rank == failing:  # it reads words for another
                patched.setattr(shards_module.Rows, "taken_from", fails)
            if step == 7 and rank == failing:  # all parts are put
                patched.setattr(publisher_module, "put_version", fails)
            if step == 8 and rank == failing:  # what the store holds is read again
                patched.setattr(Policy, "wants_anchor", fails)
            if failing is not None:
                with pytest.raises((UnsupportedError, UnavailableError)) as caught:
                    publisher.publish(mine, step)
                assert problem in str(caught.value)
                assert ("failed: " in str(caught.value)) == (rank != failing)
            else:
                publisher.publish(mine, step)


def is_full(path: Path, offset: int, data: Any) -> None:
    if offset:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_at(path, offset, data)


class Unreachable:
    """A store that can be read and not be written."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name == "put":
            return fails
        return getattr(self._store, name)


def untold(rank: int, root: Path) -> None:
    """A version is there, and one rank does not hear of it."""
    publisher = Publisher(root / "store", jobs=1)
    state_dict: dict[str, Any] = even()
    for step in range(4):
        change(state_dict, step)
        save_whole(state_dict, root / f"step_{step:06}", rank)
        with pytest.MonkeyPatch.context() as patched:
            if step == 1 and rank == 2:
                put = publisher._put
                patched.setattr(publisher, "_put", lambda *a, put=put: fails(put(*a)))
                with pytest.raises(UnsupportedError):
                    publisher.publish(state_dict, step)
            else:
                publisher.publish(state_dict, step)


def test_rank_that_was_not_told_of_a_version_does_not_go_on_from_it(published: Path) -> None:
    root = published / "untold"
    store = open_store(str(root / "store"))
    assert [v.step is None for v in versions(store)] == [True, False, True, False]
    assert check(store, now=time.time()).is_sound
    for version in versions(store):
        pull(store, root / "dest", version=version.name)
        assert tree(root / "dest" / "current") == tree(root / version.name)


def test_rank_that_fails_leaves_no_version_and_the_next_makes_up_for_it(published: Path) -> None:
    root = published / "fail_often"
    store = open_store(str(root / "store"))
    assert [v.number for v in versions(store)] == [0, 1, 9]
    last = list(versions(store))[-1]
    assert last.step is not None, "what was compared with was lost"
    assert last.anchor is None
    pull(store, root / "dest")
    assert tree(root / "dest" / "current") == tree(root / "step_000009")
    found = check(store, now=time.time())
    assert found.is_sound
    assert len(found.young) >= SIZE, "parts of versions that were not published"
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}


def dies(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_one(rank: int, root: Path) -> None:
    publisher = Publisher(root / "store", jobs=1)
    state_dict: dict[str, Any] = even()
    publisher.publish(state_dict, 0)
    change(state_dict, 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(joint_module, "PART_BYTES", 1)
        if rank == 2:
            patched.setattr(joint_module, "put_part", dies)
        publisher.publish(state_dict, 1)


def test_rank_that_is_killed_leaves_no_version_only_orphans(tmp_path: Path) -> None:
    errors = start(kill_one, tmp_path / "ranks", killed=(2,))
    for rank in (0, 1, 3):
        assert "UnavailableError" in errors[rank]
        assert "a rank is gone" in errors[rank]
    store = open_store(str(tmp_path / "ranks" / "store"))
    assert len(list(versions(store))) == 1
    found = check(store, now=time.time())
    assert found.is_sound
    assert found.orphans == []
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}


def layout_1(rank: int, root: Path) -> None:
    publisher = Publisher(root / "store", jobs=1)
    state_dict: dict[str, Any] = tensors()
    publisher.publish(state_dict, 0)
    if rank == 0:
        store = open_store(str(root / "store"))
        assert store.swap(POINTER, dump(replace(catalog_of(store), layout=1)), store.tag(POINTER))
    dist.barrier()
    change(state_dict, 1)
    save_whole(state_dict, root / "step_000001", rank)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(joint_module, "PART_BYTES", 1)
        publisher.publish(state_dict, 1)


def test_store_of_layout_1_goes_on_as_it_was(published: Path) -> None:
    root = published / "layout_1"
    store = open_store(str(root / "store"))
    assert catalog_of(store).layout == 1
    assert [p.list_bytes for v in versions(store) for p in v.patches] == [None, None]
    pull(store, root / "dest")
    assert tree(root / "dest" / "current") == tree(root / "step_000001")


def elsewhere(rank: int, root: Path) -> None:
    store = root / str(rank)
    store.mkdir(parents=True)
    publisher = Publisher(store)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(joint_module, "PART_BYTES", 1)
        with pytest.raises(UnavailableError, match="a part that another machine put is not here"):
            publisher.publish(tensors(), 0)


def disagree(rank: int, root: Path) -> None:
    state_dict = {"w": torch.zeros(3 + (rank == 3))}
    with pytest.raises(UsageError, match=r"tensor 'w'.*rank 3 has another dtype or shape"):
        Publisher(root / "store").publish(state_dict, 0)


def stream(rank: int, root: Path) -> None:
    state_dict: dict[str, Any] = tensors()
    for step in range(2):
        change(state_dict, step)
        save_whole(state_dict, root / f"step_{step:06}", rank)
        done = ship_stream(iter(state_dict.items()), root / "store", step=step, jobs=1)
    assert done.version.step is not None


def test_stream_of_full_tensors(published: Path) -> None:
    root = published / "stream"
    pull(open_store(str(root / "store")), root / "dest")
    assert tree(root / "dest" / "current") == tree(root / "step_000001")


def the_page(rank: int, root: Path) -> None:
    """The block of docs/live.md, with a model in shards."""
    text = (Path(__file__).parents[2] / "docs/live.md").read_text()
    code = (
        text.partition("## Publish from many ranks")[2].partition("```python")[2].partition("```")
    )
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)).bfloat16()
    names: dict[str, Any] = {"model": fully_shard(model, mesh=init_device_mesh("cpu", (SIZE,)))}
    root.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        exec(code[0], names)
    save_whole(names["state"], root / "step_000001", rank)
    (root / f"{rank}.changed").write_text(str(names["done"].version.n_changed))


def test_block_of_the_page_on_shards(published: Path) -> None:
    root = published / "the_page"
    assert {(root / f"{rank}.changed").read_text() for rank in range(SIZE)} == {"8"}
    pull(open_store(str(root / "store")), root / "dest")
    assert tree(root / "dest" / "current") == tree(root / "step_000001")


MODEL_BYTES = 1 << 29


def publish_large(rank: int, root: Path) -> None:
    """Each rank holds a quarter, and says how much more memory publishing took at its peak."""
    rows = MODEL_BYTES // 2 // 4096 // SIZE
    g = torch.Generator().manual_seed(rank)
    mine = torch.empty(rows, 4096, dtype=torch.int16)
    mine.random_(generator=g)
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (SIZE,))
    state_dict = {"w": DTensor.from_local(mine, mesh, [Shard(0)])}
    publisher = Publisher(root / "store", jobs=1)
    dist.barrier()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(2):
        mine[::50, ::7] += 1
        publisher.publish(state_dict, step)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (root / f"{rank}.peak").write_text(str((after - before) * 1024))


@pytest.mark.slow
def test_no_rank_gathers_or_keeps_the_model(tmp_path: Path) -> None:
    root = tmp_path / "ranks"
    assert start(publish_large, root) == [""] * SIZE
    for rank in range(SIZE):
        peak = int((root / f"{rank}.peak").read_text())
        print(f"rank {rank}: {peak >> 20} MiB more than before, of a model of 512 MiB")
        assert peak < MODEL_BYTES // SIZE + (300 << 20)


def test_one_process_without_distribution(tmp_path: Path) -> None:
    state_dict: dict[str, Any] = {k: v for k, v in tensors().items() if k != "nothing"}
    state_dict["tied"] = state_dict["weight"]
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "config.json").write_text("{}")
    for step in range(3):
        change({"weight": state_dict["weight"]}, step)
        publish(state_dict, tmp_path / "store", step=step, files=beside, run="r")
    store = open_store(str(tmp_path / "store"))
    pull(store, tmp_path / "dest")
    current = tmp_path / "dest" / "current"
    assert (current / "config.json").read_text() == "{}"
    found = load_file(current / "model.safetensors")
    assert found.keys() == state_dict.keys() - {"tied"}
    assert torch.equal(found["weight"], state_dict["weight"])
    with pytest.raises(UsageError, match="steps must increase"):
        publish(state_dict, tmp_path / "store", step=2)
    with pytest.raises(UsageError, match="another run"):
        Publisher(tmp_path / "store", run="other").publish(state_dict, 9)


def test_tensors_that_come_or_go_make_a_version_stored_whole(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "store")
    publisher.publish({"a": torch.ones(9)}, 0)
    publisher.publish({"a": torch.ones(9), "b": torch.ones(9)}, 1)
    publisher.publish({"a": torch.zeros(9), "b": torch.ones(9)}, 2)
    found = list(versions(open_store(str(tmp_path / "store"))))
    assert [v.anchor is not None for v in found][:2] == [True, True]
    pull(open_store(str(tmp_path / "store")), tmp_path / "dest")
    save_file({"a": torch.zeros(9), "b": torch.ones(9)}, tmp_path / "want", {"format": "pt"})
    got = tmp_path / "dest" / "current" / "model.safetensors"
    assert got.read_bytes() == (tmp_path / "want").read_bytes()


def test_name_that_a_history_has_already_is_not_given_twice(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    publisher = Publisher(store)
    for step in (7, 8):
        publisher.publish({"a": torch.full((9,), step)}, step)
    found = read_catalog(store)
    assert found is not None
    catalog, _ = found
    assert catalog.run is not None
    (tmp_path / "nothing").mkdir()
    patch = tmp_path / "p"  # somebody takes the run back to step 3
    save_file({"a": torch.ones(9)}, tmp_path / "old")
    result = make_patch(tmp_path / "nothing", tmp_path / "old", patch)
    put_version(store, catalog, [Made(None, patch, result)], "step_000003", 3, catalog.run)
    done = publisher.publish({"a": torch.full((9,), 70)}, 7)
    assert done.version.name == "step_000007-000004"
    assert done.version.anchor is not None  # what it compared with is not the latest any more


def test_store_that_is_empty_again_or_has_gone_back_is_not_written_to(tmp_path: Path) -> None:
    """Whoever pulls would refuse the history that begins there, and the numbers given twice."""
    store = open_store(str(tmp_path / "store"), create=True)
    publisher, pointer = Publisher(store), tmp_path / "store" / POINTER
    publisher.publish({"a": torch.full((9,), 1)}, 1)
    old = pointer.read_bytes()
    publisher.publish({"a": torch.full((9,), 2)}, 2)
    new = pointer.read_bytes()
    pointer.write_bytes(old)
    with pytest.raises(UntrustedError, match=r"older than it was.*version 2 or later, found 1"):
        publisher.publish({"a": torch.full((9,), 3)}, 3)
    assert pointer.read_bytes() == old
    (tmp_path / "store").rename(tmp_path / "away")  # as one that is not mounted
    (tmp_path / "store").mkdir()
    with pytest.raises(UnavailableError, match="is it mounted"):
        publisher.publish({"a": torch.full((9,), 3)}, 3)
    assert list((tmp_path / "store").iterdir()) == []
    (tmp_path / "store").rmdir()
    (tmp_path / "away").rename(tmp_path / "store")
    pointer.write_bytes(new)
    done = publisher.publish({"a": torch.full((9,), 3)}, 3)
    assert done.version.version == 3
    assert done.version.step is not None


def test_a_publisher_started_again_knows_how_far_the_store_was(tmp_path: Path) -> None:
    """A pointer that was signed, and yet is old: from it numbers would be given twice."""
    place, key = tmp_path / "store", new_key(tmp_path / "key")
    store = open_store(str(place), create=True, trust=key.trust, signer=key.signer)
    pointer, home = place / POINTER, tmp_path / "state"

    def publish_anew(step: int) -> int:
        publisher = Publisher(store, state_directory=home)
        return publisher.publish({"a": torch.full((9,), step)}, step).version.version

    assert publish_anew(1) == 1
    old = pointer.read_bytes()
    assert publish_anew(2) == 2
    new = pointer.read_bytes()
    pointer.write_bytes(old)
    with pytest.raises(UntrustedError, match=r"older than it was.*version 2 or later, found 1"):
        publish_anew(3)
    assert pointer.read_bytes() == old
    pointer.unlink()
    with pytest.raises(UnavailableError, match="is it mounted"):
        publish_anew(3)
    pointer.write_bytes(new)
    assert publish_anew(3) == 3
    found = read_catalog(store)
    assert found is not None
    assert write_catalog(store, replace(found[0], id="a" * 32, rewind=5), found[1])
    assert publish_anew(4) == 4  # a history that took its place on purpose
    pointer.write_bytes(new)
    with pytest.raises(UntrustedError, match="a history from before the one it went over to"):
        publish_anew(5)
    (home / "state.json").write_text("{")
    with pytest.raises(CorruptError, match="record of earlier runs is damaged"):
        publish_anew(5)
    assert pointer.read_bytes() == new


def test_anchors_come_as_the_policy_says(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "store", policy=Policy(anchor_every=2))
    state_dict: dict[str, Any] = tensors()
    for step in range(5):
        change(state_dict, step)
        publisher.publish(state_dict, step)
    store = open_store(str(tmp_path / "store"))
    assert [v.anchor is not None for v in versions(store)] == [True, False, True, False, True]
    for version in versions(store):
        pull(store, tmp_path / version.name, version=version.name)
    last = load_file(tmp_path / "step_000004" / "current" / "model.safetensors")
    assert torch.equal(last["weight"], state_dict["weight"])


def test_torchrun_without_a_process_group_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # as torchrun sets it
    with pytest.raises(UsageError, match=r"call torch\.distributed\.init_process_group first"):
        Publisher(tmp_path / "store").publish({"w": torch.zeros(3)}, 0)
    assert not list(tmp_path.iterdir())
