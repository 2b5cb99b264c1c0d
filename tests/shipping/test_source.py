"""Finding complete checkpoints: modes, names, what is complete, clocks that jump."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsediff import UnavailableError, UsageError
from sparsediff.shipping import source as module
from sparsediff.shipping.snapshot import State, identity, states
from sparsediff.shipping.source import Candidate, Rule, Survey, survey
from tests.support.pairs import model_directory, safetensors_bytes, training_pair


def find(source: Path, rule: Rule, *, after: int | None = None) -> list[Candidate]:
    return survey(source, rule, after=after).complete


def incomplete(source: Path, rule: Rule) -> list[tuple[str, str]]:
    return survey(source, rule).incomplete


WHOLE = safetensors_bytes({"w": training_pair(200)[0]})
DEFAULT = Rule()


def aged(path: Path, seconds: float = 100.0) -> Path:
    """Let all files below ``path`` have changed so long ago."""
    then = time.time_ns() - int(seconds * 1e9)
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            os.utime(file, ns=(then, then))
    return path


def small(path: Path, data: bytes = WHOLE) -> Path:
    """An old checkpoint: a file if the name has a suffix of weights, else a directory."""
    file = path if path.suffix in (".safetensors", ".ckpt", ".pt") else path / "model.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return aged(path)


def names(candidates: list[Candidate]) -> list[str]:
    return [c.name for c in candidates]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with two checkpoints of a trainer, and its own files."""
    for step in (100, 1200):
        aged(model_directory(tmp_path / "run" / f"checkpoint-{step}", seed=step))
    (tmp_path / "run" / "trainer.log").write_text("loss 1")
    return tmp_path / "run"


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds slept, which then take no time."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda s: slept.append(s) if s else None)
    return slept


# Which entries


def test_run_directory(run: Path, naps: list[float]) -> None:
    first, second = find(run, DEFAULT)
    assert (first.name, first.number, first.path) == ("checkpoint-100", 100, run / "checkpoint-100")
    assert second.number == 1200  # in numeric order, not in that of names
    assert first.fingerprint == identity(first.path)
    assert (
        first.modified
        == max(f.stat().st_mtime_ns for f in first.path.iterdir() if f.is_file()) / 1e9
    )
    assert incomplete(run, DEFAULT) == []
    assert names(find(run, DEFAULT, after=100)) == ["checkpoint-1200"]
    assert find(run, DEFAULT, after=1200) == []
    assert naps == []


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("checkpoint-1200", 1200),  # Hugging Face
        ("global_step_40", 40),  # verl
        ("global_step40", 40),  # DeepSpeed
        ("iter_0000500", 500),  # Megatron
        ("iter_0000500.safetensors", 500),
        ("epoch=3-step=100.ckpt", 100),  # Lightning
        ("epoch=3-step=100", 100),
        ("step_000100", 100),
        ("000100", 100),
        ("step_0", 0),
        ("model-00500.safetensors", 500),
        ("temp=0.7-step=5", 5),
    ],
)
def test_names_that_carry_a_number(name: str, number: int, tmp_path: Path) -> None:
    small(tmp_path / name)
    (found,) = find(tmp_path, DEFAULT)
    assert (found.name, found.number, found.path) == (name, number, tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        ".step_200",
        ".step_200.sparsediff-tmp",
        "step_200.tmp",
        "step_200.partial",
        "tmp-checkpoint-200",
        "tmp_step_200",
        "200.orbax-checkpoint-tmp-300",
        "mp_rank_00",
        "val_loss=1.25.ckpt",
        "step=200-v1.ckpt",
        "final",
        "train.log.1",
        "model-00001-of-00001.safetensors",
    ],
)
def test_names_that_do_not(name: str, tmp_path: Path) -> None:
    small(tmp_path / "step_100")
    if name == "train.log.1":
        (tmp_path / name).write_text("log")
    else:
        small(tmp_path / name)
    found = survey(tmp_path, DEFAULT)
    assert found.incomplete == []
    said = name.endswith(".ckpt") or name == "mp_rank_00"  # what might be meant as a checkpoint
    assert found.others == ([name] if said else [])
    assert names(find(tmp_path, DEFAULT)) == ["step_100"]


def test_a_directory_of_shards_is_one_checkpoint(base: Path) -> None:
    (found,) = find(aged(base), DEFAULT)
    assert (found.name, found.number, found.path) == ("base", None, base)
    small(base / "model-00500.safetensors")  # beside model-00001-of-00002.safetensors
    small(base / "rng_state_0.pt")
    assert [(c.name, c.number) for c in find(base, DEFAULT)] == [("base", None)]
    (base / "model.safetensors.index.json").unlink()
    assert [(c.name, c.number) for c in find(base, DEFAULT)] == [("base", None)]


def test_a_run_directory_may_hold_the_final_model_too(run: Path) -> None:
    aged(model_directory(run))
    assert names(find(run, DEFAULT)) == ["checkpoint-100", "checkpoint-1200"]


def test_single_file_is_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "step_7.safetensors")
    (found,) = find(tmp_path / "step_7.safetensors", DEFAULT)
    assert (found.name, found.number) == ("step_7.safetensors", None)
    assert found.fingerprint == identity(found.path)
    monkeypatch.chdir(aged(model_directory(tmp_path / "live")))
    assert names(find(Path("."), DEFAULT)) == ["live"]


def test_explicit_pattern(tmp_path: Path) -> None:
    for name in ("tmp-3", "a7b", "step_1", "x9"):
        small(tmp_path / name)
    (tmp_path / "dump12").write_bytes(b"no suffix of weights")
    aged(tmp_path)
    rule = Rule(pattern=r"(?:tmp-|a|dump)(\d+)b?")
    assert [(c.name, c.number) for c in find(tmp_path, rule)] == [
        ("tmp-3", 3),
        ("a7b", 7),
        ("dump12", 12),
    ]


def test_pattern_never_means_what_a_killed_run_left(tmp_path: Path) -> None:
    for name in (".step_1", ".step_2.sparsediff-tmp", ".step_3.sparsediff-tmp.0"):
        small(tmp_path / name)
    assert names(find(tmp_path, Rule(pattern=r"\.step_(\d+).*"))) == [".step_1"]


def test_empty_pattern_says_single_checkpoint(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    for part in ("text_encoder", "text_encoder_2", "tokenizer_2"):
        small(pipeline / part)
    (pipeline / "model_index.json").write_text("{}")
    aged(pipeline)
    with pytest.raises(UsageError, match="`pattern`"):
        find(pipeline, DEFAULT)
    assert names(find(pipeline, Rule(pattern=""))) == ["pipeline"]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("step_(", "no regular expression"),
        (r"step_\d+", "one group"),
        (r"(step)_(\d+)", "one group"),
        (r"(step)_\d+", "matches no number"),
        (r"step_\d+(x)?", "matches no number"),
        (r"iter_(\d+)", "no entry of the directory matches the pattern, expected iter_"),
    ],
)
def test_unusable_pattern(pattern: str, problem: str, tmp_path: Path) -> None:
    small(tmp_path / "step_1")
    small(tmp_path / "model.safetensors")
    with pytest.raises((UsageError, UnavailableError), match=problem):
        find(tmp_path, Rule(pattern=pattern))


@pytest.mark.parametrize(
    ("first", "second", "pattern"),
    [("checkpoint-100", "checkpoint-0100", r".*-(1\d+)"), ("actor_1", "critic_1", r"actor_(\d+)")],
)
def test_same_number_twice_is_refused(
    first: str, second: str, pattern: str, tmp_path: Path
) -> None:
    small(tmp_path / first)
    small(tmp_path / second)
    with pytest.raises(UsageError, match="give a `pattern`") as info:
        find(tmp_path, DEFAULT)
    assert first in str(info.value)
    assert second in str(info.value)
    assert "\n" not in str(info.value)
    assert names(find(tmp_path, Rule(pattern=pattern))) == [first]


def test_links(tmp_path: Path) -> None:
    small(tmp_path / "elsewhere" / "real")
    run = tmp_path / "run"
    small(run / "step_100")
    (run / "latest").symlink_to("step_100")
    (run / "a_100").symlink_to("step_100")  # the same number, and before it in order
    (run / "latest_200").symlink_to("step_100")
    (run / "step_300").symlink_to(tmp_path / "elsewhere" / "real")
    (run / "step_400").symlink_to("nowhere")
    (run / "step_500").symlink_to("step_500")
    assert names(find(run, DEFAULT)) == ["step_100", "step_300"]
    assert names(find(run / "latest", DEFAULT)) == ["latest"]


@pytest.mark.parametrize("content", [[], ["train.log", "config.json"], ["final/model.safetensors"]])
def test_neither_run_nor_checkpoint(content: list[str], tmp_path: Path) -> None:
    """Above all: a run that has no checkpoint yet is not shipped as one."""
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(WHOLE)
    with pytest.raises(
        UnavailableError,
        match=r"no checkpoint here .*`marker`.* expected entries numbered like step",
    ):
        find(tmp_path, DEFAULT)


def test_unusable_source_or_marker(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find(tmp_path / "missing", DEFAULT)
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(UsageError):
        find(tmp_path, DEFAULT)
    for marker in ("", "../DONE", "/DONE"):
        with pytest.raises(UsageError, match="unsafe name of a marker"):
            find(tmp_path, Rule(marker=marker))


def test_other_numbered_entries_of_a_run(run: Path) -> None:
    """Directories without weights are not checkpoints; files without their suffix not even seen."""
    (run / "logs_2024").mkdir()
    (run / "logs_2024" / "a.txt").write_text("x")
    (run / "metrics_100.json").write_text("{}")
    (run / "step_9").mkdir()
    os.mkfifo(run / "step_10.pt")
    aged(run)
    found = survey(run, DEFAULT)
    complete, others = found.complete, found.incomplete
    assert names(complete) == ["checkpoint-100", "checkpoint-1200"]
    assert others == []
    (run / "checkpoint-9").mkdir()
    (run / "checkpoint-10").mkdir()
    (run / "checkpoint-10" / "a.txt").write_text("x")
    assert survey(run, DEFAULT).incomplete == [
        ("checkpoint-9", "holds no files"),
        ("checkpoint-10", module._UNKNOWN),
    ]


# What is complete


def only_reason(source: Path, rule: Rule = DEFAULT) -> str:
    found = survey(source, rule)
    complete, others = found.complete, found.incomplete
    assert names(complete) == ["checkpoint-100"]
    ((name, reason),) = others
    assert name == "checkpoint-1200"
    assert "\n" not in reason
    return reason


@pytest.mark.parametrize("indexed", [True, False])
def test_missing_shard(indexed: bool, run: Path) -> None:
    (run / "checkpoint-1200" / "model-00002-of-00002.safetensors").unlink()
    if indexed:
        assert "a shard is missing, expected model-00002-of" in only_reason(run)
    else:
        (run / "checkpoint-1200" / "model.safetensors.index.json").unlink()
        assert "shards of model*.safetensors are missing, expected 2, found 1" in only_reason(run)


def test_reasons_stay_on_one_line(run: Path) -> None:
    (run / "checkpoint-1200" / "a\nb-00001-of-00002.pt").touch()
    (run / "checkpoint-1200" / "model.safetensors.index.json").unlink()
    aged(run)
    assert "a\\x0ab" in only_reason(run)
    (run / "x\ny").touch()
    with pytest.raises(UsageError, match=r"^x\\x0ay: group") as info:
        find(run, Rule(pattern=r"x\n(.)"))
    assert "\n" not in str(info.value)


def test_index_below_the_checkpoint_and_stray_shards(run: Path) -> None:
    """Names of an index are relative to it; what it does not name may be left from before."""
    step = run / "checkpoint-1200"
    (step / "model-00001-of-00009.safetensors").write_bytes(WHOLE)
    for file in [*step.iterdir()]:
        if file.is_file():
            (step / "actor").mkdir(exist_ok=True)
            file.rename(step / "actor" / file.name)
    aged(run)
    assert names(find(run, DEFAULT)) == ["checkpoint-100", "checkpoint-1200"]
    (step / "actor" / "model-00001-of-00002.safetensors").unlink()
    assert "a shard is missing" in only_reason(run)


MALFORMED = ["", "{", "[]", "{}", "[" * 100_000, "\xff"]
MALFORMED += [f'{{"weight_map": {text}}}' for text in ("1", "[]", '{"a": [1]}', '{"a": 1}')]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_index(text: str, run: Path) -> None:
    (run / "checkpoint-1200" / "model.safetensors.index.json").write_text(text, "latin-1")
    aged(run)
    assert "malformed index of shards" in only_reason(run)


def test_index_that_climbs(run: Path) -> None:
    index = {"weight_map": {"a": "../checkpoint-100/model-00001-of-00002.safetensors"}}
    (run / "checkpoint-1200" / "model.safetensors.index.json").write_text(json.dumps(index))
    aged(run)
    assert "a shard is missing" in only_reason(run)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "file of weights is empty"),
        (WHOLE[:-1], "malformed safetensors"),
        (WHOLE[:50], "malformed safetensors"),
        (b"\xff" * 100, "header exceeds the file"),
        ((1 << 20).to_bytes(8, "little") + b"[" * (1 << 20), "not a JSON object"),
    ],
)
def test_broken_safetensors_makes_one_incomplete(data: bytes, reason: str, run: Path) -> None:
    (run / "checkpoint-1200" / "model-00001-of-00002.safetensors").write_bytes(data)
    aged(run)
    assert reason in only_reason(run)
    assert "model-00001-of-00002.safetensors" in only_reason(run)


def test_link_loop_or_fifo_makes_one_incomplete(run: Path) -> None:
    (run / "checkpoint-1200" / "up").symlink_to("..")
    assert "loop" in only_reason(run)
    (run / "checkpoint-1200" / "up").unlink()
    os.mkfifo(run / "checkpoint-1200" / "fifo")
    assert "neither a file nor a directory" in only_reason(run)


@contextmanager
def written(path: Path, step: float = 0.1, ahead: float = 0.0) -> Iterator[None]:
    """Let a thread write into ``path`` meanwhile; with a clock that is ``ahead``."""
    stop = threading.Event()

    def write() -> None:
        with open(path, "ab", buffering=0) as file:
            while not stop.wait(step):
                file.write(b"x" * 100)
                if ahead:
                    os.utime(path, (time.time() + ahead,) * 2)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        time.sleep(2 * step)
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("rule", "ahead"), [(DEFAULT, 0.0), (Rule(quiet=0.5), 3600.0)])
def test_growing_file_is_not_complete(rule: Rule, ahead: float, run: Path) -> None:
    with written(run / "checkpoint-1200" / "optimizer.pt", ahead=ahead):
        assert only_reason(run, rule) == "still being written"
    assert names(find(run, rule)) == ["checkpoint-100", "checkpoint-1200"]


def test_growing_single_file(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    with written(file):
        assert survey(file, DEFAULT) == Survey([], [("model.pt", "still being written")], [])
    start = time.monotonic()
    assert names(find(file, DEFAULT)) == ["model.pt"]
    assert time.monotonic() - start >= 0.9


def test_file_replaced_between_the_looks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = run / "checkpoint-1200" / "config.json"
    then = victim.stat().st_mtime_ns

    def replace(_: float) -> None:
        (run / "new").write_bytes(victim.read_bytes())
        os.utime(run / "new", ns=(then, then))
        os.replace(run / "new", victim)  # same size, same mtime, other inode

    monkeypatch.setattr(time, "sleep", replace)
    assert only_reason(run) == "still being written"


def test_one_wait_for_all(run: Path, naps: list[float]) -> None:
    aged(run, 1)
    assert len(find(run, DEFAULT)) == 2
    assert naps == [1.0]


def test_marker(run: Path, naps: list[float]) -> None:
    rule = Rule(marker="DONE")
    assert survey(run, rule).incomplete == [
        ("checkpoint-100", "marker DONE is missing"),
        ("checkpoint-1200", "marker DONE is missing"),
    ]
    for step in (100, 1200):
        aged(run / f"checkpoint-{step}", 2)
        (run / f"checkpoint-{step}" / "DONE").touch()
    assert len(find(run, rule)) == 2
    assert naps == []  # it decides …
    (run / "checkpoint-1200" / "model-00002-of-00002.safetensors").unlink()
    assert "a shard is missing" in only_reason(run, rule)  # … but is not believed everything


def test_marker_of_the_write_before(tmp_path: Path, naps: list[float]) -> None:
    """A marker older than a file says nothing of that file: two looks, as without one."""
    live = small(tmp_path / "live")
    (live / "DONE").touch()
    aged(live, 60)
    (live / "model.safetensors").touch()
    assert names(find(live, Rule(marker="DONE"))) == ["live"]
    assert naps == [1.0]


@pytest.mark.parametrize("marker", ["done", ".done"])
def test_marker_beside_a_file(marker: str, tmp_path: Path) -> None:
    for step in (1, 2):
        small(tmp_path / f"step_{step}.safetensors")
    (tmp_path / "step_1.safetensors.done").touch()
    found = survey(tmp_path, Rule(marker=marker))
    complete, others = found.complete, found.incomplete
    assert names(complete) == ["step_1.safetensors"]
    assert others == [("step_2.safetensors", f"marker {marker} is missing")]


def test_marker_makes_any_directory_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "array").write_bytes(b"weights of another kind")
    (tmp_path / "DONE").touch()
    assert names(find(tmp_path, Rule(marker="DONE"))) == [tmp_path.name]


def test_quiet(run: Path, naps: list[float]) -> None:
    aged(run / "checkpoint-1200", 30)
    assert len(find(run, Rule(quiet=10))) == 2
    assert only_reason(run, Rule(quiet=60)) == "changed less than 60 s ago"
    assert naps == []


@pytest.mark.parametrize(
    ("ahead", "quiet", "nap"),
    [(3600, 0, 1.0), (3600, 2, 2.0), (3600, 60, 5.0), (-1e9, 0, None), (-1e9, 60, None)],
)
def test_clock_that_jumped(
    ahead: float, quiet: float, nap: float | None, run: Path, naps: list[float]
) -> None:
    aged(run / "checkpoint-1200", -ahead)
    assert len(find(run, Rule(quiet=quiet))) == 2
    assert naps == ([] if nap is None else [nap])


def test_clock_a_little_ahead_is_waited_out(run: Path, naps: list[float]) -> None:
    aged(run / "checkpoint-1200", -20)
    assert only_reason(run, Rule(quiet=60)) == "changed less than 60 s ago"
    assert naps == []


# What vanishes


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_pruned_while_looked_at(calls: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(run / "checkpoint-7")
    left = calls

    def pruned(path: Path) -> list[State]:
        nonlocal left
        left -= path.name == "checkpoint-7"
        if left == 0:
            shutil.rmtree(run / "checkpoint-7", ignore_errors=True)
        return states(path)

    monkeypatch.setattr(module, "states", pruned)
    found = survey(run, DEFAULT)
    complete, others = found.complete, found.incomplete
    expected = ["checkpoint-7"] * (calls == 4) + ["checkpoint-100", "checkpoint-1200"]
    assert (names(complete), others) == (expected, [])  # it is looked at three times


def test_one_that_the_disk_does_not_give_is_not_taken_for_pruned(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if os.fspath(path) == str(run / "checkpoint-100"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return stat(path, *args, **kwargs)

    stat = os.stat
    monkeypatch.setattr(os, "stat", broken)
    with pytest.raises(UnavailableError, match="checkpoint-100: input/output error"):
        survey(run, DEFAULT)
    monkeypatch.undo()
    (run / "checkpoint-7").symlink_to("nowhere")
    assert names(survey(run, DEFAULT).complete) == ["checkpoint-100", "checkpoint-1200"]


def test_all_pruned_while_listed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(path: Path) -> object:
        listing = list(os_scandir(path))
        shutil.rmtree(run)
        run.mkdir()
        return nullcontext(listing)

    os_scandir = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", listed)
        patch.setattr(shutil, "rmtree", lambda path: subprocess.run(["rm", "-r", path], check=True))
        assert survey(run, DEFAULT) == Survey([], [], [])
    with pytest.raises(UnavailableError, match="no checkpoint here"):
        find(run, DEFAULT)


def test_trainer_that_writes_and_prunes_meanwhile(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small(run / "step_0")
    stop = threading.Event()

    def train() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            small(tmp_path / "next").rename(run / f"step_{step}")
            if step >= 5:
                shutil.rmtree(run / f"step_{step - 5}")

    thread = threading.Thread(target=train)
    thread.start()
    try:
        seen: set[str] = set()
        unfinished: set[str] = set()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            found = survey(run, DEFAULT)
            complete, others = found.complete, found.incomplete
            seen.update(names(complete))
            unfinished.update(name for name, _ in others)
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 5
    assert unfinished.isdisjoint(os.listdir(run))  # only what was being pruned


def test_cut_off_archive_of_torch_is_incomplete(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"w": torch.arange(1000.0)}, whole)
    data = whole.read_bytes()
    small(tmp_path / "run" / "step_1" / "model.pt", data)
    small(tmp_path / "run" / "step_2" / "model.pt", data[:-100])
    aged(tmp_path / "run")
    found = survey(tmp_path / "run", DEFAULT)
    complete, ((name, why),) = found.complete, found.incomplete
    assert names(complete) == ["step_1"]
    assert name == "step_2"
    assert "cut off?" in why
