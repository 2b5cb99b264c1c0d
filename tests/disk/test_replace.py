"""--force: what may be written over, and what stays, whatever was asked for."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsediff import UsageError, make_patch
from sparsediff.disk.replace import check_output, check_replaceable
from tests.conftest import Run
from tests.support.pairs import model_directory, tree


@pytest.fixture
def patch(base: Path, target: Path, tmp_path: Path) -> Path:
    make_patch(base, target, tmp_path / "p.sdiff")
    return tmp_path / "p.sdiff"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory full of a user's things, with a project to work in."""
    place = tmp_path / "home"
    (place / "project" / "src").mkdir(parents=True)
    (place / "thesis.tex").write_text("three years of work")
    (place / "project" / "src" / "train.py").write_text("print('training')")
    monkeypatch.chdir(place / "project")
    return place


@pytest.mark.parametrize("output", [".", "..", "../..", "src/..", "../project", "/"])
def test_place_one_works_in_is_not_replaced(
    output: str, cli: Run, base: Path, patch: Path, home: Path
) -> None:
    before = tree(home)
    code, out, err = cli("apply", "-f", base, patch, "-o", output)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert tree(home) == before


def test_empty_working_directory_is_not_replaced_either(
    cli: Run, base: Path, patch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = cli("apply", "-f", base, patch, "-o", ".")
    assert (code, "would replace the working directory" in err) == (2, True)
    assert Path.cwd().is_dir()


def test_home_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users" / "me").mkdir(parents=True)

    class User:
        pw_dir = str(tmp_path / "users" / "me")

    monkeypatch.setattr("pwd.getpwuid", lambda uid: User)
    for place in (tmp_path / "users" / "me", tmp_path / "users"):
        with pytest.raises(UsageError, match="would replace the home directory"):
            check_output(place, force=True)


def test_mount_point_is_not_replaced() -> None:
    with pytest.raises(UsageError, match="would replace a mount point"):
        check_output(Path("/proc"), force=True)


def _notes(out: Path) -> None:
    (out / "notes.md").write_text("do not lose")


def _notes_below(out: Path) -> None:
    (out / "experiments" / "1").mkdir(parents=True)
    (out / "experiments" / "1" / "notes.md").write_text("do not lose")


def _repository(out: Path) -> None:
    subprocess.run(["git", "init", "-q", out], check=True)


def _link(out: Path) -> None:
    (out.parent / "elsewhere").mkdir()
    (out / "more").symlink_to(out.parent / "elsewhere")


def _linked_file(out: Path) -> None:
    os.rename(out / "config.json", out.parent / "config.json")
    (out / "config.json").symlink_to(out.parent / "config.json")


def _pipe(out: Path) -> None:
    os.mkfifo(out / "pipe")


def _socket(out: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(out)  # the name of a socket must be short
        try:
            s.bind("socket")
        finally:
            os.chdir(here)


def _other_checkpoint(out: Path) -> None:
    model_directory(out / "step_7")


def _other_weights(out: Path) -> None:
    (out / "another-model.gguf").write_bytes(b"GGUF of somebody")


@pytest.mark.parametrize(
    "spoil",
    [
        _notes,
        _notes_below,
        _repository,
        _link,
        _linked_file,
        _pipe,
        _socket,
        _other_checkpoint,
        _other_weights,
    ],
)
def test_directory_with_other_things_is_not_replaced(
    spoil: Callable[[Path], None], cli: Run, base: Path, patch: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(base, out)
    spoil(out)
    before = sorted((p, p.lstat().st_ino) for p in out.rglob("*"))
    code, printed, err = cli("apply", "-f", base, patch, "-o", out)
    assert (code, printed, err.count("\n")) == (2, "", 1), err
    assert "will not be replaced, for it holds" in err
    assert sorted((p, p.lstat().st_ino) for p in out.rglob("*")) == before
    assert not [p for p in tmp_path.iterdir() if "sparsediff-tmp" in p.name]


def test_run_directory_is_not_replaced(cli: Run, base: Path, patch: Path, tmp_path: Path) -> None:
    for step in ("step_1", "step_2"):
        shutil.copytree(base, tmp_path / "run" / step)
    before = tree(tmp_path / "run")
    assert cli("apply", "-f", base, patch, "-o", tmp_path / "run")[0] == 2
    assert tree(tmp_path / "run") == before


def test_checkpoint_and_earlier_output_are_replaced(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ways: tuple[Callable[[], object], ...] = (
        lambda: shutil.copytree(base, out),
        out.mkdir,
        lambda: (out / "empty" / "below").mkdir(parents=True),
        lambda: out.write_text("a file in the way"),
        lambda: out.symlink_to(target),
    )
    for make in ways:
        make()
        assert cli("apply", base, patch, "-o", out)[0] == 2  # not without being asked
        assert cli("apply", "-f", base, patch, "-o", out)[0] == 0
        assert tree(out) == tree(target)
        assert cli("apply", "-f", base, patch, "-o", out)[0] == 0
        assert tree(out) == tree(target)
        shutil.rmtree(out)
    assert target.is_dir()


def test_what_a_killed_update_in_place_left_is_replaced_with_the_rest(
    cli: Run, base: Path, target: Path, patch: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(base, out)
    (out / ".config.json.sparsediff-tmp").write_text("half")
    assert cli("apply", "-f", base, patch, "-o", out)[0] == 0
    assert tree(out) == tree(target)


def test_what_came_meanwhile_is_kept(tmp_path: Path) -> None:
    from sparsediff.disk.outputs import staged_directory

    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")

    def replace() -> None:
        with staged_directory(out, force=True, replaceable={"a"}) as staged:
            (staged / "a").write_text("new")
            (out / "notes").write_text("written while the new one was made")

    with pytest.raises(UsageError, match="notes"):
        replace()
    assert tree(out) == {"a": b"old", "notes": b"written while the new one was made"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("verb", ["make", "squash", "export"])
def test_no_verb_makes_a_directory_a_file(
    verb: str, cli: Run, base: Path, target: Path, patch: Path, home: Path
) -> None:
    before = tree(home)
    args = {"make": (base, target), "squash": (base, patch), "export": (base, patch)}[verb]
    for output in (".", "..", home, home / "project" / "src"):
        code, _, err = cli(verb, "-f", *args, "-o", output)
        assert (code, err.count("\n")) == (2, 1)
    assert tree(home) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_other_file_system_inside_is_not_entered(tmp_path: Path) -> None:
    inside = tmp_path / "out" / "inside"
    inside.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(inside)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        (inside / "a").write_text("of another disk")
        with pytest.raises(UsageError, match="another file system"):
            check_replaceable(tmp_path / "out", {"inside/a"})
    finally:
        subprocess.run(["umount", str(inside)], check=True)
