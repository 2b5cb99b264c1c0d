"""Out of descriptors, or of room in a file: one line, code 13, old or new, and then it works."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import pytest

from sparsediff import cli as cli_module
from sparsediff.patch.container import sign_patch
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store, retry
from tests.conftest import Run
from tests.support.commands import ALL, NAMES, left_over, pair
from tests.support.keys import new_key
from tests.support.limits import limited
from tests.support.refusals import EXIT, refused
from tests.support.runs import Trainer

SIZES = [200 * 5**n for n in range(8)]  # the least has room for what is said on stderr


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again, is tried again at once; and who has no command line gets our errors."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(cli_module, "from_os_error", escaped)


def escaped(error: OSError, _: object) -> NoReturn:
    raise AssertionError("an OSError came out of the library") from error


@pytest.mark.parametrize("name", NAMES)
def test_few_descriptors(name: str, tmp_path: Path, cli: Run) -> None:
    """One more at a time, until there are enough."""
    n_failed = drill(name, tmp_path, cli, resource.RLIMIT_NOFILE, descriptors)
    assert n_failed


@pytest.mark.parametrize("name", NAMES)
def test_short_files(name: str, tmp_path: Path, cli: Run) -> None:
    """No file may become longer: writing fails, wherever and however that is done."""
    n_failed = drill(name, tmp_path, cli, resource.RLIMIT_FSIZE, lambda: SIZES)
    assert n_failed


def descriptors() -> Iterable[int]:
    """Limits from the one that leaves none free."""
    gc.collect()  # what tests before left open is not closed meanwhile
    lowest = os.dup(0)
    os.close(lowest)
    return range(lowest, lowest + 100)


def drill(
    name: str, tmp_path: Path, cli: Run, what: int, limits: Callable[[], Iterable[int]]
) -> int:
    """Run a command under each limit, until it succeeds; how often it failed."""
    case = ALL[name](tmp_path)
    case.prepare()
    assert cli(*case.words)[0] == 0  # what is imported later, is imported now
    for n_failed, limit in enumerate(limits()):
        case.prepare()
        with limited(what, limit):
            result = cli(*case.words)
        case.sound()
        if result[0] == 0:
            case.done()
            return n_failed
        refused(result, EXIT["unavailable"])
        # To remove a directory takes a descriptor as well; then the next run does it.
        assert what == resource.RLIMIT_NOFILE or not left_over(tmp_path / "live"), (limit, result)
        assert cli(*case.words)[0] == 0, (limit, result)
        case.done()
        assert not left_over(tmp_path / "live"), (limit, result)
    raise AssertionError("it never had enough")


READERS = ("verify", "show", "stats", "log", "status", "check", "pull")


@pytest.mark.parametrize("verb", READERS)
def test_few_descriptors_to_read(verb: str, tmp_path: Path, cli: Run) -> None:
    """What cannot be opened is not taken for missing, unsigned or damaged."""
    key = new_key(tmp_path / "key")
    base, _, patch = pair(tmp_path)
    sign_patch(patch, key.signer)
    store = open_store(str(tmp_path / "store"), create=True, signer=key.signer)
    Trainer(tmp_path / "run", n=100).save_steps(1, 2)
    ship(tmp_path / "run", store)
    of_patch = {"verify": (patch, "--base", base), "show": (patch,), "stats": (patch,)}
    of_store = (store.name, tmp_path / "dest", "--dry-run") if verb == "pull" else (store.name,)
    words = (verb, *of_patch.get(verb, of_store), "--trust", key.public)
    whole = cli(*words)
    assert whole[0] == 0
    results = []
    for limit in descriptors():
        with limited(resource.RLIMIT_NOFILE, limit):
            results.append(cli(*words))
        if results[-1][0] == 0:
            break
        refused(results[-1], EXIT["unavailable"])
    assert len(results) > 1
    assert results[-1][2] == whole[2]
