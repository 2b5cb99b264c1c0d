"""keygen on a disk that fails, killed, twice at once, without power: no key is lost or replaced."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from sparsediff.errors import UsageError
from sparsediff.signing import generate, private_key, public_key
from tests.conftest import Run
from tests.support.commands import left_over
from tests.support.kills import killed_at_each_point
from tests.support.power import Recorder, restore
from tests.support.refusals import EXIT, refused
from tests.support.touches import Touched
from tests.support.touches import touched as touched


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "live"


def empty(live: Path) -> None:
    shutil.rmtree(live, ignore_errors=True)
    live.mkdir()


def sound(live: Path) -> None:
    """There is nothing, a whole private key, or both halves of one."""
    key, public = live / "key", live / "key.pub"
    if key.exists():
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        private_key(key)
    if public.exists():
        assert public_key(public) == private_key(key).public


def begun_again(live: Path, cli: Run) -> None:
    """The same command completes what is there, and keeps it."""
    sound(live)
    key = live / "key"
    before = key.read_bytes() if key.exists() else None
    whole = (live / "key.pub").exists()
    result = cli("keygen", "-o", key)
    if whole:
        refused(result, EXIT["usage"], "no key is ever replaced")
    else:
        assert result[0] == 0, result
        assert ("was there and stays" in result[1]) == (before is not None)
        assert public_key(live / "key.pub").id in result[1]
    sound(live)
    assert sorted(os.listdir(live)) == ["key", "key.pub"]
    assert before in (None, key.read_bytes())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_disk(code: int, live: Path, touched: Touched, cli: Run) -> None:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    alone = 0
    for n in range(1, 100):
        empty(live)
        failed = touched.before(n, fail)
        result = cli("keygen", "-o", live / "key")
        touched.leave()
        if not failed:
            assert result[0] == 0
            break
        refused(result, EXIT["unavailable"])
        assert not left_over(live), (n, failed)
        alone += os.listdir(live) == ["key"]
        begun_again(live, cli)
    assert n > 8
    assert alone, "it never failed between the two"


def test_killed(live: Path, tmp_path: Path, cli: Run) -> None:
    found = []
    for _ in killed_at_each_point(
        lambda: empty(live), lambda: generate(live / "key"), tmp_path / "log", live
    ):
        found.append(sorted(n for n in os.listdir(live) if not n.startswith(".")))
        begun_again(live, cli)
    assert ["key"] in found


def test_two_at_once(live: Path, touched: Touched, cli: Run) -> None:
    other: list[tuple[int, str, str]] = []
    for n in range(1, 100):
        empty(live)
        other.clear()
        where = touched.before(n, lambda: other.append(cli("keygen", "-o", live / "key")))
        ours = cli("keygen", "-o", live / "key")
        touched.leave()
        for result in (ours, *other):
            if result[0]:
                assert result[0] in (EXIT["locked"], EXIT["usage"]), (n, where, ours, other)
                is_locked = result[0] == EXIT["locked"]
                refused(result, result[0], "another" if is_locked else "no key is ever replaced")
        shown = [out for code, out, _ in (ours, *other) if code == 0]
        assert len(shown) == 1, (n, where, ours, other)
        assert private_key(live / "key").public.id in shown[0]
        sound(live)
        assert sorted(os.listdir(live)) == ["key", "key.pub"]
        if not where:
            break
    assert n > 8


def test_power_failure(live: Path, tmp_path: Path, cli: Run) -> None:
    empty(live)
    shutil.copytree(live, tmp_path / "origin")
    recorder = Recorder(live, tmp_path / "origin")
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorder.watch(monkeypatch)
        assert cli("keygen", "-o", live / "key")[0] == 0
    recorder.point("at the end")
    alone = 0
    for state in recorder.states:
        restore(state, live)
        alone += [name for name, _ in state if not name.startswith(".")] == ["key"]
        begun_again(live, cli)
    assert alone, "the power never failed between the two"


DAY = 86400


@pytest.mark.parametrize(
    ("made", "asked", "taken"),
    [(None, None, True), (DAY, DAY + 60, True), (None, DAY, False), (DAY, None, False),
     (2 * DAY, DAY, False)],
)  # fmt: skip
def test_a_key_that_lies_alone_lasts_as_long_as_is_asked(
    made: float | None, asked: float | None, taken: bool, tmp_path: Path
) -> None:
    """A run that was cut off had the same options, some time before."""
    key, public = tmp_path / "key", tmp_path / "key.pub"
    generate(key, expires=None if made is None else 2e9 + made)
    before = key.read_bytes(), public.read_bytes()
    public.unlink()
    expires = None if asked is None else 2e9 + asked
    if taken:
        generate(key, expires=expires)
        assert (key.read_bytes(), public.read_bytes()) == before
    else:
        with pytest.raises(UsageError, match="no key is ever replaced"):
            generate(key, expires=expires)
        assert os.listdir(tmp_path) == ["key"]
        assert key.read_bytes() == before[0]


def test_a_key_of_another_owner_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    generate(key)
    (tmp_path / "key.pub").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: os.lstat(key).st_uid + 1)
    with pytest.raises(UsageError, match="no key is ever replaced"):
        generate(key)
    assert os.listdir(tmp_path) == ["key"]
