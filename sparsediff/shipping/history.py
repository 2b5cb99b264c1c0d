"""The versions of a store as a series of checkpoints.

Enters: a store. Leaves: a `SeriesStats`. The versions are rebuilt one after the other in
a temporary directory, never more than two of them at a time; how large the patches are,
the store itself says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsediff.checkpoint import open_checkpoint
from sparsediff.checkpoint.formats import load_all
from sparsediff.disk.temps import scratch_directory
from sparsediff.errors import UsageError
from sparsediff.parallel import Progress
from sparsediff.shipping.absent import no_pointer
from sparsediff.shipping.catalog import StoredPatch
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.fetch import fetch
from sparsediff.shipping.places import Versions
from sparsediff.shipping.pull import pull
from sparsediff.stats import SeriesReader, SeriesStats, patch_stats
from sparsediff.stores import Store

_KEEP = 2  # versions on disk: what is compared
_STREAMS = 4  # requests at once


def store_series(
    store: Store,
    *,
    last: int | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> SeriesStats:
    """Compare each version of a store with the one before.

    Beside what `series_stats` needs, memory is a quarter of a byte for each element. Room
    for two checkpoints, and for a third one while it is rebuilt, is needed where temporary
    files go.

    Args:
        store: where the versions are.
        last: look at the newest so many versions only.
        jobs: threads; default all processors.
        progress: told of bytes fetched, rebuilt and read, for each version anew.

    Raises:
        UsageError: there are fewer than two versions that can be had.
        SparsediffError: as `pull` does.
    """
    load_all()
    found = read_catalog(store)
    if found is None:
        raise no_pointer(store)
    catalog = found[0]
    reachable = catalog.reachable()
    versions = [v for v in catalog.versions if v.version in reachable]
    versions = versions if last is None else versions[-last:]
    if len(versions) < 2:
        raise UsageError("a series needs two versions or more", file=store.name)
    reader = SeriesReader(jobs)
    with scratch_directory() as place:
        base = None
        for i, version in enumerate(versions):
            pulled = pull(
                store,
                place,
                version=version.name,
                keep=_KEEP,
                keep_patches=True,
                jobs=jobs,
                progress=progress,
            )
            assert pulled.path is not None
            target = open_checkpoint(pulled.path)
            if base is not None:
                reader.feed([base, target], more=i < len(versions) - 1, progress=progress)
                patch = version.step or version.anchor
                if patch is not None:
                    with _verified(store, patch, place) as path:
                        reader.add_patch(i - 1, patch_stats(path))
            base = target
    return reader.stats([v.name for v in versions])


@contextmanager
def _verified(store: Store, patch: StoredPatch, place: Path) -> Iterator[Path]:
    """A patch of which every byte is what the store says: `pull` may have gone around it."""
    kept = Versions(place, _KEEP).patch(patch.sha256)
    if kept.exists():
        yield kept
        return
    with scratch_directory() as room:
        yield fetch(store, [patch], room, streams=_STREAMS)[0][0]
