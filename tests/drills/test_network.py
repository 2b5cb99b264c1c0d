"""A request is lost, cut, late or doubled: verbs end exact or with 13, the store whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsediff.shipping.check import check
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.faulty import FAULTS, FaultyProxy
from tests.support.keys import new_key
from tests.support.pairs import tree
from tests.support.processes import assert_one_line, use
from tests.support.refusals import EXIT
from tests.support.runs import Trainer, catalog_of
from tests.support.seaweed import Seaweed

# Patterns of "METHOD path", to find the request that is spoiled: one of ship, one of pull.
POINTER_AND_PATCH = ("PUT .*/latest.json", "GET .*/versions/")
EACH_IN_TURN = ("", "")


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[FaultyProxy]:
    with FaultyProxy(seaweed.ports["s3"]) as proxy:
        yield proxy


class Side:
    """What is said on the command line, with a fault once and then without."""

    def __init__(self, proxy: FaultyProxy, cli: Run) -> None:
        self._proxy, self._cli = proxy, cli

    def __call__(self, fault: str, where: str, n: int, retries: int, *words: object) -> bool:
        """Whether there was a request to spoil; it may have failed then, and only then."""
        return self.spoiled(fault, where, n, retries, *words, "--retries", retries)

    def spoiled(
        self, fault: str, where: str, n: int, retries: int, *words: object, ends: int = 0
    ) -> bool:
        """The same for who tries so often by itself, and ends so where nothing is spoiled."""
        self._proxy.spoil(fault, where, n)
        code, out, err = self._cli(*words, "-q")
        spoiled = self._proxy.has_spoiled
        about = (fault, where, n, words[0], code, err, self._proxy.requests)
        assert code in (ends, EXIT["unavailable"]), about
        assert code == ends or (spoiled and retries == 0), about
        if code != ends:
            assert_one_line(err)
        assert out == ""
        self._proxy.spoil(None)
        return spoiled

    def again(self, *words: object) -> None:
        """Without a fault; what still was on its way arrives afterwards."""
        code, _, err = self._cli(*words, "-q")
        assert code == 0, err
        self._proxy.settle()


@pytest.mark.parametrize("retries", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("where", "most"),
    [(POINTER_AND_PATCH, 1), pytest.param(EACH_IN_TURN, 99, marks=pytest.mark.slow)],
)
def test_a_request(
    where: tuple[str, str],
    most: int,
    fault: str,
    retries: int,
    seaweed: Seaweed,
    proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Run,
) -> None:
    url = use(seaweed, monkeypatch, proxy.port)
    store = open_store(url)
    trainer, dest = Trainer(tmp_path / "run", n=500), tmp_path / "dest"
    side = Side(proxy, cli)
    ship, pull = ("ship", trainer.run, url, "-j", 1), ("pull", url, dest, "-j", 1)
    originals: dict[str, dict[str, bytes]] = {}
    n_spoiled = 0

    def save() -> dict[str, bytes]:
        (path,) = trainer.save_steps(len(originals) + 1)
        return originals.setdefault(path.name, tree(path))

    save()
    side.again(*ship)
    for n in range(1, most + 1):
        save()
        shipped = side(fault, where[0], n, retries, *ship)
        last = save()  # what is late comes when the store has gone on
        side.again(*ship)
        assert [v.name for v in catalog_of(store).versions] == list(originals)
        assert check(store, now=time.time()).is_sound
        pulled = side(fault, where[1], n, retries, *pull)
        assert tree(dest / "current") in ({}, *originals.values())
        side.again(*pull)
        assert tree(dest / "current") == last
        n_spoiled += shipped + pulled
        if not (shipped or pulled):
            break
    assert n_spoiled >= 2
    assert n < 99


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", ["check --repair --grace 0s", "prune --keep 1 --grace 0s", "sign"])
def test_a_request_of_who_looks_after_a_store(
    verb: str,
    fault: str,
    seaweed: Seaweed,
    proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Run,
) -> None:
    url, key = use(seaweed, monkeypatch, proxy.port), new_key(tmp_path / "key")
    trainer, side = Trainer(tmp_path / "run", n=500), Side(proxy, cli)
    name, *options = verb.split()
    signs = ("--sign", key.key) if name == "sign" else ()
    where = "(PUT|POST|DELETE) " if name == "check" else ""  # which reads everything
    ship = ("ship", trainer.run, url, "-j", 1, "--anchor-every", 1)
    trainer.save_steps(0)
    side.again(*ship)
    for n in range(1, 99):
        last = tree(trainer.save_steps(n)[0])
        side.again(*ship, *(signs if n > 1 else ()))
        ends = 0
        if name == "check":  # something to repair, which it says it lost
            ends = EXIT["corrupt"]
            patch = catalog_of(open_store(url)).latest.step
            assert patch is not None
            open_store(url).delete(patch.key)
        spoiled = side.spoiled(fault, where, n, 5, name, url, *options, *signs, ends=ends)
        side.again(name, url, *options, *signs)
        assert check(open_store(url), now=time.time()).is_sound
        dest = tmp_path / f"dest {n}"
        side.again(*ship, *signs)
        side.again("pull", url, dest, "-j", 1, *(("--trust", key.public) if signs else ()))
        assert tree(dest / "current") == last
        if not spoiled:
            break
    assert 1 < n < 98
