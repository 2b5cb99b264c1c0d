"""A store that goes back: an old pointer put there again, or another history in its place."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sparsediff.errors import CorruptError, UntrustedError
from sparsediff.shipping import pull as pulling
from sparsediff.shipping import state
from sparsediff.shipping.absent import existing_catalog
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.follow import Follower
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.pull import preview, pull
from sparsediff.shipping.sealing import write_catalog
from sparsediff.shipping.ship import ship
from sparsediff.shipping.state import default_state
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.keys import new_key
from tests.support.pairs import tree
from tests.support.runs import Trainer, catalog_of, shown


@pytest.fixture
def old(trainer: Trainer, store: Store, tmp_path: Path) -> Path:
    """The pointer of version 2 in a store that has version 3."""
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    shutil.copy(tmp_path / "store" / POINTER, tmp_path / "old")
    trainer.save_steps(3)
    ship(trainer.run, store)
    return tmp_path / "old"


def put_back(old: Path, tmp_path: Path) -> None:
    shutil.copy(old, tmp_path / "store" / POINTER)


@pytest.mark.parametrize("in_place", [False, True])
def test_an_old_pointer_takes_nobody_back(
    in_place: bool, old: Path, store: Store, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest, in_place=in_place)
    before = tree(dest)
    put_back(old, tmp_path)
    for version in (None, "step_000002"):
        with pytest.raises(UntrustedError, match="the store is older than it was"):
            pull(store, dest, version=version, in_place=in_place)
        with pytest.raises(UntrustedError, match="expected version 3 or later, found 2"):
            preview(store, dest, version=version, in_place=in_place)
    assert tree(dest) == before
    assert shown(pull(store, dest, in_place=in_place, allow_rewind=True)) == "step_000002"
    pull(store, dest, in_place=in_place)  # and that is where it is now


def test_an_old_pointer_takes_nobody_back_who_pulled_an_older_version(
    old: Path, store: Store, tmp_path: Path
) -> None:
    """What counts is the newest version that the store had, not the one that is here."""
    pull(store, tmp_path / "dest", version="step_000001")
    put_back(old, tmp_path)
    with pytest.raises(UntrustedError):
        pull(store, tmp_path / "dest")


@pytest.mark.parametrize("allow_rewind", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("rewind", [False, True])
def test_who_waits_for_another_run_is_not_taken_back_by_what_it_read_before(
    rewind: bool,
    in_place: bool,
    allow_rewind: bool,
    trainer: Trainer,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run reads the pointer; before it has the lock, another one brings a newer version."""
    dest, opened = tmp_path / "dest", pulling._opened
    began: list[bool] = []
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    pull(store, dest, in_place=in_place)

    def late(*args: Any) -> Any:
        found = opened(*args)
        if not began:
            began.append(True)
            if rewind:
                (tmp_path / "store" / POINTER).unlink()
            trainer.save_steps(3)
            ship(trainer.run, store, Policy(rewind=rewind))
            pull(store, dest, in_place=in_place)
        return found

    monkeypatch.setattr(pulling, "_opened", late)
    result = pull(store, dest, in_place=in_place, allow_rewind=allow_rewind)
    assert (shown(result), result.switched) == ("step_000003", False)
    pull(store, dest, in_place=in_place)


@pytest.mark.parametrize("what", ["older", "another"])
def test_a_pointer_that_is_replaced_while_a_run_goes_around_damage_takes_nobody_back(
    what: str, old: Path, store: Store, tmp_path: Path
) -> None:
    """Its patch from the version here is damaged, and so the pointer is looked at again."""
    dest = tmp_path / "dest"
    pull(store, dest, version="step_000002")
    for patch in (tmp_path / "store/versions").glob("000003-*/from-*"):
        patch.write_bytes(bytes(patch.stat().st_size))
    put = old
    if what == "another":
        stranger, elsewhere = Trainer(tmp_path / "stranger", seed=1), tmp_path / "elsewhere"
        stranger.save_steps(1, 2, 3)
        ship(stranger.run, open_store(str(elsewhere), create=True))
        shutil.copytree(elsewhere / "versions", tmp_path / "store/versions", dirs_exist_ok=True)
        put = elsewhere / POINTER
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        shutil.copy(put, tmp_path / "store" / POINTER)

    before = tree(dest / "current")
    with pytest.raises(CorruptError, match="no intact way to version 3"):
        pull(store, dest, note=note)
    assert "trying another way" in said[0]
    assert tree(dest / "current") == before


def test_an_older_version_is_pulled_as_ever(old: Path, store: Store, tmp_path: Path) -> None:
    pull(store, tmp_path / "dest")
    assert shown(pull(store, tmp_path / "dest", version="step_000001")) == "step_000001"
    assert shown(pull(store, tmp_path / "dest")) == "step_000003"


def test_a_record_of_an_earlier_release_is_not_forgotten(
    old: Path, store: Store, tmp_path: Path
) -> None:
    pull(store, tmp_path / "dest")
    record = tmp_path / "dest/.sparsediff/state.json"
    lines = [
        line
        for line in record.read_text().splitlines()
        if not line.startswith((' "newest', ' "rew'))
    ]
    record.write_text("\n".join(lines).replace(",\n}", "\n}"))
    put_back(old, tmp_path)
    with pytest.raises(UntrustedError):
        pull(store, tmp_path / "dest")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_record_that_lacks_what_each_release_wrote_is_damaged(
    in_place: bool, old: Path, store: Store, tmp_path: Path
) -> None:
    """Taken for an empty one, it would let an old pointer pass."""
    dest = tmp_path / "dest"
    pull(store, dest, in_place=in_place)
    home = tmp_path / ".dest.sparsediff-pull" if in_place else dest / ".sparsediff"
    good = json.loads((home / "state.json").read_text())
    put_back(old, tmp_path)
    for gone in ("id", "versions", "stale", "building", "version", "updating", "told", None):
        document = {} if gone is None else {n: v for n, v in good.items() if n != gone}
        (home / "state.json").write_text(json.dumps(document))
        with pytest.raises(CorruptError, match="record of earlier runs is damaged; move"):
            pull(store, dest, in_place=in_place)


def test_another_history_takes_nobody_along_unless_the_trainer_says_so(
    old: Path, trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    """Also where it is signed: whoever holds the bucket may have an old store at hand."""
    dest = tmp_path / "dest"
    pull(store, dest)
    shutil.rmtree(tmp_path / "store")
    again = open_store(str(tmp_path / "store"), create=True)
    ship(trainer.run, again, state_directory=tmp_path / "new state")
    with pytest.raises(UntrustedError, match="another history"):
        pull(again, dest)
    shutil.rmtree(tmp_path / "store")
    again = open_store(str(tmp_path / "store"), create=True)
    ship(trainer.run, again, Policy(rewind=True))  # which knows that it held something
    result = pull(again, dest)
    assert result.switched
    assert tree(dest / "current") == tree(trainer.run / shown(result))


def test_the_trainer_takes_a_fleet_back_without_a_hand(
    old: Path, trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    """The store came back from a backup."""
    key = new_key(tmp_path / "key")
    ours = open_store(str(tmp_path / "store"), signer=key.signer)
    theirs = open_store(str(tmp_path / "store"), trust=key.trust)
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(default_state(trainer.run))
    (tmp_path / "store").mkdir()
    ship(trainer.run, ours)
    backup = (tmp_path / "store" / POINTER).read_bytes()
    trainer.save_steps(4)
    ship(trainer.run, ours)
    dest = tmp_path / "dest"
    follower = Follower(theirs, dest)
    arrival = follower.poll()
    assert arrival is not None
    assert arrival.version.name == "step_000004"

    (tmp_path / "store" / POINTER).write_bytes(backup)
    assert follower._patient() is None
    assert "older than it was" in (follower.problem or "")
    trainer.save_steps(5)
    with pytest.raises(UntrustedError, match="older than it was"):  # numbers would come again
        ship(trainer.run, ours)
    assert (tmp_path / "store" / POINTER).read_bytes() == backup

    ship(trainer.run, ours, Policy(rewind=True))
    arrival = follower.poll()
    assert arrival is not None
    assert tree(arrival.path) == tree(trainer.run / arrival.version.name)
    assert catalog_of(theirs).rewind > 0
    known = catalog_of(theirs).id
    trainer.save_steps(6)
    ship(trainer.run, ours, Policy(rewind=True))  # which is an option that may stay
    assert catalog_of(theirs).id == known
    arrival = follower.poll()
    assert arrival is not None
    assert arrival.previous is not None

    (tmp_path / "store" / POINTER).write_bytes(backup)  # from before: signed, and yet old
    with pytest.raises(UntrustedError, match="another history"):
        follower.poll()


def test_command_line_goes_back_once(old: Path, tmp_path: Path, cli: Run) -> None:
    store, dest = tmp_path / "store", tmp_path / "dest"
    assert cli("pull", store, dest)[0] == 0
    put_back(old, tmp_path)
    code, _, err = cli("pull", store, dest)
    assert (code, err.count("\n")) == (11, 1)
    assert "--allow-rewind follows it" in err
    assert cli("pull", store, dest, "--dry-run")[0] == 11
    assert cli("pull", store, dest, "--dry-run", "--allow-rewind")[0] == 0
    assert cli("pull", store, dest, "--allow-rewind")[0] == 0
    assert cli("pull", store, dest)[0] == 0


def test_an_old_history_takes_the_trainer_nowhere(
    trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    """A pointer of before `ship --rewind`, signed by the trainer, is put back."""
    key, place, dest = new_key(tmp_path / "key"), tmp_path / "store", tmp_path / "dest"
    theirs = open_store(str(place), trust=key.trust, create=True)
    trainer.save_steps(1, 2, 3)
    assert cli("ship", trainer.run, place, "--sign", key.key)[0] == 0
    before = [(place / POINTER).read_bytes()]
    (place / POINTER).unlink()
    assert cli("ship", trainer.run, place, "--sign", key.key, "--rewind", "--newest")[0] == 0
    before.append((place / POINTER).read_bytes())
    pull(theirs, dest)

    for i, old in enumerate(before):
        (place / POINTER).write_bytes(old)
        if i:  # from here on nothing new was shipped, and yet the history is another one
            assert cli("ship", trainer.run, place, "--sign", key.key)[0] == 11
        trainer.save_steps(4 + i)
        for more in ((), ("--dry-run",)):
            code, _, err = cli("ship", trainer.run, place, "--sign", key.key, *more)
            assert (code, err.count("\n")) == (11, 1)
            assert "a history from before the one it went over to; --rewind begins another" in err
        assert (place / POINTER).read_bytes() == old
        with pytest.raises(UntrustedError, match="another history"):
            pull(theirs, dest)
        assert cli("ship", trainer.run, place, "--sign", key.key, "--rewind")[0] == 0
        assert shown(pull(theirs, dest)) == f"step_{4 + i:06}"
        assert cli("ship", trainer.run, place, "--sign", key.key, "--rewind")[0] == 0  # as before


def test_a_history_begun_with_nothing_new_is_known_as_well(
    old: Path, trainer: Trainer, store: Store, tmp_path: Path
) -> None:
    put_back(old, tmp_path)
    shutil.rmtree(trainer.run / "step_000003")  # so that nothing is to be shipped
    assert not ship(trainer.run, store, Policy(rewind=True)).shipped
    put_back(old, tmp_path)
    with pytest.raises(UntrustedError, match="a history from before"):
        ship(trainer.run, store)
    shutil.rmtree(default_state(trainer.run))  # who knows nothing goes on from what is there
    trainer.save_steps(4)
    assert len(ship(trainer.run, store).shipped) == 1


def test_status_says_that_a_store_has_gone_back_or_holds_another_history(
    old: Path,
    trainer: Trainer,
    store: Store,
    tmp_path: Path,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dest = tmp_path / "dest"
    pull(store, dest)
    words = ("status", store.name, dest)
    code, out, _ = cli(*words)
    assert code == 0
    assert "gone back" not in out
    put_back(old, tmp_path)
    code, out, _ = cli(*words)
    assert code == 0
    assert f"{dest}: its store has gone back to version 2, and was at 3; pull refuses it" in out
    code, out, _ = cli("status", trainer.run, store.name)
    assert code == 0
    assert (
        f"{trainer.run}: its store has gone back to version 2, and was at 3; ship refuses it" in out
    )
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(default_state(trainer.run))
    ship(trainer.run, open_store(store.name, create=True))
    monkeypatch.chdir(tmp_path)
    for more in ([store.name], ["store"], ["store/."], []):  # the record says where it was
        code, out, _ = cli("status", *more, dest)
        assert code == 0
        assert f"{dest}: holds another history than {store.name}" in out
        assert "as well" not in out


def test_a_copy_of_a_store_is_not_taken_for_the_store(
    old: Path, store: Store, tmp_path: Path, cli: Run
) -> None:
    """What lags behind has not gone back; and a store that has is not what its copy is."""
    dest, copy = tmp_path / "dest", tmp_path / "copy"
    pull(store, dest)
    shutil.copytree(tmp_path / "store", copy)
    shutil.copy(old, copy / POINTER)
    for words in ([copy], [store.name, copy], [copy, store.name]):
        code, out, _ = cli("status", *words, dest)
        assert (code, "gone back" in out, "0 versions" in out) == (0, False, True)
    shutil.copy(tmp_path / "store" / POINTER, copy)
    put_back(old, tmp_path)
    for words in ([copy], [store.name, copy], [copy, store.name]):
        assert "gone back to version 2" in cli("status", *words, dest)[1]


def test_a_store_of_a_relative_name_is_not_taken_for_one_of_that_name_elsewhere(
    trainer: Trainer, store: Store, tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.save_steps(1)
    ship(trainer.run, store)
    monkeypatch.chdir(tmp_path)
    pull(open_store("store"), "dest")
    assert "0 versions" in cli("status", "dest")[1]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    other = Trainer(tmp_path / "other")
    other.save_steps(1)
    ship(other.run, open_store("store", create=True))
    out = cli("status", tmp_path / "dest")[1]
    assert "another history" not in out
    assert "give store as well" in out


@pytest.mark.parametrize("in_place", [False, True])
def test_looking_while_another_run_pulls_takes_no_store_for_one_that_went_back(
    in_place: bool,
    trainer: Trainer,
    store: Store,
    tmp_path: Path,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the record is read, that run brings what the store did not have a moment ago."""
    dest, step = tmp_path / "dest", 1
    trainer.save_steps(step)
    ship(trainer.run, store)
    pull(store, dest, in_place=in_place)
    load = state.load_pulled

    def late(*args: Any) -> Any:
        nonlocal step
        with monkeypatch.context() as patched:
            patched.setattr(state, "load_pulled", load)
            step += 1
            trainer.save_steps(step)
            ship(trainer.run, store)
            pull(store, dest, in_place=in_place)
        return load(*args)

    monkeypatch.setattr(state, "load_pulled", late)
    code, out, _ = cli("status", store.name, dest)
    assert (code, "gone back" in out, "0 versions" in out) == (0, False, True)
    found = preview(store, dest, in_place=in_place)
    assert (found.version.version, found.current, found.patches) == (step, step, [])
    assert found.catalog.latest.version == step


def test_log_says_that_a_store_was_taken_back(
    old: Path, trainer: Trainer, store: Store, tmp_path: Path, cli: Run
) -> None:
    assert "taken back" not in cli("log", store.name)[1]
    assert json.loads(cli("log", store.name, "--json")[1])["rewind"] == 0
    put_back(old, tmp_path)
    ship(trainer.run, store, Policy(rewind=True))
    rewind = catalog_of(store).rewind
    assert json.loads(cli("log", store.name, "--json")[1])["rewind"] == rewind
    at = datetime.fromtimestamp(rewind, UTC).strftime("%Y-%m-%d %H:%M:%S")
    assert f"taken back, or begun anew, at {at}:" in cli("log", store.name)[1]
    catalog, tag = existing_catalog(store)
    assert write_catalog(store, replace(catalog, rewind=(1 << 63) - 1), tag)
    code, out, err = cli("log", store.name)
    assert (code, err) == (0, "")
    assert "at a time that is none" in out
