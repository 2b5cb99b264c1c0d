"""A disk that fails once, wherever a command touches it: one line, old or new, then it works."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.commands import ALL, NAMES, left_over
from tests.support.refusals import EXIT
from tests.support.touches import Touched
from tests.support.touches import touched as touched

CODES = [
    pytest.param(errno.ENOSPC, id="full"),
    pytest.param(errno.EIO, id="broken", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", NAMES)
def test_an_error_of_the_disk(
    name: str, code: int, tmp_path: Path, touched: Touched, cli: Run
) -> None:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    case = ALL[name](tmp_path)
    for n in range(1, 1000):
        case.prepare()
        failed = touched.before(n, fail)
        found, out, err = cli(*case.words)
        touched.leave()
        where = f"{n}: {failed}: {found} {err}"
        case.sound()
        if failed and not failed[0].startswith("removal"):
            assert not left_over(tmp_path / "live"), where
        if found:
            assert found == EXIT["unavailable"], where
            assert failed, where
            assert err.count("\n") == 1, where
            assert err.startswith("sparsediff: "), where
            assert out == "", where
        else:
            case.done()
        if not failed:
            assert n > 3, "the disk was hardly touched"
            return
        again = cli(*case.words)
        assert again[0] == 0, (where, again)
        case.done()
        assert not left_over(tmp_path / "live"), where
