"""export: what a patch changes, as a safetensors file of positions and values.

Enters: a patch and its base. Leaves: a file that others can read without this package,
by rename, after every bucket was verified. Of each tensor that changed, two entries:
flat positions and the new values there; of each new tensor, the tensor. Never holds
more than a few buckets.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sparsediff.checkpoint.formats import safetensors
from sparsediff.disk.outputs import check_room, staged_file, write_all
from sparsediff.disk.replace import check_output
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, os_errors
from sparsediff.parallel import Progress, threads
from sparsediff.patch.container import PatchSource, open_patch, paths
from sparsediff.patch.manifest import Tensor
from sparsediff.updates.changes import Change, changes
from sparsediff.updates.named import check_names, open_base, removed, renamed_rows

Layout = Literal["plain", "trl"]

_SUFFIXES = {"plain": (".indices", ".values"), "trl": (".idx", ".val")}
_MAX_INT32 = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What `export_patch` did.

    Attributes:
        output: where the file is.
        n_changed: words that changed, those of new tensors included.
        n_words: words of all tensors of the target.
        sparse: tensors written as positions and values.
        whole: tensors new under their names, written whole.
        removed: tensors of the base that the target no longer has.
        n_bytes: size of the file.
    """

    output: Path
    n_changed: int
    n_words: int
    sparse: list[str]
    whole: list[str]
    removed: list[str]
    n_bytes: int


def export_patch(
    patch: PatchSource,
    base: Path | str,
    output: Path | str,
    *,
    layout: Layout = "plain",
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write what a patch changes as a safetensors file of positions and values.

    ``NAME.indices`` holds flat C-order positions, strictly increasing, int32, or int64
    where a tensor has 2^31 words or more; ``NAME.values`` the new values there, in the
    tensor's own dtype. For complex64 both speak of its float32 parts, for packed 4- and
    6-bit numbers of their bytes. A tensor of which the base has nothing under this name is stored
    whole, under its own name. The metadata holds, as JSON, the full ``shapes`` of the tensors
    stored sparse and the names ``removed``.

    Args:
        patch: path, ``-`` for standard input, or a binary stream.
        base: the checkpoint it was made from.
        output: path of the file.
        layout: ``plain`` as above; ``trl`` calls the entries ``NAME.idx`` and ``NAME.val``
            and describes them in the metadata as the patches of TRL's asynchronous GRPO do.
        jobs: threads; default all processors.
        force: replace an existing output.
        progress: told of words written.

    Raises:
        UsageError: a path is unusable, or the output exists.
        WrongBaseError: ``base`` is not the patch's.
        CorruptError: the patch is damaged.
        UnsupportedError: names of tensors leave no room for those of positions and values, or
            a tensor is new and the layout is one whose reader would leave it out.
        UnavailableError: the disk is full, or the base changed meanwhile.
        LockedError: another run writes the same output.
    """
    if not str(output):
        raise UsageError("the name of the output is empty")
    output = Path(os.path.abspath(output))
    check_output(output, force=force, inputs=[base, *paths([patch])])
    with open_patch(patch) as opened:
        manifest = opened.manifest
        check_names(manifest)
        source = open_base(base, manifest)
        gone = removed(manifest, manifest, source)
        renamed = renamed_rows(manifest, source)
        named = {
            row: t for row, t in enumerate(manifest.tensors) if manifest.names[row] is not None
        }
        whole = {r: t for r, t in named.items() if t.n_words and (r in renamed or not t.n_based)}
        sparse = {r: t for r, t in named.items() if t.n_changed and r not in whole}
        if layout == "trl" and whole:
            raise UnsupportedError(
                "is new, and TRL's reader would leave it out without a word",
                tensor=next(iter(whole.values())).name,
            )
        expected = dict.fromkeys(named, 0) | {r: t.n_changed for r, t in sparse.items()}
        expected |= {r: t.n_words for r, t in whole.items()}
        total, n_words = sum(expected.values()), sum(t.n_words for t in named.values())
        head, spans = safetensors.compose(
            _entries(sparse.values(), whole.values(), layout),
            _metadata(sparse.values(), gone, layout, total, n_words),
        )
        at = {span.name: span.offset for span in spans}
        size = spans[-1].offset + spans[-1].nbytes if spans else len(head)
        done = dict.fromkeys(named, 0)  # words so far

        def put(change: Change, fd: int) -> None:
            row, n = change.tensor, change.values.size
            tensor, begin = named[row], done[row]
            done[row] += n
            if done[row] > expected[row]:
                raise _miscounted(opened.name, tensor)
            arrays = {tensor.name: change.values}
            if row in sparse:
                positions, values = _SUFFIXES[layout]
                kind = np.int32 if tensor.n_words <= _MAX_INT32 else np.int64
                arrays = {
                    tensor.name + positions: change.indices(kind),
                    tensor.name + values: change.values,
                }
            for name, array in arrays.items():
                with os_errors(output):
                    write_all(fd, at[name] + begin * array.itemsize, array)

        jobs = threads(jobs)
        check_room(output.parent, size)
        with staged_file(output, force=force) as stream:
            with os_errors(output):
                stream.write(head)
                stream.truncate(size)
            for change in changes([opened], source, jobs, whole=renamed):
                put(change, stream.fileno())
                if progress is not None:
                    progress(sum(done.values()), total)
            for row, n in done.items():
                if n != expected[row]:
                    raise _miscounted(opened.name, named[row])
    return ExportResult(
        output,
        total,
        n_words,
        [t.name for t in sparse.values()],
        [t.name for t in whole.values()],
        gone,
        size,
    )


def _miscounted(patch: str, tensor: Tensor) -> CorruptError:
    """The file is laid out by the counts in the manifest, so they must be right."""
    return CorruptError(
        "number of changed words is not what the patch says", file=patch, tensor=tensor.name
    )


def _value_dtype(tensor: Tensor) -> DType:
    """What words of a tensor are to readers who know only whole values."""
    dtype = tensor.dtype
    if dtype.bits == dtype.word_bits:
        return dtype
    return DTYPES["F32"] if dtype.name == "C64" else DTYPES["U8"]


def _entries(
    sparse: Iterable[Tensor], whole: Iterable[Tensor], layout: Layout
) -> list[safetensors.Described]:
    """What the file holds."""
    positions, values = _SUFFIXES[layout]
    entries: list[safetensors.Described] = [(t.name, t.dtype, t.shape) for t in whole]
    for tensor in sparse:
        n = (tensor.n_changed,)
        kind = "I32" if tensor.n_words <= _MAX_INT32 else "I64"
        entries.append((tensor.name + positions, DTYPES[kind], n))
        entries.append((tensor.name + values, _value_dtype(tensor), n))
    for name, n_entries in Counter(name for name, _, _ in entries).items():
        if n_entries > 1:
            raise UnsupportedError("two entries of the output would have this name", tensor=name)
    return entries


def _metadata(
    sparse: Collection[Tensor], gone: list[str], layout: Layout, n_changed: int, n_words: int
) -> dict[str, str]:
    metadata = {
        "removed": json.dumps(gone),
        "shapes": json.dumps({t.name: t.shape for t in sparse}),
    }
    if layout == "plain":
        return metadata | {"format": "sparsediff-export", "version": "1"}
    return metadata | {
        "format": "sparse_weight_patch",
        "version": "1",
        "sparse": "True",
        "encoding": "raw",
        "num_changed_params": str(len(sparse)),
        "total_changed_elements": str(n_changed),
        "total_elements": str(n_words),
        "sparsity": str(1 - n_changed / max(n_words, 1)),
    }
