"""make on a cluster of Ray: the patch of one machine, whatever happens to the nodes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import sparsediff.ray
from sparsediff import make_patch
from sparsediff.checkpoint import open_checkpoint
from sparsediff.errors import CorruptError, UnavailableError, UsageError
from sparsediff.ray.cluster import connected
from tests.conftest import Run
from tests.support.clusters import is_at_work, one_node_lost, raylets, stop_at_work
from tests.support.pairs import training_pair, write_safetensors
from tests.support.processes import finish, start, wait_until
from tests.support.refusals import EXIT, refused

pytestmark = pytest.mark.usefixtures("nothing_left")


def one_machine(base: Path, target: Path, where: Path) -> bytes:
    make_patch(base, target, where / "whole.sdiff")
    return (where / "whole.sdiff").read_bytes()


def test_patch_is_that_of_one_machine(
    cluster: Any, base: Path, target: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    result = sparsediff.ray.make(
        base,
        target,
        tmp_path / "p.sdiff",
        address=cluster.address,
        parts=7,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (tmp_path / "p.sdiff").read_bytes() == one_machine(base, target, tmp_path)
    assert result.patch_bytes == (tmp_path / "p.sdiff").stat().st_size
    assert len(seen) == 7
    assert seen == sorted(seen)
    assert seen[-1] == (result.target_bytes, result.target_bytes)


def test_on_the_command_line(
    cluster: Any, cli: Run, base: Path, target: Path, tmp_path: Path
) -> None:
    answers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    code, out, err = cli(
        "make", base, target, "--ray", cluster.address, "--exclude", "config*", "-o", tmp_path / "p"
    )
    assert (code, err) == (0, "")
    assert "1 file left out" in out
    make_patch(base, target, tmp_path / "q", exclude=["config*"])
    assert (tmp_path / "p").read_bytes() == (tmp_path / "q").read_bytes()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == answers


def test_error_on_a_node_is_the_error_of_one_machine(
    cluster: Any, target: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\xff" * 100)
    with pytest.raises(CorruptError) as expected:
        open_checkpoint(damaged)
    notes: list[str] = []
    with connected(cluster.address, notes.append) as nodes:
        with pytest.raises(CorruptError) as caught:
            list(nodes.results(open_checkpoint, {"a": (damaged,), "b": (damaged,)}))
        with pytest.raises(UsageError, match=r"no such file.* on node .*every node must see"):
            list(nodes.results(open_checkpoint, {"a": (tmp_path / "none",)}))
        with pytest.raises(TypeError):  # a defect of ours
            list(nodes.results(open_checkpoint, {"a": ()}))
    assert str(caught.value) == str(expected.value)
    assert notes == []


def test_file_that_changes_between_two_tasks_is_named(
    cluster: Any, base: Path, target: Path, tmp_path: Path
) -> None:
    changed = sorted(target.glob("*.safetensors"))[0]

    def touch(done: int, total: int) -> None:
        os.utime(changed, ns=(1, done))

    with pytest.raises(UnavailableError):
        sparsediff.ray.make(
            base, target, tmp_path / "p", address=cluster.address, parts=12, progress=touch
        )
    assert not (tmp_path / "p").exists()


def test_refusals(cluster: Any, cli: Run, base: Path, target: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    make = "make", base, target, "-o", out, "--ray"
    refused(cli(*make, "nowhere"), EXIT["unavailable"], "no Ray cluster at nowhere")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ray.init", None)  # which would take minutes
        refused(cli(*make, "127.0.0.1:1"), EXIT["unavailable"], "no Ray cluster at 127.0.0.1:1")
    assert cli(*make, "auto", "--part", "1/2")[0] == EXIT["usage"]
    assert cli(*make, "auto", "-j", "1")[0] == EXIT["usage"]
    out.write_bytes(b"")
    refused(cli(*make, cluster.address), EXIT["usage"], "--force")


def test_lost_node_costs_only_its_parts(cluster: Any, tmp_path: Path) -> None:
    base, target = tmp_path / "a", tmp_path / "b"
    before, after = training_pair(1 << 22)
    write_safetensors(base, {f"t{i}": before for i in range(4)})
    write_safetensors(target, {f"t{i}": after for i in range(4)})
    notes: list[str] = []
    with one_node_lost(cluster):
        sparsediff.ray.make(
            base, target, tmp_path / "p", address=cluster.address, parts=40, note=notes.append
        )
    assert len(notes) == 1
    assert "was lost with its worker or node" in notes[0]
    assert (tmp_path / "p").read_bytes() == one_machine(base, target, tmp_path)


def test_interrupt_ends_all_tasks_and_leaves_nothing(cluster: Any, tmp_path: Path) -> None:
    base, target = tmp_path / "a", tmp_path / "b"
    before, after = training_pair(1 << 22)
    write_safetensors(base, {f"t{i}": before for i in range(4)})
    write_safetensors(target, {f"t{i}": after for i in range(4)})
    nodes = raylets(*cluster.worker_nodes)
    process = start("make", base, target, "--ray", cluster.address, "-o", tmp_path / "p")
    worker = stop_at_work(*nodes)
    os.kill(process.pid, signal.SIGINT)
    os.kill(worker, signal.SIGCONT)
    code, out, err = finish(process)
    assert (code, out, err) == (130, "", "sparsediff: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]  # nor a file of ours
    wait_until(lambda: not is_at_work(worker, *nodes), "end of the task")


def test_without_ray_one_line_says_what_to_install(
    cli: Run, base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = cli("make", base, target, "--ray", "auto", "-o", tmp_path / "p")
    refused(result, EXIT["usage"], "pip install ray")
