"""Publisher and Follower where disks fail, and killed: old or new, never half."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsediff import open_store, pull, versions
from sparsediff.errors import UnavailableError
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.check import check
from sparsediff.shipping.objects import keys_of
from sparsediff.torch import Publisher
from tests.support.commands import left_over
from tests.support.runs import catalog_of
from tests.support.touches import Touched
from tests.support.touches import touched as touched

State = dict[str, torch.Tensor]
CODES = [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow)]


def failing(code: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


# A publisher


def state(step: int) -> State:
    """Words of a step, which none before has in their places."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3000, generator=generator).bfloat16()
    weight[step * 50 : step * 50 + 50] += step
    return {"weight": weight, "bias": torch.full((7,), float(step))}


@pytest.mark.parametrize("code", CODES)
def test_publishing_on_a_disk_that_fails(code: int, tmp_path: Path, touched: Touched) -> None:
    """Scratch files, too: all that it writes lies below one directory."""
    live = tmp_path / "live"
    scratch = live / "scratch"
    scratch.mkdir(parents=True)
    n_failed = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(scratch))
        store = open_store(str(live / "store"), create=True, retries=0)
        publisher = Publisher(store, jobs=1)
        publisher.publish(state(0), 0)
        for n in range(1, 200):
            before = [v.number for v in versions(store)]
            failed, raised = touched.before(n, failing(code)), False
            try:
                publisher.publish(state(2 * n - 1), 2 * n - 1)
            except UnavailableError as e:
                assert os.strerror(code).lower() in str(e), failed  # noqa: PT017
                assert "\n" not in str(e)  # noqa: PT017
                n_failed, raised = n_failed + 1, True
            touched.leave()
            published = [v.number for v in versions(store)]
            assert published in (before, [*before, 2 * n - 1]), failed
            assert not left_over(live), failed
            for left in scratch.iterdir():
                assert failed[0].startswith("removal"), failed
                shutil.rmtree(left)
            if not failed:
                break
            done = publisher.publish(state(2 * n), 2 * n)
            assert (done.version.step is None) == (raised and published != before), failed
    assert n_failed > 8
    last = f"step_{2 * n - 1:06}"
    pull(store, tmp_path / "dest")
    save_file(state(2 * n - 1), tmp_path / "want", {"format": "pt"})
    found = tmp_path / f"dest/versions/{last}/model.safetensors"
    assert found.read_bytes() == (tmp_path / "want").read_bytes()
    check(store, now=time.time() + 10, grace=5, repair=True)
    assert {o.key for o in store.list("")} == keys_of(store, catalog_of(store)) | {POINTER}
