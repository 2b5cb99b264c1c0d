"""apply on a cluster of Ray: the target that one machine rebuilds, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sparsediff.ray
from sparsediff import apply_patch, make_patch
from sparsediff.errors import (
    CorruptError,
    UnavailableError,
    UsageError,
    WrongBaseError,
)
from sparsediff.patch.container import open_patch, sign_patch
from tests.conftest import Run
from tests.support.clusters import is_at_work, one_node_lost, raylets, stop_at_work
from tests.support.keys import new_key
from tests.support.pairs import training_pair, tree, write_safetensors
from tests.support.processes import finish, start, wait_until
from tests.support.refusals import EXIT, refused

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    """Three steps of four shards; in the last a tensor moves to another, and a file is gone."""
    made = []
    for step in range(3):
        place = tmp_path / f"step_{step}"
        for shard in range(4):
            tensors = {f"w{shard}": training_pair(3000, 1e-5, seed=shard)[min(step, 1)]}
            if shard == (3 if step == 2 else 0):
                tensors["moved"] = training_pair(2000, seed=9)[0]
            write_safetensors(place / "model" / f"{shard}.safetensors", tensors)
        (place / "config.json").write_text(json.dumps({"step": step}))
        (place / "empty").touch()
        made.append(place)
    for place in made[:2]:
        write_safetensors(place / "gone", {"g": training_pair(2000, 1e-5)[place is made[1]]})
    return made


@pytest.fixture
def patches(steps: list[Path], tmp_path: Path) -> list[Path]:
    """From each step to the next."""
    for i in (0, 1):
        make_patch(steps[i], steps[i + 1], tmp_path / f"{i}.sdiff")
    return [tmp_path / "0.sdiff", tmp_path / "1.sdiff"]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_chain_to_a_directory(
    cluster: Any, steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    result = sparsediff.ray.apply(
        steps[0],
        patches,
        tmp_path / "out",
        address=cluster.address,
        parts=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert tree(tmp_path / "out") == tree(steps[2])
    on_one = apply_patch(steps[0], patches, tmp_path / "one")
    assert result.written_bytes >= on_one.written_bytes  # what two shares need, each rebuilds
    assert result == replace(on_one, output=tmp_path / "out", written_bytes=result.written_bytes)
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (result.target_bytes, result.target_bytes)


def test_more_parts_than_files(
    cluster: Any, steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(steps[0], out)  # which is replaced
    sparsediff.ray.apply(steps[0], patches[:1], out, address=cluster.address, parts=100, force=True)
    assert tree(out) == tree(steps[1])


def test_on_the_command_line(
    cluster: Any, cli: Run, steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    apply = "apply", "--ray", cluster.address, "-o", out
    code, text, err = cli(*apply, steps[0], patches[0], "--files", "*.json", "--files", "model/0*")
    assert (code, err) == (0, "")
    assert "verified, from 1 patch" in text
    names = {"config.json", "model/0.safetensors"}
    assert tree(out) == {n: data for n, data in tree(steps[1]).items() if n in names}
    refused(cli(*apply, steps[0], patches[0]), EXIT["usage"], "--force")
    for wrong in ("-j", 1), ("--in-place",):
        assert cli("apply", "--ray", cluster.address, steps[0], patches[0], *wrong)[0] == 2
    refused(cli(*apply, steps[0], "-", "--force"), EXIT["usage"], "not from a stream")
    refused(cli(*apply, steps[0], patches[1], "--force"), EXIT["base"])


def test_one_file(cluster: Any, steps: list[Path], tmp_path: Path) -> None:
    one, other = (step / "model" / "1.safetensors" for step in steps[:2])
    make_patch(one, other, tmp_path / "p")
    out = tmp_path / "out"
    sparsediff.ray.apply(one, tmp_path / "p", out, address=cluster.address)
    assert out.read_bytes() == other.read_bytes()
    with pytest.raises(UsageError, match="leads to one file"):
        sparsediff.ray.apply(
            one, tmp_path / "p", out, address=cluster.address, files=["*"], force=True
        )


def test_every_damage_is_found_and_nothing_appears(
    cluster: Any, steps: list[Path], patches: list[Path], tmp_path: Path
) -> None:
    """Of a patch, even in a file that the next one removes; and of the base."""
    out = tmp_path / "out"
    intact = patches[0].read_bytes()

    def fails_alike(error: type[Exception]) -> None:
        with pytest.raises(error) as expected:
            apply_patch(steps[0], patches, tmp_path / "one")
        with pytest.raises(error) as caught:
            sparsediff.ray.apply(steps[0], patches, out, address=cluster.address, parts=3)
        assert str(caught.value) == str(expected.value)
        assert not out.exists()

    with open_patch(patches[0]) as opened:
        gone = [f.name for f in opened.manifest.target_files].index("gone")
        (bucket,) = opened.manifest.file_buckets[gone]
        at = opened.n_bytes
        for name, size in reversed(opened.sizes.items()):
            at -= size
            if name == f"bucket.{bucket}":
                break
    flip(patches[0], at + 5)
    fails_alike(CorruptError)
    patches[0].write_bytes(intact + b"\0")
    fails_alike(CorruptError)
    patches[0].write_bytes(intact)
    flip(steps[0] / "model" / "2.safetensors", -1)
    fails_alike(WrongBaseError)
    (steps[0] / "gone").unlink()
    (steps[0] / "model" / "2.safetensors").unlink()
    with pytest.raises(WrongBaseError, match="no such file"):
        sparsediff.ray.apply(steps[0], patches, out, address=cluster.address, parts=3)


def test_keys_that_are_trusted_count_on_the_cluster_too(
    cluster: Any, steps: list[Path], patches: list[Path], tmp_path: Path, cli: Run
) -> None:
    pair = new_key(tmp_path / "key")
    verb = ("apply", steps[0], *patches, "-o", tmp_path / "out", "--quiet")
    verb = (*verb, "--ray", cluster.address, "--trust", pair.public)
    sign_patch(patches[0], pair.signer)
    refused(cli(*verb), EXIT["corrupt"], "1.sdiff", "not signed")
    assert not (tmp_path / "out").exists()
    sign_patch(patches[1], pair.signer)
    assert cli(*verb) == (0, "", "")
    assert tree(tmp_path / "out") == tree(steps[2])


def test_patch_that_is_replaced_between_two_tasks_is_noticed(cluster: Any, tmp_path: Path) -> None:
    base, targets = tmp_path / "a", [tmp_path / "b", tmp_path / "c"]
    for i in range(12):  # more than are begun before the first has ended
        for place, seed in zip([base, *targets], (0, 1, 2), strict=True):
            write_safetensors(place / str(i), {"w": training_pair(1000, seed=seed)[0]})
    patch, other = tmp_path / "p", tmp_path / "q"
    make_patch(base, targets[0], patch)
    make_patch(base, targets[1], other)

    def swap(done: int, total: int) -> None:
        if other.exists():
            os.replace(other, patch)

    with pytest.raises(UnavailableError, match="changed while it was read"):
        sparsediff.ray.apply(
            base, patch, tmp_path / "out", address=cluster.address, parts=12, progress=swap
        )
    assert not (tmp_path / "out").exists()


def large(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two checkpoints of many files, and the patch."""
    base, target = tmp_path / "a", tmp_path / "b"
    before, after = training_pair(1 << 21)
    for i in range(24):
        write_safetensors(base / str(i), {"w": before})
        write_safetensors(target / str(i), {"w": after})
    make_patch(base, target, tmp_path / "p")
    return base, target, tmp_path / "p"


def test_lost_node_costs_only_its_shares(cluster: Any, tmp_path: Path) -> None:
    base, target, patch = large(tmp_path)
    notes: list[str] = []
    with one_node_lost(cluster):
        sparsediff.ray.apply(
            base, patch, tmp_path / "out", address=cluster.address, parts=24, note=notes.append
        )
    assert len(notes) == 1
    assert "was lost with its worker or node" in notes[0]
    assert tree(tmp_path / "out") == tree(target)


def test_interrupt_ends_all_tasks_and_leaves_nothing(cluster: Any, tmp_path: Path) -> None:
    base, _, patch = large(tmp_path)
    nodes = raylets(*cluster.worker_nodes)
    process = start("apply", base, patch, "--ray", cluster.address, "-o", tmp_path / "out")
    worker = stop_at_work(*nodes)
    os.kill(process.pid, signal.SIGINT)
    os.kill(worker, signal.SIGCONT)
    assert finish(process) == (130, "", "sparsediff: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "p"]
    wait_until(lambda: not is_at_work(worker, *nodes), "end of the task")
