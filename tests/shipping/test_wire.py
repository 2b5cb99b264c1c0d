"""Bytes that really pass: what is sent and fetched is the patches, and little else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.catalog_json import POINTER
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import Store, open_store
from tests.support.pairs import tree
from tests.support.processes import use
from tests.support.runs import Trainer, catalog_of
from tests.support.seaweed import Proxy, Seaweed

N_VERSIONS = 20
PER_REQUEST = 800  # bytes of signed headers and answers, either way


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    with Proxy(seaweed.ports["s3"]) as proxy:
        yield proxy


def pointer_bytes(store: Store) -> int:
    found = store.get(POINTER)
    assert found is not None
    return len(found[0])


def objects_bytes(catalog: Catalog) -> int:
    return sum(p.n_bytes for v in catalog.versions for p in v.patches)


def test_bytes_on_the_wire(
    seaweed: Seaweed, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = use(seaweed, monkeypatch)
    direct = open_store(url)  # to look at it without being counted
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    store = open_store(url)
    trainer = Trainer(tmp_path / "run", n=100_000, lr=1e-7)
    dest = tmp_path / "dest"
    policy = Policy(anchor_every=15, squash_every=10)
    whole = sent = fetched = pointers = objects = 0
    patches, patch_sent = 0, []
    for i in range(1, N_VERSIONS + 1):
        (path,) = trainer.save_steps(i)
        size = sum(map(len, tree(path).values()))
        whole += size
        proxy.reset()
        ship(trainer.run, store, policy, jobs=1)
        up, up_requests = proxy.bytes_in, proxy.requests
        pointer = pointer_bytes(direct)
        pointers += pointer
        latest = catalog_of(direct).latest
        now = sum(p.n_bytes for p in latest.patches)
        # The first swap is tried twice: to see whether conditions hold.
        pointer_writes = pointer * (2 if i == 1 else 1)
        assert up <= 1.1 * (now + pointer_writes) + PER_REQUEST * up_requests, (i, up, now)
        sent, objects = sent + up, objects + now
        if latest.anchor is None:
            patch_sent.append((size, up))
        proxy.reset()
        result = pull(store, dest, jobs=1)
        down, down_requests = proxy.bytes_out, proxy.requests
        assert tree(dest / "current") == tree(path)
        assert result.fetched_bytes == sum(p.n_bytes for p in result.patches)
        assert down <= 1.1 * (result.fetched_bytes + pointer) + PER_REQUEST * down_requests
        fetched += down
        patches += result.fetched_bytes
    assert objects == objects_bytes(catalog_of(direct))
    proxy.reset()
    assert not pull(store, dest).switched
    idle = proxy.bytes_in + proxy.bytes_out
    assert idle <= pointer + 2 * PER_REQUEST
    ratio = sum(size for size, _ in patch_sent) / sum(up for _, up in patch_sent)
    assert len(patch_sent) >= N_VERSIONS - 3
    assert ratio > 30
    assert whole / fetched > 10
    print(
        f"\n{N_VERSIONS} versions of {whole / N_VERSIONS:,.0f} bytes\n"
        f"sent {sent:,} bytes: {objects:,} of objects, {pointers:,} of pointers; "
        f"{whole / sent:.1f}x less than whole, {ratio:.1f}x where it was patches alone\n"
        f"fetched {fetched:,} bytes: {patches:,} of objects; {whole / fetched:.1f}x less\n"
        f"a run with nothing new: {idle:,} bytes"
    )
