"""make on a cluster of Ray: the patch of one machine, whatever happens to the nodes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import sparsediff.ray
from sparsediff import make_patch
from sparsediff.checkpoint import open_checkpoint
from sparsediff.errors import CorruptError, UnavailableError, UsageError
from sparsediff.ray.cluster import connected
from tests.conftest import Run
from tests.support.pairs import training_pair, write_safetensors
from tests.support.processes import finish, start
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
    assert cli(*make, "auto", "--part", "1/2")[0] == EXIT["usage"]
    assert cli(*make, "auto", "-j", "1")[0] == EXIT["usage"]
    out.write_bytes(b"")
    refused(cli(*make, cluster.address), EXIT["usage"], "--force")


def test_lost_node_costs_only_its_parts(cluster: Any, tmp_path: Path) -> None:
    base, target = tmp_path / "a", tmp_path / "b"
    before, after = training_pair(1 << 22)
    write_safetensors(base, {f"t{i}": before for i in range(4)})
    write_safetensors(target, {f"t{i}": after for i in range(4)})
    lost = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    stopped: list[int] = []

    def kill() -> None:
        stopped.append(stop_at_work(lost.all_processes["raylet"][0].process.pid))
        cluster.remove_node(lost, allow_graceful=False)
        os.kill(stopped[0], signal.SIGKILL)  # with its machine

    killer = threading.Thread(target=kill)
    killer.start()
    notes: list[str] = []
    sparsediff.ray.make(
        base, target, tmp_path / "p", address=cluster.address, parts=40, note=notes.append
    )
    killer.join()
    assert stopped
    assert len(notes) == 1
    assert "was lost with its worker or node" in notes[0]
    assert (tmp_path / "p").read_bytes() == one_machine(base, target, tmp_path)


def stop_at_work(*raylets: int) -> int:
    """Stop a worker of one of the nodes in the middle of a task; returns its process id."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and is_at_work(process, *raylets):
                os.kill(int(process.name), signal.SIGSTOP)
                if is_at_work(process, *raylets):
                    return int(process.name)
                os.kill(int(process.name), signal.SIGCONT)
    raise AssertionError("no worker of the node was seen at work")


def is_at_work(process: Path, *raylets: int) -> bool:
    """Whether a process is a worker of these raylets that has a task, which Ray makes its title."""
    try:
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        return parent in raylets and (process / "cmdline").read_bytes().startswith(b"ray::_guarded")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_interrupt_ends_all_tasks_and_leaves_nothing(cluster: Any, tmp_path: Path) -> None:
    base, target = tmp_path / "a", tmp_path / "b"
    before, after = training_pair(1 << 22)
    write_safetensors(base, {f"t{i}": before for i in range(4)})
    write_safetensors(target, {f"t{i}": after for i in range(4)})
    raylets = [n.all_processes["raylet"][0].process.pid for n in cluster.worker_nodes]
    process = start("make", base, target, "--ray", cluster.address, "-o", tmp_path / "p")
    worker = stop_at_work(*raylets)
    os.kill(process.pid, signal.SIGINT)
    os.kill(worker, signal.SIGCONT)
    code, out, err = finish(process)
    assert (code, out, err) == (130, "", "sparsediff: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]  # nor a file of ours
    end = time.monotonic() + 30
    while is_at_work(Path(f"/proc/{worker}"), *raylets) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_at_work(Path(f"/proc/{worker}"), *raylets)


def test_without_ray_one_line_says_what_to_install(
    cli: Run, base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = cli("make", base, target, "--ray", "auto", "-o", tmp_path / "p")
    refused(result, EXIT["usage"], "pip install ray")
