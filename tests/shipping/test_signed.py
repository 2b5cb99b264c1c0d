"""Stores whose pointer is signed: nothing else passes once a key is trusted, in any verb."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sparsediff import verify_patch
from sparsediff.checksum import checksum
from sparsediff.errors import CorruptError, UnsupportedError, UntrustedError, UsageError
from sparsediff.shipping.catalog_json import POINTER, dump, parse
from sparsediff.shipping.check import check
from sparsediff.shipping.follow import Follower, versions
from sparsediff.shipping.history import store_series
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.pull import preview, pull
from sparsediff.shipping.sealing import write_catalog
from sparsediff.shipping.ship import ship
from sparsediff.signing import Signer, signer
from sparsediff.stores import Store, open_store
from tests.conftest import Run
from tests.support.keys import Pair, new_key, outdated
from tests.support.pairs import tree
from tests.support.runs import Trainer, catalog_of


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return new_key(tmp_path / "key")


@pytest.fixture
def shipped(trainer: Trainer, pair: Pair, tmp_path: Path) -> Path:
    """A signed store with two versions."""
    store = open_store(str(tmp_path / "store"), create=True, signer=pair.signer)
    trainer.save_steps(1, 2)
    ship(trainer.run, store)
    return tmp_path / "store"


def rewritten(store: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the pointer as somebody would who has no key, but can count."""
    path = store / POINTER
    document = json.loads(path.read_text())
    del document["xxh3"]
    change(document)
    document["xxh3"] = checksum(json.dumps(document, separators=(",", ":")).encode())
    path.write_text(json.dumps(document))


def unsigned(store: Path) -> None:
    """Take the signatures out of a pointer."""

    def change(document: dict[str, object]) -> None:
        del document["signatures"]

    rewritten(store, change)


READERS: dict[str, Callable[[Store, Path], object]] = {
    "pull": pull,
    "pull --dry-run": preview,
    "pull --in-place": lambda store, dest: pull(store, dest, in_place=True),
    "Follower": lambda store, dest: Follower(store, dest).poll(),
    "versions": lambda store, _: versions(store),
    "stats": lambda store, _: store_series(store),
    "check": lambda store, _: check(store, now=time.time()),
    "check --repair": lambda store, _: check(store, now=time.time(), repair=True),
    "prune": lambda store, _: prune(store, now=time.time(), keep=1),
}


@pytest.mark.parametrize("reader", READERS)
def test_nothing_unsigned_passes_once_a_key_is_trusted(
    reader: str, shipped: Path, pair: Pair, tmp_path: Path
) -> None:
    other = new_key(tmp_path / "other")
    read = READERS[reader]
    before = (shipped / POINTER).read_bytes()
    for trusted in (other, outdated(pair)):
        with pytest.raises(UntrustedError) as caught:
            read(open_store(str(shipped), trust=trusted.trust), tmp_path / "dest")
        assert POINTER in str(caught.value)
    assert (shipped / POINTER).read_bytes() == before
    unsigned(shipped)
    with pytest.raises(UntrustedError, match="is not signed"):
        read(open_store(str(shipped), trust=pair.trust), tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("reader", [r for r in READERS if r not in ("prune", "check --repair")])
def test_what_is_signed_passes_with_the_key_and_without_any(
    reader: str, shipped: Path, pair: Pair, tmp_path: Path
) -> None:
    for i, trusted in enumerate((pair.trust, None)):
        READERS[reader](open_store(str(shipped), trust=trusted), tmp_path / f"dest{i}")


VERBS = (
    "pull {store} {dest}",
    "log {store}",
    "status {store}",
    "check {store}",
    "check {store} --repair",
    "prune {store} --keep 1",
    "stats --store {store}",
    "ship {run} {store}",
)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("how", ["option", "environment"])
def test_every_verb_on_a_store_takes_trust(
    verb: str,
    how: str,
    shipped: Path,
    trainer: Trainer,
    tmp_path: Path,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = new_key(tmp_path / "other")
    words = verb.format(store=shipped, dest=tmp_path / "dest", run=trainer.run).split()
    if how == "option":
        words += ["--trust", str(other.public)]
    else:
        monkeypatch.setenv("SPARSEDIFF_TRUST", str(other.public))
    code, _, err = cli(*words)
    assert (code, err.count("\n")) == (11, 1)
    assert "no signature is trusted" in err


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("how", ["--trust", "--sign", "environment"])
@pytest.mark.parametrize("keys", ["", " ", "\n", "\n \n"])
def test_no_key_is_not_every_key(
    verb: str,
    how: str,
    keys: str,
    shipped: Path,
    trainer: Trainer,
    tmp_path: Path,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `$(cat keys)` gives where that file is empty."""
    words = verb.format(store=shipped, dest=tmp_path / "dest", run=trainer.run).split()
    if how == "environment":
        monkeypatch.setenv("SPARSEDIFF_TRUST", keys)
    else:
        words += [how, keys]
    if how == "--sign" and words[0] not in ("ship", "prune", "check"):
        return
    code, out, err = cli(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "without a key" in err


def test_no_byte_of_a_signed_pointer_can_be_changed(shipped: Path, pair: Pair) -> None:
    data = (shipped / POINTER).read_bytes()
    whole = parse(data, None, pair.trust)
    passed = []
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 0x01
        try:
            found = parse(bytes(changed), None, pair.trust)
        except (CorruptError, UnsupportedError):
            continue
        passed.append(data[at : at + 1])
        assert found == whole  # white space, or how a text is escaped
    assert set(passed) <= {b" ", b"\n"}


def test_each_field_is_covered_by_the_signature(shipped: Path, pair: Pair) -> None:
    """With a right checksum, which anybody can compute."""
    data = (shipped / POINTER).read_bytes()
    for name in json.loads(data):
        if name in ("xxh3", "signatures"):
            continue
        (shipped / POINTER).write_bytes(data)

        def change(document: dict[str, object], name: str = name) -> None:
            document[name] = [document[name]]

        rewritten(shipped, change)
        with pytest.raises((CorruptError, UnsupportedError)):
            catalog_of(open_store(str(shipped), trust=pair.trust))
    fields: list[dict[str, object]] = [{"extra": 1}, {"rewind": 1 << 40}]
    for added in fields:
        (shipped / POINTER).write_bytes(data)
        rewritten(shipped, lambda document, added=added: document.update(added))  # type: ignore[misc]
        with pytest.raises(UntrustedError, match="a wrong one"):
            catalog_of(open_store(str(shipped), trust=pair.trust))


def test_objects_are_covered_by_the_digests_in_the_pointer(
    pair: Pair, tmp_path: Path, cli: Run
) -> None:
    """One is replaced by a patch that is as good, of other weights; its size is no hindrance."""
    objects: list[Path] = []
    for seed in (0, 1):
        trainer = Trainer(tmp_path / f"run{seed}", seed=seed)
        trainer.save_steps(1)
        place = tmp_path / f"store{seed}"
        ship(trainer.run, open_store(str(place), create=True, signer=pair.signer))
        objects += place.rglob("*.sdiff")
    ours, theirs = objects
    old, new = (str(path.stat().st_size) for path in objects)
    ours.write_bytes(theirs.read_bytes())
    pointer = tmp_path / "store0" / POINTER
    document = json.loads(pointer.read_text().replace(old, new))
    pointer.write_text(json.dumps(document))
    rewritten(tmp_path / "store0", lambda _: None)
    assert cli("sign", tmp_path / "store0", "--sign", pair.key)[0] == 0
    verify_patch(ours)
    with pytest.raises(CorruptError, match="no intact way"):
        pull(open_store(str(tmp_path / "store0"), trust=pair.trust), tmp_path / "dest")
    assert not (tmp_path / "dest/current").exists()


def test_figures_are_of_patches_that_are_what_the_pointer_says(
    trainer: Trainer, pair: Pair, tmp_path: Path
) -> None:
    """Also of one that `pull` goes around, and so compares with nothing."""
    directory = tmp_path / "store"
    store = open_store(str(directory), create=True, signer=pair.signer)
    trainer.save_steps(1, 2)
    ship(trainer.run, store, policy=Policy(anchor_every=1))
    before = asdict(store_series(store).steps[0])
    (step,) = directory.glob("versions/000002-*/from-*")
    data = bytearray(step.read_bytes())
    data[-1] ^= 1  # of a payload: what says how much changed is whole
    step.write_bytes(data)
    assert pull(store, tmp_path / "dest").version == catalog_of(store).latest
    with pytest.raises(CorruptError, match="SHA-256"):
        store_series(store)
    data[-1] ^= 1
    step.write_bytes(data)
    assert asdict(store_series(store).steps[0]) == before


@pytest.mark.parametrize("layout", [1, 2])
def test_who_knows_no_signatures_reads_a_signed_pointer(
    layout: int, shipped: Path, pair: Pair
) -> None:
    """As docs/store.md has it: fields that are not named are ignored, but in the checksum."""
    store = open_store(str(shipped), signer=pair.signer)
    catalog = replace(catalog_of(store), layout=layout)
    document = json.loads(dump(catalog, pair.signer))
    stated = document.pop("xxh3")
    assert checksum(json.dumps(document, separators=(",", ":")).encode()) == stated
    assert list(document)[-1] == "signatures"
    assert parse(dump(catalog, pair.signer), None, pair.trust) == catalog
    assert parse(dump(catalog)) == catalog


def test_a_writer_without_the_key_leaves_a_signed_store_alone(
    shipped: Path, trainer: Trainer
) -> None:
    trainer.save_steps(3)
    before = tree(shipped)
    store = open_store(str(shipped))
    for write in (
        lambda: ship(trainer.run, store),
        lambda: prune(store, now=time.time(), keep=1),
        lambda: write_catalog(store, catalog_of(store), store.tag(POINTER)),
    ):
        with pytest.raises(UsageError, match="this store is signed"):
            write()
    assert tree(shipped) == before


def test_who_trusts_keys_and_has_none_writes_nothing(
    trainer: Trainer, pair: Pair, tmp_path: Path, cli: Run
) -> None:
    """Not even a first version, which nobody who trusts the same keys would take."""
    trainer.save_steps(1, 2)
    ends = cli("ship", trainer.run, tmp_path / "store", "--trust", pair.public)
    assert ends[0] == 2
    assert "nobody would sign what is written; give the key (--sign)" in ends[2]
    assert not (tmp_path / "store").exists()
    assert cli("ship", trainer.run, tmp_path / "store", "--sign", pair.key)[0] == 0


def test_a_writer_signs_nothing_that_it_does_not_trust(
    shipped: Path, trainer: Trainer, pair: Pair
) -> None:
    unsigned(shipped)
    trainer.save_steps(3)
    before = tree(shipped)
    store = open_store(str(shipped), signer=pair.signer)
    for write in (
        lambda: ship(trainer.run, store),
        lambda: prune(store, now=time.time(), keep=1),
        lambda: check(store, now=time.time(), repair=True),
    ):
        with pytest.raises(UntrustedError, match="is not signed"):
            write()
    assert tree(shipped) == before
    (shipped / POINTER).unlink()
    with pytest.raises(UntrustedError, match="nobody signed"):
        check(store, now=time.time(), repair=True)


def test_keys_are_changed_while_machines_follow(
    shipped: Path, trainer: Trainer, pair: Pair, tmp_path: Path
) -> None:
    """Old key, then both, then the new one; machines may change theirs at any time between."""
    new = new_key(tmp_path / "new")
    both = signer([pair.key, new.key])
    pull(open_store(str(shipped), trust=pair.trust), tmp_path / "dest")
    trainer.save_steps(3)
    ship(trainer.run, open_store(str(shipped), signer=both))
    for trusted in (pair, new):
        pull(open_store(str(shipped), trust=trusted.trust), tmp_path / f"dest-{trusted.key.name}")
    trainer.save_steps(4)
    ship(trainer.run, open_store(str(shipped), signer=new.signer))
    with pytest.raises(UntrustedError, match="found one of"):
        pull(open_store(str(shipped), trust=pair.trust), tmp_path / "dest")
    result = pull(open_store(str(shipped), trust=new.trust), tmp_path / "dest")
    assert result.version is not None
    assert result.version.version == 4


def test_a_trainer_whose_key_expires_meanwhile_is_told_so(
    shipped: Path, trainer: Trainer, pair: Pair
) -> None:
    """As with `--watch`: what it wrote itself has expired too, and is not what to look at."""
    store = open_store(str(shipped), signer=pair.signer)
    late = replace(pair.signer.keys[0].public, expires=1.0)
    store.signer = Signer((replace(pair.signer.keys[0], public=late),))
    store.trust = store.signer.trust
    trainer.save_steps(3)
    with pytest.raises(UsageError, match="has expired; sign with a new one"):
        ship(trainer.run, store)


def test_sign_vouches_for_a_store_that_is_there(
    shipped: Path, pair: Pair, tmp_path: Path, cli: Run
) -> None:
    unsigned(shipped)
    new = new_key(tmp_path / "new")
    code, _, err = cli("sign", shipped, "--sign", new.key, "--trust", pair.public)
    assert code == 11
    assert "is not signed" in err
    assert cli("sign", shipped, "--sign", pair.key)[0] == 0
    assert cli("sign", shipped, "--sign", new.key, "--trust", pair.public)[0] == 0
    assert cli("log", shipped, "--trust", pair.public)[0] == 11
    assert cli("log", shipped, "--trust", new.public)[0] == 0


def test_sign_says_why_there_is_no_pointer(shipped: Path, pair: Pair, cli: Run) -> None:
    dest = shipped.with_name("dest")
    pull(open_store(str(shipped)), dest)
    (shipped / POINTER).unlink()
    for place, code, text in ((dest, 2, "destination of pull"), (shipped, 11, "check STORE")):
        ended = cli("sign", place, "--sign", pair.key)
        assert ended[0] == code
        assert text in ended[2]


def test_a_follower_stays_where_it_is_and_says_why(
    shipped: Path, trainer: Trainer, pair: Pair, tmp_path: Path
) -> None:
    follower = Follower(open_store(str(shipped), trust=pair.trust), tmp_path / "dest", every=0.01)
    arrivals = iter(follower)
    assert next(arrivals).version.version == 2
    signed = (shipped / POINTER).read_bytes()
    unsigned(shipped)
    assert follower._patient() is None
    assert "is not signed" in (follower.problem or "")
    (shipped / POINTER).write_bytes(signed)
    trainer.save_steps(3)
    ship(trainer.run, open_store(str(shipped), signer=pair.signer))
    arrival = next(arrivals)
    assert arrival.previous is not None
    assert (arrival.previous.version, arrival.version.version) == (2, 3)


def test_no_output_holds_a_key(shipped: Path, trainer: Trainer, pair: Pair, cli: Run) -> None:
    body = pair.key.read_text().splitlines()[-2]
    trainer.save_steps(3)
    said = [cli("ship", trainer.run, shipped, "--sign", pair.key, "--log-json")]
    said.append(cli("ship", trainer.run, shipped, "--sign", f"command:cat {pair.key}"))
    said.append(cli("ship", trainer.run, shipped, "--sign", f"command:cat {pair.key}; exit 7"))
    said.append(cli("log", shipped, "--trust", pair.key))
    said.append(cli("prune", shipped, "--keep", 1, "--sign", pair.key, "--json"))
    for line in ("cat {0} {0}", "sed s/BEGIN/START/ {0}", "sed s/PRIVATE/PUBLIC/ {0}"):
        said.append(cli("ship", trainer.run, shipped, "--sign", f"command:{line}".format(pair.key)))
    text, broken = pair.key.read_text(), pair.key.with_name("broken")
    broken.touch(0o600)
    for bad in (text * 2, text.replace("BEGIN", "START"), "Expires: " + text):
        broken.write_text(bad)
        said.append(cli("ship", trainer.run, shipped, "--sign", broken))
        said.append(cli("log", shipped, "--trust", broken))
    assert [code for code, _, _ in said] == [0, 0, 13, 2, 0, *[2] * 9]
    assert not any(word in err for _, _, err in said for word in ("sed s/", "cat ", "exit 7"))
    written = [p.read_bytes() for p in shipped.rglob("*") if p.is_file()]
    written += [p.read_bytes() for p in trainer.run.parent.glob(".run*/state.json")]
    assert len(written) > 3
    assert not any(body in out + err for _, out, err in said)
    assert not any(body.encode() in data for data in written)


def test_a_share_of_what_is_signed_is_refused(shipped: Path, pair: Pair, tmp_path: Path) -> None:
    """Ranges of an object have no digest in the pointer."""
    store = open_store(str(shipped), trust=pair.trust)
    for call in (pull, preview):
        with pytest.raises(UsageError, match="do not go together"):
            call(store, tmp_path / "dest", files=["config.json"])
    assert not (tmp_path / "dest/current").exists()


def test_a_signed_store_that_lost_its_pointer_says_what_to_do(
    shipped: Path, trainer: Trainer, pair: Pair, tmp_path: Path, cli: Run
) -> None:
    dest = tmp_path / "dest"
    assert cli("pull", shipped, dest, "--trust", pair.public)[0] == 0
    (shipped / POINTER).write_bytes(b"{")
    assert "--repair" not in cli("check", shipped, "--trust", pair.public)[2]
    assert "--repair" in cli("check", shipped)[2]
    (shipped / POINTER).unlink()
    for words in (("pull", shipped, dest), ("log", shipped), ("check", shipped)):
        code, _, err = cli(*words, "--trust", pair.public)
        assert (code, err.count("\n")) == (11, 1)
        assert "put a signed one back, or let ship --rewind begin anew" in err
    code, _, err = cli("check", shipped, "--repair", "--sign", pair.key)
    assert code == 11
    assert "--rewind of ship begins anew" in err
    assert cli("ship", trainer.run, shipped, "--rewind", "--sign", pair.key)[0] == 0
    assert cli("pull", shipped, dest, "--trust", pair.public)[0] == 0


def test_a_first_ship_that_is_refused_leaves_no_directory(
    shipped: Path, trainer: Trainer, tmp_path: Path, cli: Run
) -> None:
    """Here because its record says that it shipped elsewhere."""
    before = tree(tmp_path)
    for place in (tmp_path / "new", tmp_path / "new/deep/store"):
        assert cli("ship", trainer.run, place)[0] == 13
        assert not (tmp_path / "new").exists()
    assert tree(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert cli("ship", trainer.run, tmp_path / "empty")[0] == 13
    assert (tmp_path / "empty").is_dir()
