"""A share of a patch: some files of its target with what they come from, as a patch of its own.

Enters: a manifest, and which files. Leaves: the manifest of a patch between shares of the base
and of the target, and which of the payloads are its. Reads and encodes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from sparsediff.patch.manifest import Bucket, Manifest
from sparsediff.patch.tensors import Tensors


def narrowed(
    manifest: Manifest, wanted: Collection[str], keeps: Callable[[str], bool]
) -> tuple[Manifest, dict[str, str]]:
    """The share of a patch that leads to some files of its target.

    Args:
        manifest: of the patch.
        wanted: names of files of the target.
        keeps: of the names of base files, those that are in the share of the base though
            nothing is made from them: they are gone from the target's.

    Returns:
        The manifest of the share; and by the name of each payload in the patch its name there.
    """
    files = [i for i, f in enumerate(manifest.target_files) if f.name in wanted]
    needed = {manifest.target_files[i].dictionary for i in files}
    needed |= {manifest.tensors.base_files[t] for i in files for t in manifest.file_tensors[i]}
    bases = [
        i
        for i, f in enumerate(manifest.base_files)
        if i in needed or keeps(f.name) or not manifest.base_is_directory
    ]
    base_at: dict[int | None, int | None] = {old: new for new, old in enumerate(bases)}
    base_at[None] = None
    tensors = Tensors()
    buckets: list[Bucket] = []
    payloads: dict[str, str] = {}
    for new, i in enumerate(files):
        tensor_at = {t: len(tensors) + n for n, t in enumerate(manifest.file_tensors[i])}
        tensors.extend(manifest.tensors, manifest.file_tensors[i], base_at)
        payloads[f"skeleton.{i}"] = f"skeleton.{new}"
        for b in manifest.file_buckets[i]:
            payloads[f"bucket.{b}"] = f"bucket.{len(buckets)}"
            own = [tensor_at[t] for t in manifest.buckets[b].tensors]
            buckets.append(replace(manifest.buckets[b], tensors=own))
    share = Manifest(
        manifest.base_is_directory,
        [manifest.base_files[i] for i in bases],
        manifest.target_is_directory,
        [
            replace(
                manifest.target_files[i], dictionary=base_at[manifest.target_files[i].dictionary]
            )
            for i in files
        ],
        tensors,
        buckets,
    )
    share.complete()
    return share, payloads
