"""Keeping a checkpoint: every way, whole or not at all, and noticing who writes into it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparsediff import CorruptError, LockedError, UnavailableError, UsageError
from sparsediff.disk import inputs, outputs, temps
from sparsediff.shipping import snapshot as module
from sparsediff.shipping.snapshot import check_kept, identity, keep, states
from tests.support.pairs import model_directory, training_pair, tree, write_safetensors
from tests.support.places import MEMORY

EVERY_WAY = ["reflink", "link", "copy"]


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "live.safetensors", {"w": training_pair()[0]})


@contextmanager
def mounted(place: Path, *args: str) -> Iterator[Path]:
    """A file system at ``place``, where one can be mounted."""
    place.mkdir()
    if subprocess.run(["mount", *args, str(place)], capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that shares blocks between files."""
    (tmp_path / "a").write_bytes(b"x" * 4096)
    (tmp_path / "b").touch()
    can = outputs.clone(inputs.InputFile.of(tmp_path / "a"), tmp_path / "b")
    for name in "ab":
        (tmp_path / name).unlink()
    if can:
        yield tmp_path
        return
    program = shutil.which("mkfs.xfs")
    if program is None:
        pytest.skip("no file system here shares blocks, and none can be made")
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 320 << 20)
    subprocess.run([program, "-q", str(image)], check=True)
    with mounted(tmp_path / "sharing", "-o", "loop", str(image)) as place:
        yield place


@pytest.fixture
def no_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever file system the tests run on, it does not share blocks."""
    monkeypatch.setattr(module, "clone", lambda source, path: False)


def other_device(tmp_path: Path) -> Path:
    for place in (MEMORY, Path(tempfile.gettempdir())):
        if place.is_dir() and place.stat().st_dev != tmp_path.stat().st_dev:
            return place
    pytest.skip("no second file system here")


# Ways


@pytest.mark.usefixtures("no_sharing")
@pytest.mark.parametrize(
    ("how", "linkable", "done"),
    [
        ("auto", False, "copy"),
        ("auto", True, "link"),
        ("link", False, "link"),
        ("copy", True, "copy"),
        ("reflink", True, "copy"),
    ],
)
def test_ways_where_blocks_are_not_shared(
    how: str, linkable: bool, done: str, base: Path, single: Path, tmp_path: Path
) -> None:
    for source in (base, single):
        dest = tmp_path / f"kept_{source.name}"
        before, content = identity(source), tree(source)
        assert keep(source, dest, how=how, linkable=linkable) == done
        assert tree(dest) == content
        assert identity(source) == before
        assert (identity(dest) == before) == (done == "link")
        temps.remove(source)
        assert tree(dest) == content
    assert sorted(os.listdir(tmp_path)) == ["kept_base", "kept_live.safetensors"]


@pytest.mark.parametrize("linkable", [True, False])
def test_reflink(linkable: bool, sharing: Path) -> None:
    base = model_directory(sharing / "base")
    big = base / "big.pt"
    big.write_bytes(os.urandom(30 << 20))
    single = Path(shutil.copy(big, sharing / "live.pt"))
    os.sync()
    free = os.statvfs(sharing).f_bfree * os.statvfs(sharing).f_bsize
    for source in (base, single):
        dest = sharing / f"kept_{source.name}"
        content = tree(source)
        assert keep(source, dest, linkable=linkable) == "reflink"
        kept = identity(dest)
        with open(big if source == base else source, "r+b") as file:
            file.write(b"in place")
        assert tree(dest) == content
        check_kept(dest, kept)
    assert free - os.statvfs(sharing).f_bfree * os.statvfs(sharing).f_bsize < 10 << 20


def test_reflink_is_reported_once_every_file_was(
    base: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice alone, on any file system."""

    def clone(source: inputs.InputFile, path: Path) -> bool:
        if source.path.name == refused:
            return False
        path.write_bytes(source.path.read_bytes())
        return True

    monkeypatch.setattr(module, "clone", clone)
    refused = ""
    assert keep(base, tmp_path / "a") == "reflink"
    assert keep(single, tmp_path / "b") == "reflink"
    refused = "config.json"
    assert keep(base, tmp_path / "c") == "copy"
    assert keep(base, tmp_path / "d", linkable=True) == "link"
    assert tree(tmp_path / "c") == tree(tmp_path / "d") == tree(base)
    linked = [f.name for f in (tmp_path / "d").iterdir() if f.is_file() and f.stat().st_nlink == 2]
    assert linked == ["config.json"]


@pytest.mark.usefixtures("no_sharing")
def test_across_file_systems_it_is_a_copy(base: Path, single: Path, tmp_path: Path) -> None:
    place = other_device(tmp_path) / f"sparsediff-test-{os.getpid()}"
    place.mkdir()
    try:
        for source in (base, single):
            assert keep(source, place / source.name, linkable=True) == "copy"
            assert tree(place / source.name) == tree(source)
        shutil.copytree(base / "tokenizer", place / "tokenizer")
        shutil.rmtree(base / "tokenizer")
        (base / "tokenizer").symlink_to(place / "tokenizer")
        assert keep(base, tmp_path / "mixed", linkable=True) == "link"
        assert tree(tmp_path / "mixed") == tree(base)
    finally:
        shutil.rmtree(place)


def test_copy_where_the_kernel_has_no_copy_range(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.copy_file_range

    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(module, "_STEP", 1000)
    assert keep(base, tmp_path / "a", how="copy") == "copy"
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    assert keep(base, tmp_path / "b", how="copy") == "copy"
    monkeypatch.setattr(
        os, "copy_file_range", lambda a, b, n, at, to: at % 3000 == 0 and original(a, b, n, at, to)
    )
    assert keep(base, tmp_path / "c", how="copy") == "copy"
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c") == tree(base)


@pytest.mark.usefixtures("no_sharing")
@pytest.mark.parametrize("how", EVERY_WAY)
def test_links_are_followed(how: str, base: Path, single: Path, tmp_path: Path) -> None:
    (base / "file").symlink_to(single)
    (base / "directory").symlink_to("tokenizer")
    os.link(base / "config.json", base / "same.json")  # linking it changes the other's ctime
    (tmp_path / "latest").symlink_to("base")
    (tmp_path / "latest.safetensors").symlink_to(single)
    for name in ("latest", "latest.safetensors"):
        kept = tmp_path / f"kept_{name}"
        keep(tmp_path / name, kept, how=how)
        assert tree(kept) == tree(tmp_path / name)
        assert not any(p.is_symlink() for p in [kept, *kept.rglob("*")])


# Whole or not at all


@pytest.mark.usefixtures("no_sharing")
@pytest.mark.parametrize("how", ["link", "copy"])
@pytest.mark.parametrize(
    ("which", "change"),
    [
        (which, change)
        for which in ("base", "live.safetensors")
        for change in ("append", "replace", "remove", "add", "prune")
        if which == "base" or change in ("append", "replace", "remove")
    ],
)
@pytest.mark.usefixtures("base", "single")
def test_checkpoint_that_changes_meanwhile(
    which: str, change: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / which
    victim = source / "config.json" if which == "base" else source
    name = "_link" if how == "link" else "_fill"
    original = getattr(module, name)
    left = 2 if which == "base" else 1

    def once(*args: object) -> None:
        nonlocal left
        original(*args)
        left -= 1
        if left:
            return
        if change == "append":
            with open(victim, "ab") as file:
                file.write(b"x")
        elif change == "replace":
            shutil.copy2(victim, tmp_path / "new")
            os.replace(tmp_path / "new", victim)
        elif change == "remove":
            victim.unlink()
        elif change == "add":
            (source / "new").touch()
        else:
            shutil.rmtree(source)

    monkeypatch.setattr(module, name, once)
    with pytest.raises(UnavailableError, match="changed while it was read") as info:
        keep(source, tmp_path / "kept", how=how)
    assert str(source) in str(info.value)
    assert {"base", "live.safetensors"} >= set(os.listdir(tmp_path))


def test_truncated_while_copied(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module._copy_step

    def step(a: int, b: int, n_bytes: int, offset: int) -> int:
        if offset:
            os.truncate(single, 1000)
        return original(a, b, n_bytes, offset)

    monkeypatch.setattr(module, "_copy_step", step)
    monkeypatch.setattr(module, "_STEP", 2000)
    with pytest.raises(UnavailableError, match="changed while it was read"):
        keep(single, tmp_path / "kept", how="copy")
    assert os.listdir(tmp_path) == ["live.safetensors"]


def test_written_while_copied_with_the_time_set_back(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, times = module._copy_step, single.stat()

    def step(a: int, b: int, n_bytes: int, offset: int) -> int:
        with open(single, "r+b") as file:
            file.write(b"in place")
        os.utime(single, ns=(times.st_atime_ns, times.st_mtime_ns))
        return original(a, b, n_bytes, offset)

    monkeypatch.setattr(module, "_copy_step", step)
    with pytest.raises(UnavailableError, match="changed while it was read"):
        keep(single, tmp_path / "kept", how="copy")
    assert os.listdir(tmp_path) == ["live.safetensors"]


@pytest.mark.parametrize("which", ["base", "live.safetensors"])
@pytest.mark.usefixtures("base", "single")
def test_replaced_and_put_back_while_linked(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What matters is what was linked, not what has the name before and after."""
    original = os.link
    monkeypatch.setattr(os, "link", lambda _, dest: original(tmp_path / "other", dest))
    (tmp_path / "other").touch()
    with pytest.raises(UnavailableError, match="changed while it was read"):
        keep(tmp_path / which, tmp_path / "kept", how="link")
    assert sorted(os.listdir(tmp_path)) == ["base", "live.safetensors", "other"]


def test_gone_before(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="changed while it was read"):
        keep(tmp_path / "pruned", tmp_path / "kept")
    assert os.listdir(tmp_path) == []


def test_disk_full(base: Path, tmp_path: Path) -> None:
    (base / "noise.pt").write_bytes(os.urandom(1 << 20))
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=256k", "tmpfs") as place:
        for source in (base, base / "noise.pt"):
            with pytest.raises(UnavailableError, match="no space left") as info:
                keep(source, place / "kept", linkable=True)
            assert str(place) in str(info.value)
            assert list(place.iterdir()) == []


def test_killed_at_any_step(base: Path, single: Path, tmp_path: Path) -> None:
    """The next run does what this one did not, and the checkpoint never suffers."""
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from sparsediff.shipping import snapshot
        source, dest, how, at = sys.argv[1:]
        original, left = getattr(snapshot, at), 2 if os.path.isdir(source) else 1
        def killed(*args):
            global left
            original(*args)
            left -= 1
            if not left or at == "_check_same":
                os.kill(os.getpid(), signal.SIGKILL)
        setattr(snapshot, at, killed)
        snapshot.keep(Path(source), Path(dest), how=how)
    """
    for source in (base, single):
        content = tree(source)
        for how, at in (("link", "_link"), ("link", "_check_same"), ("copy", "_fill")):
            dest = tmp_path / f"kept_{how}{at}_{source.name}"
            arguments = [str(source), str(dest), how, at]
            run = subprocess.run([sys.executable, "-c", code, *arguments])
            assert run.returncode == -9
            if source == single and how == "link":
                assert tree(dest) == content  # a link is whole from the start
                dest.unlink()
            else:
                assert not dest.exists()
                assert len(list(tmp_path.glob(f".{dest.name}*"))) == 1
            # As a file where a directory was left, or the other way round, as well.
            for again in (single, base):
                keep(again, dest, how=how)
                assert tree(dest) == tree(again)
                temps.remove(dest)
            assert tree(source) == content
            assert list(tmp_path.glob(".*")) == []


def test_destination_in_use(base: Path, single: Path, tmp_path: Path) -> None:
    for how in EVERY_WAY:
        for source in (base, single):
            with pytest.raises(UsageError, match="output exists"):
                keep(source, tmp_path / "base", how=how)
        for inside in (base / "kept", base / "tokenizer" / "kept"):
            with pytest.raises(UsageError, match="lies in, one of the inputs"):
                keep(base, inside, how=how)
    with (
        outputs.staged_directory(tmp_path / "kept", force=False),
        pytest.raises(LockedError, match="another run"),
    ):
        keep(base, tmp_path / "kept")


def test_unusable(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown way to keep, expected auto, reflink, link, copy"):
        keep(base, tmp_path / "kept", how="move")
    (tmp_path / "empty" / "directory").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no files"):
        keep(tmp_path / "empty", tmp_path / "kept")
    with pytest.raises(UsageError, match="directory of the output does not exist"):
        keep(base, tmp_path / "no" / "kept")


# Identity


@pytest.mark.usefixtures("no_sharing")
def test_identity_notices_writing_in_place_through_the_other_name(
    base: Path, single: Path, tmp_path: Path
) -> None:
    for source, victim in ((base, base / "config.json"), (single, single)):
        dest = tmp_path / f"kept_{source.name}"
        assert keep(source, dest, linkable=True) == "link"
        expected = identity(dest)
        assert expected == identity(source)
        check_kept(dest, expected)
        data = victim.read_bytes()
        with open(victim, "r+b") as file:
            file.write(data)  # the same bytes, and size
        with pytest.raises(CorruptError, match="kept checkpoint was modified"):
            check_kept(dest, expected)


@pytest.mark.usefixtures("no_sharing")
def test_identity_does_not_mind_the_other_name_going(base: Path, tmp_path: Path) -> None:
    keep(base, tmp_path / "kept", linkable=True)
    expected = identity(tmp_path / "kept")
    (base / "new").write_text("new")
    os.replace(base / "new", base / "config.json")
    check_kept(tmp_path / "kept", expected)
    shutil.rmtree(base)
    check_kept(tmp_path / "kept", expected)


def test_identity_is_of_names_sizes_times_and_inodes(base: Path) -> None:
    seen = [identity(base)]

    def differs() -> bool:
        seen.append(identity(base))
        return seen[-1] not in seen[:-1]

    assert not differs()
    (base / "config.json").rename(base / "other.json")
    assert differs()
    status = (base / "other.json").stat()
    os.truncate(base / "other.json", 1)
    os.utime(base / "other.json", ns=(0, status.st_mtime_ns))
    assert differs()
    os.utime(base / "other.json", ns=(0, status.st_mtime_ns + 1))
    assert differs()
    shutil.copy2(base / "other.json", base / "copy")
    os.replace(base / "copy", base / "other.json")
    assert differs()
    assert [name for name, *_ in states(base)] == sorted(tree(base))


def test_kept_checkpoint_that_is_gone(base: Path, tmp_path: Path) -> None:
    keep(base, tmp_path / "kept")
    expected = identity(tmp_path / "kept")
    (tmp_path / "kept" / "config.json").unlink()
    with pytest.raises(CorruptError, match="modified"):
        check_kept(tmp_path / "kept", expected)
    shutil.rmtree(tmp_path / "kept")
    with pytest.raises(CorruptError, match="kept checkpoint is gone"):
        check_kept(tmp_path / "kept", expected)
