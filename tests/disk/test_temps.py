"""Temporary names can be guessed: what others put there is neither written nor removed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from sparsediff import UsageError, apply_patch, make_patch
from sparsediff.disk.names import temp_sibling
from sparsediff.disk.temps import remove, scratch_directory
from tests.conftest import Run
from tests.support.pairs import model_directory, tree
from tests.support.refusals import EXIT, refused

SOMEBODY = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others")
KINDS = ["hard link", "pipe", *(["another's file", "another's directory"] * (os.geteuid() == 0))]


@pytest.fixture
def patches(base: Path, target: Path, tmp_path: Path) -> list[Path]:
    """From the base to the target and on, cut so differently that there is a step between."""
    steps = [base, target, model_directory(tmp_path / "next", lr=2e-6)]
    os.rename(steps[2] / "config.json", steps[2] / "renamed.json")
    made = []
    for i, pair in enumerate(pairwise(steps)):
        made.append(tmp_path / f"{i}.sdiff")
        make_patch(*pair, made[-1])
    return made


def plant(kind: str, path: Path) -> Path:
    """Put something of somebody else's at ``path``; returns what must stay as it is."""
    victim = path.parent / "victim"
    victim.write_text("precious")
    if kind == "hard link":
        os.link(victim, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "another's file":
        path.write_text("theirs")
        os.chown(path, SOMEBODY, SOMEBODY)
    else:
        path.mkdir()
        (path / "theirs").write_text("theirs")
        os.chown(path, SOMEBODY, SOMEBODY)
    return victim


def state(path: Path) -> object:
    status = path.lstat()
    return status.st_ino, status.st_uid, status.st_size, status.st_mtime_ns, status.st_nlink


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("verb", "part"),
    [
        ("make", None),
        ("apply", None),
        ("apply", 0),
        ("apply", 7),
        ("export", None),
        ("squash", None),
        ("squash", 0),
        ("in place", 0),
        ("in place", None),
    ],
)
def test_what_is_not_ours_is_refused_and_left_alone(
    kind: str, verb: str, part: int | None, cli: Run, base: Path, patches: list[Path]
) -> None:
    place = base.parent
    out = place / "out"
    args: tuple[object, ...]
    if verb == "in place":
        before, after = place / "a.bin", place / "b.bin"
        before.write_text("one")
        after.write_text("two")
        make_patch(before, after, place / "file.sdiff")
        out, args = before, ("apply", "--in-place", before, place / "file.sdiff")
    else:
        named = {
            "make": (base, place / "target"),
            "apply": (base, *patches),
            "export": (base, patches[0]),
            "squash": (base, *patches),
        }
        args = (verb, *named[verb], "-o", out)
    taken = temp_sibling(out, part)
    victim = plant(kind, taken)
    planted = state(taken)
    listed = sorted(p.name for p in place.iterdir())
    code, printed, err = cli(*args)
    assert (code, printed, err.count("\n")) == (2, "", 1), err
    assert "we did not make it" in err
    assert (state(taken), victim.read_text()) == (planted, "precious")
    assert sorted(p.name for p in place.iterdir()) == listed
    taken.unlink() if not taken.is_dir() else shutil.rmtree(taken)
    assert cli(*args)[0] == 0


def test_link_is_removed_but_not_followed(
    cli: Run, base: Path, target: Path, patches: list[Path], tmp_path: Path
) -> None:
    """It is ours by its owner: what had the place of an output may have been a link."""
    for left in (temp_sibling(tmp_path / "out"), temp_sibling(tmp_path / "out", 0)):
        left.symlink_to(base)
    before = tree(base)
    assert cli("apply", base, patches[0], "-o", tmp_path / "out")[0] == 0
    assert (tree(base), tree(tmp_path / "out")) == (before, tree(target))
    assert not list(tmp_path.glob(".out*"))


def test_a_directory_goes_with_its_links_and_not_with_what_they_lead_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("precious")
    gone = tmp_path / "gone"
    (gone / "a" / "b").mkdir(parents=True)
    (gone / "a" / "file").touch()
    (gone / "a" / "to a directory").symlink_to(kept)
    (gone / "a" / "b" / "to a file").symlink_to(kept / "file")
    (gone / "to nothing").symlink_to("nowhere")
    remove(gone)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root lists every directory")
def test_a_directory_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gone" / "closed").mkdir(parents=True)
    (tmp_path / "gone" / "closed" / "file").touch()
    (tmp_path / "gone" / "closed").chmod(0)
    try:
        with pytest.raises(PermissionError):
            remove(tmp_path / "gone")
    finally:
        (tmp_path / "gone" / "closed").chmod(0o700)


def test_leftover_does_not_pass_on_its_permissions(
    cli: Run, base: Path, target: Path, tmp_path: Path
) -> None:
    left = temp_sibling(tmp_path / "p")
    left.write_text("of a killed run")
    left.chmod(0o777)
    assert cli("make", base, target, "-o", tmp_path / "p")[0] == 0
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o666 & ~umask


@needs_root
def test_what_a_file_server_gives_to_one_user_is_ours(
    cli: Run, base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's files belong to nobody there, the killed run's as well as the next one's."""
    left = temp_sibling(tmp_path / "p")
    left.write_text("of a killed run")
    os.chown(left, SOMEBODY, SOMEBODY)
    monkeypatch.setattr("sparsediff.disk.temps._own_uid", lambda directory: SOMEBODY)
    assert cli("make", base, target, "-o", tmp_path / "p")[0] == 0


@needs_root
def test_in_a_shared_folder_as_a_plain_user(base: Path, target: Path, tmp_path: Path) -> None:
    """Somebody waits in /shared for the output of another."""
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.geteuid() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o055)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    trap = temp_sibling(shared / "out")
    trap.mkdir()
    trap.chmod(0o777)
    make_patch(base, target, tmp_path / "p.sdiff")
    apply_patch(base, tmp_path / "p.sdiff", tmp_path / "imports everything")
    child = os.fork()
    if child == 0:
        try:
            os.setuid(SOMEBODY)
            apply_patch(base, tmp_path / "p.sdiff", shared / "out")
        except UsageError as e:
            os._exit("we did not make it" in str(e))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert list(trap.iterdir()) == []
    assert not (shared / "out").exists()


@pytest.mark.parametrize("verb", ["make", "apply"])
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_where_there_are_no_locks(
    code: int,
    verb: str,
    base: Path,
    target: Path,
    patch: Path,
    tmp_path: Path,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on servers that keep none: it says where, and leaves nothing."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    place = tmp_path / "place"
    place.mkdir()
    inputs = {"make": (base, target), "apply": (base, patch)}[verb]
    refused(cli(verb, *inputs, "-o", place / "out"), EXIT["unavailable"], str(place))
    assert os.listdir(place) == []


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def test_scratch_of_a_killed_process_is_removed_by_the_next_that_of_a_living_one_stays(
    scratch: Path,
) -> None:
    program = """if True:
        from sparsediff.disk.temps import scratch_directory
        with scratch_directory() as room:
            (room / "half").write_bytes(bytes(1000))
            print(room, flush=True)
            input()
    """
    pipe = subprocess.PIPE
    for end in (signal.SIGKILL, None):
        other = subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe)
        assert other.stdin is not None
        assert other.stdout is not None
        theirs = Path(os.fsdecode(other.stdout.readline().strip()))
        assert theirs.stat().st_mode & 0o777 == 0o700
        if end is not None:
            other.send_signal(end)
            other.wait()
        with scratch_directory() as ours:
            assert set(scratch.iterdir()) == ({ours} if end else {ours, theirs})
        other.communicate(b"\n")
        assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_leaves_what_is_not_ours(kind: str, scratch: Path) -> None:
    named = temp_sibling(scratch / "sparsediff-0123456789abcdef")
    victim, before = plant(kind, named), state(named)
    other = temp_sibling(scratch / "model.safetensors")  # an output, where somebody has it made
    other.write_text("of another run")
    with scratch_directory():
        pass
    assert state(named) == before
    assert victim.read_text() == "precious"
    assert set(scratch.iterdir()) == {named, victim, other}


def test_scratch_that_another_took_for_left_over_is_made_again(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock, another process comes by."""
    plain = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", plain)
        assert len(list(scratch.iterdir())) == 1
        with scratch_directory() as other:
            assert list(scratch.iterdir()) == [other]
        plain(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with scratch_directory() as room:
        assert list(scratch.iterdir()) == [room]
    assert fcntl.flock is plain
