"""Whatever names files, tensors and versions have, each verb prints lines that are lines."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff import UsageError, make_patch
from sparsediff.errors import one_line
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.pairs import Stored, training_pair, write_safetensors
from tests.support.runs import Trainer

EVIL = "a\nsparsediff: all is well\x1b[2J\r\x9b31m\u202eb"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Files, directories and tensors, all of the evil name."""
    root = tmp_path / EVIL
    old, new = training_pair(500)
    for name, tensor in (("base", old), ("target", new)):
        tensors: dict[str, Stored] = {EVIL: tensor, f"new{EVIL}" if name == "base" else "x": old}
        write_safetensors(root / name / f"{EVIL}.safetensors", tensors)
        (root / name / f"{name}{EVIL}.json").write_text("{}")
    make_patch(root / "base", root / "target", root / f"{EVIL}.sdiff")
    return root


def lines_of(result: tuple[int, str, str]) -> None:
    """The result, shown to consist of printable lines, of which none is forged."""
    _, out, err = result
    for line in (out + err).splitlines():
        assert all(c.isprintable() for c in line), ascii(line)
        assert not line.startswith("sparsediff: all is well")


def test_a_line_of_our_own_holds_nothing_in_hexadecimal(tmp_path: Path, cli: Run) -> None:
    """Which stands for what a name holds."""
    for name, tensor in zip(("base", "target"), training_pair(500), strict=True):
        write_safetensors(tmp_path / name / "m.safetensors", {"x": tensor})
    patch = tmp_path / "patch"
    shown = [
        cli("make", tmp_path / "base", tmp_path / "target", "-o", patch),
        cli("show", patch),
        cli("stats", patch),
        cli("stats", tmp_path / "base", tmp_path / "target", "--bound", "--bandwidth", "1Gbps"),
        cli("verify", patch, "--base", tmp_path / "base", "--target", tmp_path / "target"),
    ]
    assert all(code == 0 and "\\x" not in out + err for code, out, err in shown), shown


def test_every_verb(place: Path, cli: Run) -> None:
    base, target, patch = place / "base", place / "target", place / f"{EVIL}.sdiff"
    ways: list[tuple[int, tuple[object, ...]]] = [
        (0, ("make", base, target, "-o", place / "made")),
        (0, ("apply", base, patch, "-o", place / "out")),
        (2, ("apply", base, patch, "-o", place / "out")),
        (10, ("apply", target, patch, "-o", place / "out2")),
        (2, ("apply", "-f", base, patch, "-o", place)),
        (0, ("verify", patch, "--base", base, "--target", target)),
        (10, ("verify", patch, "--base", target)),
        (11, ("verify", patch, "--target", base)),
        (11, ("verify", base / f"base{EVIL}.json")),
        (0, ("squash", base, patch, "-o", place / "squashed")),
        (0, ("show", patch)),
        (0, ("stats", patch)),
        (0, ("stats", patch, "--by", "tensor")),
        (0, ("stats", base, target, "--bound", "--bandwidth", "1Gbps")),
        (0, ("stats", base, target, base)),
        (0, ("export", patch, base, "-o", place / "exported")),
        (2, ("export", patch, place / "no", "-o", place / "exported2")),
        (2, ("ship", place / "no", place / "store")),
        (2, ("pull", place / "no", place / "dest")),
        (2, ("log", place / "no")),
        (2, ("check", place / "no")),
        (2, ("prune", place / "no", "--keep", "1")),
    ]
    for code, arguments in ways:
        result = cli(*arguments)
        assert result[0] == code, (arguments[0], result)
        lines_of(result)


def test_verbs_of_a_store(tmp_path: Path, cli: Run) -> None:
    root = tmp_path / EVIL
    trainer = Trainer(root / "run", n=200)
    trainer.save_steps(1)
    os.rename(trainer.run / "step_000001", trainer.run / f"{EVIL}_1")
    store, dest = root / "store", root / "dest"
    for arguments in (
        ("ship", trainer.run, store, "--pattern", r"(?s).*_(\d+)"),
        ("pull", store, dest),
        ("pull", store, dest),
        ("pull", store, dest, "--version", "no"),
        ("log", store),
        ("check", store),
        ("prune", store, "--keep", "1"),
    ):
        lines_of(cli(*arguments))
    next((store / "versions").rglob("*.sdiff")).unlink()
    for arguments in (("check", store), ("pull", store, root / "dest2")):
        result = cli(*arguments)
        assert result[0] == 11
        lines_of(result)


def test_problems_are_one_line_too() -> None:
    error = UsageError(f"no {EVIL}", file=EVIL, tensor=EVIL, expected=EVIL, found=EVIL)
    assert str(error).isprintable()
    assert one_line("plain, with ü and 漢字") == "plain, with ü and 漢字"


def test_state_of_ship_is_kept_nowhere_else(tmp_path: Path, cli: Run) -> None:
    """Patches of a user's that lie in the directory would be taken for leftovers."""
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1)
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "precious.sdiff").write_text("a user's")
    code, _, err = cli("ship", trainer.run, tmp_path / "store", "--state", patches)
    assert (code, "holds other things" in err) == (2, True)
    assert [p.name for p in patches.iterdir()] == ["precious.sdiff"]


def test_full_disk_is_named_by_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(base: object, target: object, output: Path, **options: object) -> object:
        made.append(output.name)
        return make_patch(base, target, output, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("sparsediff.shipping.ship.make_patch", make)
    trainer = Trainer(tmp_path / "run")
    trainer.save_steps(1, 2)
    ship(trainer.run, open_store(str(tmp_path / "store"), create=True))
    assert made == ["anchor.sdiff", "from-000001.sdiff"]


def test_terminal_that_shall_give_a_patch(place: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sparsediff", "apply", str(place / "base"), "-"]
    try:
        with subprocess.Popen(
            [*command, "-o", str(place / "out"), "-q"],
            stdin=theirs,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line == "sparsediff: note: reading the patch from standard input\n"
            process.terminate()
            assert process.wait(30) == 130
    finally:
        os.close(ours)
        os.close(theirs)
