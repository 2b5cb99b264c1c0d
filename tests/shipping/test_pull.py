"""pull and prune: ways to a version, around damage, and what is kept of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import CorruptError, LockedError, UnavailableError
from sparsediff.disk.locks import locked
from sparsediff.errors import UntrustedError
from sparsediff.shipping.bring import PullResult
from sparsediff.shipping.catalog import Catalog, StoredPatch, Version, object_key
from sparsediff.shipping.catalog_json import dump, parse
from sparsediff.shipping.check import check
from sparsediff.shipping.fetch import fetch
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.shipping.source import Rule
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer, assert_sound, catalog_of, settle, shown

Originals = dict[str, dict[str, bytes]]


@pytest.fixture
def originals(trainer: Trainer, store: Store) -> Originals:
    """Five versions: anchors at 1 and 4, a shortcut from 1 to 3, another from 3 to 5."""
    paths = trainer.save_steps(1, 2, 3, 4, 5)
    ship(trainer.run, store, Policy(anchor_every=3, squash_every=2))
    return {p.name: tree(p) for p in paths}


def keys(store: Store, version: int, base: int | None = -1) -> list[Path]:
    return keys_of(catalog_of(store), store, version, base)


def keys_of(catalog: Catalog, store: Store, version: int, base: int | None = -1) -> list[Path]:
    found = catalog.get(version)
    assert found is not None
    return [Path(store.name, p.key) for p in found.patches if base in (-1, p.base)]


def way(result: PullResult) -> list[int | None]:
    return [p.base for p in result.patches]


def test_cheapest_way(store: Store, originals: Originals, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    assert way(pull(store, dest, version="step_000001")) == [None]
    assert way(pull(store, dest, version="step_000003")) == [1]
    result = pull(store, dest)
    assert way(result) == [3]
    assert tree(dest / "current") == originals["step_000005"]
    assert os.readlink(dest / "current") == "versions/step_000005"
    assert (shown(result), result.previous, result.switched) == ("step_000005", 3, True)
    assert result.fetched_bytes == sum(p.n_bytes for p in result.patches)
    again = pull(store, dest)
    assert (again.switched, again.fetched_bytes, way(again)) == (False, 0, [])
    assert way(pull(store, tmp_path / "late")) == [None, 4]


def test_versions_kept(store: Store, originals: Originals, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    for i, name in enumerate(originals):
        pull(store, dest, version=name, keep=3)
        here = sorted(p.name for p in (dest / "versions").iterdir())
        assert here == sorted(originals)[max(0, i - 2) : i + 1]
    back = pull(store, dest, version="step_000003", keep=3)  # needs nothing from the store
    assert (back.switched, back.fetched_bytes) == (True, 0)
    assert tree(dest / "current") == originals["step_000003"]
    pull(store, dest, version="step_000003", keep=1)
    assert [p.name for p in (dest / "versions").iterdir()] == ["step_000003"]


@pytest.mark.parametrize("wanted", ["step_000002", "2"])
def test_version_by_name_or_number(
    wanted: str, store: Store, originals: Originals, tmp_path: Path
) -> None:
    assert shown(pull(store, tmp_path / "dest", version=wanted)) == "step_000002"


def test_version_that_is_not_there(
    store: Store, originals: Originals, tmp_path: Path, cli: Run
) -> None:
    code, _, err = cli("pull", store.name, tmp_path / "dest", "--version", "step_7")
    assert code == 2
    assert err == (
        f"sparsediff: {store.name}: has no version 'step_7', expected one from step_000001 "
        "to step_000005 (sparsediff log STORE lists them)\n"
    )


def damage(how: str, path: Path) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "longer":
        with open(path, "ab") as f:
            f.write(b"\0")
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


HOWS = ["missing", "truncated", "longer", "flipped"]


@pytest.mark.parametrize("how", HOWS)
def test_damage_is_gone_around(
    how: str, store: Store, originals: Originals, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000003")
    before = tree(dest / "current")
    notes: list[str] = []
    for base, then in ((3, [3, 4]), (4, [None])):
        (path,) = keys(store, 5, base)
        damage(how, path)
        assert tree(dest / "current") == before
        notes.clear()
        scratch = tmp_path / f"scratch{base}"
        shutil.copytree(dest, scratch, symlinks=True)
        if base == 4:
            with pytest.raises(CorruptError, match="no intact way to version 5"):
                pull(store, scratch, note=notes.append)
            assert tree(scratch / "current") == before
            continue
        assert way(pull(store, scratch, note=notes.append)) == then
        assert tree(scratch / "current") == originals["step_000005"]
        assert len(notes) == 1
        assert str(path) in notes[0]
        assert notes[0].endswith("; trying another way")
    assert shown(pull(store, dest, version="step_000004")) == "step_000004"


@pytest.mark.parametrize("how", HOWS)
def test_damage_is_found_and_healed(
    how: str, store: Store, originals: Originals, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    for path in keys(store, 5):
        damage(how, path)
    code, out, err = cli("check", store.name)
    assert code == 11
    assert err.count("\n") == 3
    assert f"{store.name}: step_000005 cannot be reached any more" in err
    assert out.startswith("4 of 5 versions can be had")
    assert cli("check", store.name, "--repair")[0] == 11
    code, _, err = cli("check", store.name)
    assert code == 0
    assert "step_000005 is lost; the next ship stores it whole" in err
    notes: list[str] = []
    assert ship(trainer.run, store, note=notes.append).shipped == []  # it is mended all the same
    assert notes == [f"{store.name}: step_000005 could not be had, and is stored whole now"]
    assert cli("check", store.name)[0] == 0
    assert tree(pull_path(store, tmp_path / "dest")) == originals["step_000005"]
    (path,) = trainer.save_steps(6)
    ship(trainer.run, store, note=notes.append)
    assert len(notes) == 1
    assert catalog_of(store).latest.anchor is None
    assert tree(path) == tree(pull_path(store, tmp_path / "dest"))


def test_cut_off_versions_leave_with_the_repair(
    store: Store, originals: Originals, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    for version, base in ((4, None), (4, 3), (5, 3)):
        damage("flipped", keys(store, version, base)[0])
    shutil.rmtree(default_state(trainer.run))
    assert cli("check", store.name, "--repair")[0] == 11
    assert [v.version for v in catalog_of(store).versions] == [1, 2, 3, 5]
    (path,) = trainer.save_steps(6)
    ship(trainer.run, store)
    assert catalog_of(store).latest.anchor is not None
    assert cli("check", store.name, "--repair")[0] == 0  # what is lost goes now
    assert cli("check", store.name)[0] == 0
    assert [v.version for v in catalog_of(store).versions] == [1, 2, 3, 6]
    assert tree(path) == tree(pull_path(store, tmp_path / "dest"))


def pull_path(store: Store, dest: Path) -> Path:
    path = pull(store, dest).path
    assert path is not None
    return path


def test_damaged_version_at_hand_is_gone_around(
    store: Store, originals: Originals, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000003")
    shard = next((dest / "versions/step_000003").glob("*.safetensors"))
    damage("flipped", shard)
    notes: list[str] = []
    result = pull(store, dest, note=notes.append)
    assert way(result) == [None, 4]
    assert tree(dest / "current") == originals["step_000005"]
    assert len(notes) == 1
    assert "wrong base" in notes[0]
    assert str(shard) in notes[0]


def test_version_at_hand_that_was_removed(
    store: Store, originals: Originals, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000003")
    shutil.rmtree(dest / "versions/step_000003")
    assert way(pull(store, dest)) == [None, 4]
    assert tree(dest / "current") == originals["step_000005"]


def test_lost_state_is_rebuilt(store: Store, originals: Originals, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    pull(store, dest)
    record = dest / ".sparsediff/state.json"
    for damaged in ("", "[]", "{"):
        record.write_text(damaged)
        with pytest.raises(CorruptError, match="move it away"):
            pull(store, dest)
        record.unlink()  # as the message says
        pull(store, dest)
        assert tree(dest / "current") == originals["step_000005"]


def test_what_a_killed_run_built_is_removed_by_one_that_brings_another_version(
    store: Store, originals: Originals, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000001")
    record = dest / ".sparsediff/state.json"
    found = json.loads(record.read_text())
    record.write_text(json.dumps(found | {"building": "step_000002"}))
    for end in ("", ".0"):  # the version, and what was needed on the way
        left = dest / f"versions/.step_000002.sparsediff-tmp{end}"
        left.mkdir()
        (left / "half").touch()
    pull(store, dest, keep=2)
    assert sorted(os.listdir(dest / "versions")) == ["step_000001", "step_000005"]
    assert tree(dest / "current") == originals["step_000005"]


def test_other_history(
    trainer: Trainer, store: Store, originals: Originals, tmp_path: Path
) -> None:
    """A store that was started anew numbers its versions from 1: nothing at hand counts."""
    dest = tmp_path / "dest"
    pull(store, dest)
    other = open_store(str(tmp_path / "other"), create=True)
    shutil.rmtree(trainer.run / "step_000001")
    ship(trainer.run, other, state_directory=tmp_path / "state")
    with pytest.raises(UntrustedError, match="another history"):
        pull(other, dest)
    for allow in (True, False):  # once is enough
        result = pull(other, dest, allow_rewind=allow)
        assert tree(dest / "current") == originals["step_000005"]
    assert result.switched is False
    assert [p.name for p in (dest / "versions").iterdir()] == ["step_000005-000004"]


def test_name_that_comes_again_is_no_other_directory(
    trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    """The training was taken back, and what was pruned is at hand still."""
    dest = tmp_path / "dest"
    trainer.save_steps(1, 2)
    ship(trainer.run, store, Policy(anchor_every=1))
    pull(store, dest)
    shown = tree(dest / "current")
    shutil.rmtree(trainer.run / "step_000002")
    trainer.step()
    trainer.save("step_000001")
    ship(trainer.run, store, Policy(anchor_every=1, rewind=True))
    prune(store, now=time.time(), keep=1)
    (path,) = trainer.save_steps(2)
    ship(trainer.run, store, Policy(anchor_every=1))
    assert catalog_of(store).latest.name == path.name
    result = pull(store, dest)
    assert tree(dest / "current") == tree(path)
    assert result.path == dest / "versions/step_000002-000004"
    assert tree(dest / "versions/step_000002") == shown


def test_in_place(store: Store, originals: Originals, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    for name in ("step_000001", "step_000002", "step_000005", "step_000004"):
        result = pull(store, dest, version=name, in_place=True)
        assert tree(dest) == originals[name]
        assert result.path == dest
    assert pull(store, dest, in_place=True).switched
    assert not pull(store, dest, in_place=True).switched
    damage("flipped", next(dest.glob("*.safetensors")))
    pull(store, dest, version="step_000004", in_place=True)
    assert tree(dest) == originals["step_000004"]


def test_in_place_through_a_reshard(trainer: Trainer, store: Store, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    for number, shards in ((1, 2), (2, 1), (3, 3)):
        (path,) = trainer.save_steps(number, shards=shards)
        ship(trainer.run, store)
        pull(store, dest, in_place=True)
        assert tree(dest) == tree(path)


def test_destination_of_somebody_else(
    store: Store, originals: Originals, tmp_path: Path, cli: Run
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for options in ((), ("--in-place",)):
        code, _, err = cli("pull", store.name, mine, *options)
        assert code == 2
        assert err.startswith(f"sparsediff: {mine}: ")
    file = tmp_path / "file"
    file.write_text("x")
    for options in ((), ("--in-place",)):
        assert cli("pull", store.name, file, *options)[0] == 2
    assert tree(mine) == {"thesis.tex": b"years of work"}
    assert file.read_text() == "x"
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000001")
    (dest / "current").unlink()
    (dest / "current").mkdir()
    code, _, err = cli("pull", store.name, dest)
    assert code == 2
    assert "is not a link" in err


def test_another_run_at_work(store: Store, originals: Originals, tmp_path: Path, cli: Run) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000001")
    with locked(dest / ".sparsediff/lock", os.O_RDWR):
        with pytest.raises(LockedError):
            pull(store, dest)
        assert cli("pull", store.name, dest) == (14, "", "")


def test_nothing_shipped_yet(store: Store, tmp_path: Path, cli: Run) -> None:
    dest = tmp_path / "dest"
    code, _, err = cli("pull", store.name, dest)
    assert (code, err) == (13, f"sparsediff: {store.name}: nothing has been shipped here yet\n")
    assert not dest.exists()


def test_command_after_a_switch(
    store: Store, originals: Originals, tmp_path: Path, cli: Run
) -> None:
    dest, told = tmp_path / "dest", tmp_path / "told"
    say = f'echo "$SPARSEDIFF_VERSION,$SPARSEDIFF_PREVIOUS_VERSION,$SPARSEDIFF_PATH" >> {told}'
    assert cli("pull", store.name, dest, "--version", "step_000001", "--exec", say)[0] == 0
    code, _, err = cli("pull", store.name, dest, "--exec", "exit 3")
    assert code == 13
    assert "exit code 3" in err
    assert tree(dest / "current") == originals["step_000005"]
    for _ in range(2):  # the failed command is made up for, once
        assert cli("pull", store.name, dest, "--exec", say)[0] == 0
    assert told.read_text().splitlines() == [
        f"1,,{dest}/versions/step_000001",
        f"5,5,{dest}/versions/step_000005",
    ]


def test_fetch_goes_on_where_a_killed_run_stopped(
    store: Store, originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsediff.shipping.fetch.CHUNK_BYTES", 1000)
    patch = catalog_of(store).versions[0].anchor
    assert patch is not None
    read = type(store).read
    n_reads = 0

    def failing(self: Store, key: str, offset: int, n_bytes: int) -> bytes:
        nonlocal n_reads
        n_reads += 1
        if n_reads > 7:
            raise UnavailableError("cut off")
        return read(self, key, offset, n_bytes)

    with monkeypatch.context() as context:
        context.setattr(type(store), "read", failing)
        with pytest.raises(UnavailableError, match="cut off"):
            fetch(store, [patch], tmp_path, streams=1)
    ((path,), n_bytes) = fetch(store, [patch], tmp_path, streams=2)
    assert n_bytes == patch.n_bytes - 7000
    assert path.read_bytes() == Path(store.name, patch.key).read_bytes()
    assert fetch(store, [patch], tmp_path, streams=2) == ([path], 0)
    assert [p.name for p in tmp_path.glob(f"{patch.sha256}*")] == [path.name]


def test_fetched_part_that_did_not_reach_the_disk(
    store: Store, originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the note may be there and the bytes not: fetched again, not blamed."""
    monkeypatch.setattr("sparsediff.shipping.fetch.CHUNK_BYTES", 1000)
    patch = catalog_of(store).versions[0].anchor
    assert patch is not None
    (tmp_path / f"{patch.sha256}.part").write_bytes(bytes(patch.n_bytes))
    (tmp_path / f"{patch.sha256}.chunks").write_text("0\n1000\n20")
    ((path,), _) = fetch(store, [patch], tmp_path, streams=2)
    assert path.read_bytes() == Path(store.name, patch.key).read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("in_place", [False, True])
def test_disk_full_at_the_destination(
    in_place: bool, store: Store, originals: Originals, small_disk: Path, cli: Run
) -> None:
    dest = small_disk / "dest"
    flags = ("--in-place",) if in_place else ()
    shown_at = dest if in_place else dest / "current"
    assert cli("pull", store.name, dest, "--version", "1", "--keep", "1", *flags)[0] == 0
    assert tree(shown_at) == originals["step_000001"]
    filler = small_disk / "filler"
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 20_000))
    code, _, err = cli("pull", store.name, dest, *flags)
    assert (code, err.count("\n")) == (13, 1), err
    assert "no space left on device" in err
    if not in_place:  # there each file is of one version or the other
        assert tree(shown_at) == originals["step_000001"]
    filler.unlink()
    assert cli("pull", store.name, dest, "--keep", "1", *flags)[0] == 0
    assert tree(shown_at) == originals["step_000005"]


def test_disk_full_at_the_store(trainer: Trainer, small_disk: Path, cli: Run) -> None:
    trainer.save_steps(1)
    disk = small_disk / "store"
    assert cli("ship", trainer.run, disk)[0] == 0
    filler = small_disk / "filler"
    (path,) = trainer.save_steps(2)
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    code, _, err = cli("ship", trainer.run, disk, "--retries", 0)
    assert (code, err.count("\n")) == (13, 1), err
    store = open_store(str(disk))
    assert len(catalog_of(store).versions) == 1
    assert check(store, now=time.time()).is_sound
    filler.unlink()
    assert cli("ship", trainer.run, disk)[0] == 0
    assert tree(path) == tree(pull_path(store, trainer.run.parent / "dest"))


# Retention


def test_prune_keeps_every_way_within(
    store: Store, originals: Originals, tmp_path: Path, cli: Run
) -> None:
    dests = {}
    for name in originals:
        dests[name] = tmp_path / f"at-{name}"
        pull(store, dests[name], version=name)
    now = time.time()
    plan = prune(store, now=now, keep=1, dry_run=True)
    assert [v.version for v in plan.kept] == [4, 5]  # 5 needs the anchor of 4
    assert plan.held_back is not None
    assert plan.held_back.version == 5
    assert len(catalog_of(store).versions) == 5
    objects = set(Path(store.name).rglob("*.sdiff"))
    done = prune(store, now=now, keep=1)
    assert (done.kept, done.versions) == (plan.kept, plan.versions)
    assert set(Path(store.name).rglob("*.sdiff")) == objects  # the time of grace
    for skew in (3599, -5):  # the clock that dropped them may have been ahead
        assert prune(store, now=now + skew, keep=1).deleted == []
    after = prune(store, now=now + 3601, keep=1)
    assert sorted(after.deleted) == sorted(p.key for p in done.patches)
    left = {str(p.relative_to(store.name)) for p in Path(store.name).rglob("*.sdiff")}
    assert left == catalog_of(store).keys()
    assert check(store, now=now).is_sound
    assert prune(store, now=now + 9999, keep=1).deleted == []
    for name, dest in dests.items():  # from within by patches, from without by the anchor
        result = pull(store, dest)
        assert tree(dest / "current") == originals["step_000005"]
        assert way(result) == {"step_000004": [4], "step_000005": []}.get(name, [None, 4])
    assert_sound(store, originals, tmp_path / "new")


def test_pull_finds_its_objects_pruned(
    store: Store, originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pointer was read, then everything it named was pruned without grace."""
    size = type(store).size
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000001")

    def late(self: Store, key: str) -> int | None:
        monkeypatch.undo()
        for _ in range(2):
            prune(store, now=time.time(), keep=1, grace=0)
        return size(self, key)

    monkeypatch.setattr(type(store), "size", late)
    notes: list[str] = []
    result = pull(store, dest, note=notes.append)
    assert way(result) == [None, 4]
    assert tree(dest / "current") == originals["step_000005"]
    assert len(notes) == 1
    assert "object is missing" in notes[0]


def test_prune_by_age(store: Store, originals: Originals) -> None:
    now = catalog_of(store).latest.shipped
    assert prune(store, now=now + 1000, max_age=2000, dry_run=True).versions == []
    assert len(prune(store, now=now + 3000, max_age=2000, dry_run=True).versions) == 3
    assert prune(store, now=now + 3000, max_age=2000, keep=5, dry_run=True).versions == []


def test_prune_command(store: Store, originals: Originals, cli: Run) -> None:
    assert cli("prune", store.name)[0] == 2
    code, out, _ = cli("prune", store.name, "--keep", "1", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["kept_versions"] == [4, 5]
    code, out, _ = cli("prune", store.name, "--keep", "1", "--max-age", "0s")
    assert code == 0
    assert out.startswith("dropped 3 versions (")
    assert out.endswith("step_000004 to step_000005: step_000005 needs those before it\n")


class Memory:
    """Just enough of a store for `prune`."""

    name = "memory"
    trust = signer = None

    def __init__(self, catalog: Catalog) -> None:
        self.data, self.deleted = dump(catalog), set[str]()

    def get(self, key: str) -> tuple[bytes, str]:
        return self.data, "tag"

    def swap(self, key: str, data: bytes, expected: str | None) -> bool:
        self.data = data
        return True

    def size(self, key: str) -> int:
        return 1

    def delete(self, key: str) -> None:
        self.deleted.add(key)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    versions: list[Version] = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        bases: set[int | None] = {None} if number == 1 else set()
        bases |= (
            draw(st.sets(st.sampled_from([None, *range(1, number)]), max_size=3))
            if number > 1
            else set()
        )
        patches = tuple(
            StoredPatch(b, object_key(number, "x", b, "0" * 64), draw(st.integers(1, 99)), "0" * 64)
            for b in sorted(bases, key=lambda b: b or 0)
        )
        versions.append(
            Version(number, f"v{number}", None, "", float(100 * number), 1, 1, None, patches)
        )
    return Catalog("0" * 32, tuple(versions))


@given(catalogs(), st.integers(1, 12), st.none() | st.integers(0, 1300))
def test_prune_never_cuts_a_way_within_the_retention(
    catalog: Catalog, keep: int, max_age: int | None
) -> None:
    now = 1300.0
    memory: Any = Memory(catalog)
    prune(memory, now=now, keep=keep, max_age=max_age, grace=10)
    prune(
        memory, now=now + 20, keep=keep, max_age=None if max_age is None else max_age + 20, grace=10
    )
    after = parse(memory.data)
    retained = {v.version for v in catalog.versions[-keep:]}
    if max_age is not None:
        retained |= {v.version for v in catalog.versions if now - v.shipped <= max_age}
    assert retained <= {v.version for v in after.versions}
    assert not memory.deleted & {p.key for v in after.versions for p in v.patches}
    for wanted in retained:
        assert (catalog.path([], wanted) is None) == (after.path([], wanted) is None)
        for held in retained:
            if held < wanted and catalog.path([held], wanted) is not None:
                assert after.path([held], wanted) is not None


@given(catalogs(), st.data())
def test_path_is_the_cheapest(catalog: Catalog, data: st.DataObject) -> None:
    n = len(catalog.versions)
    held = data.draw(st.sets(st.integers(1, n)))
    wanted = data.draw(st.integers(1, n))
    best: dict[int | None, float] = {None: 0.0} | dict.fromkeys(held, 0.0)
    for version in catalog.versions:  # versions are in order, so one pass is enough
        costs = [best.get(p.base, float("inf")) + p.n_bytes for p in version.patches]
        best[version.version] = min([*costs, best.get(version.version, float("inf"))])
    found = catalog.path(held, wanted)
    if found is None:
        assert best[wanted] == float("inf")
        return
    here, patches = found
    assert here is None or here in held
    assert sum(p.n_bytes for p in patches) == best[wanted]
    for patch in patches:
        assert patch.base == here
        here = next(v.version for v in catalog.versions if patch in v.patches)
    assert here == wanted or not patches


def test_new_pointer_does_not_mix_what_two_shippers_left(
    store: Store, originals: Originals, tmp_path: Path
) -> None:
    other = Trainer(tmp_path / "other-run", n=500, seed=1)
    other.save_steps(90, 91, 92, 93, 94)
    aside = open_store(str(tmp_path / "aside"), create=True)
    ship(other.run, aside)
    shutil.copytree(Path(aside.name, "versions"), Path(store.name, "versions"), dirs_exist_ok=True)
    Path(store.name, "latest.json").unlink()
    check(store, now=time.time(), repair=True)
    for version in catalog_of(store).versions:
        assert version.name in originals
    assert_sound(store, originals, tmp_path / "scratch")


@pytest.mark.parametrize("how", HOWS)
def test_pointer_is_made_anew(
    how: str, store: Store, originals: Originals, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest)
    before = catalog_of(store)
    damage(how, Path(store.name, "latest.json"))
    damaged = keys_of(before, store, 2)[0]
    damage("flipped", damaged)
    code, _, err = cli("check", store.name)
    assert (code, err.count("\n")) == (11, 1)
    assert "--repair" in err
    code, out, err = cli("check", store.name, "--repair", "--grace", "0s")
    assert code == 11
    assert err == f"sparsediff: {damaged}: object does not match the digest in its name\n"
    assert "made a new pointer" in out
    after = catalog_of(store)
    assert after.id != before.id
    assert [v.name for v in after.versions] == [n for n in originals if n != "step_000002"]
    for old in before.versions:
        new = after.get(old.version)
        if new is not None:
            assert (new.number, new.n_bytes, new.n_changed, set(new.patches)) == (
                old.number,
                old.n_bytes,
                old.n_changed,
                set(old.patches),
            )
    del originals["step_000002"]
    assert_sound(store, originals, tmp_path / "scratch")
    pull(store, dest)
    assert tree(dest / "current") == originals["step_000005"]
    (path,) = trainer.save_steps(6)
    ship(trainer.run, store)
    pull(store, dest)
    assert tree(dest / "current") == tree(path)


def test_a_file_whose_name_ends_in_its_number(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "files"
    run.mkdir()
    for i in (1, 2):
        (run / f"step_{i}").write_bytes(bytes([i]) * 1000)
        settle(run / f"step_{i}")
    ship(run, store, Policy(rule=Rule(pattern=r"step_(\d+)")))
    pull(store, tmp_path / "dest")
    assert (tmp_path / "dest/current").read_bytes() == (run / "step_2").read_bytes()
