"""export: what a patch changes, as a safetensors file of positions and values.

Enters: a patch and its base. Leaves: a file that others can read without this package,
by rename, after every bucket was verified. Of each tensor that changed, two entries:
flat positions and the new values there; of each new tensor, the tensor. Never holds
more than a few buckets.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparsediff.apply.chain import check_declared
from sparsediff.checkpoint.formats import safetensors
from sparsediff.disk.outputs import check_room, staged_file, write_all
from sparsediff.disk.replace import check_output
from sparsediff.dtypes import DTYPES, DType
from sparsediff.errors import CorruptError, UnsupportedError, UsageError, os_errors
from sparsediff.parallel import Progress, threads
from sparsediff.patch.container import PatchSource, open_patch, paths
from sparsediff.patch.tensors import Tensors
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
    max_bytes: int | None = None,
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
        max_bytes: most bytes that the patch's target may have, as with `apply_patch`; default any.
        progress: told of words written.

    Raises:
        UsageError: a path is unusable, or the output exists.
        WrongBaseError: ``base`` is not the patch's.
        CorruptError: the patch is damaged, or leads to more than ``max_bytes``.
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
        check_declared([opened], max_bytes)
        manifest = opened.manifest
        check_names(manifest)
        source = open_base(base, manifest)
        gone = removed(manifest, manifest, source)
        renamed = renamed_rows(manifest, source)
        tensors = manifest.tensors  # of which there may be very many
        rows = array("q", (row for row, name in enumerate(manifest.names) if name is not None))
        whole, sparse, are_whole = array("q"), array("q"), bytearray(len(tensors))
        for row in rows:
            if tensors.n_words[row] and (row in renamed or not tensors.n_based[row]):
                whole.append(row)
                are_whole[row] = True
            elif tensors.n_changed(row):
                sparse.append(row)
        if layout == "trl" and whole:
            raise UnsupportedError(
                "is new, and TRL's reader would leave it out without a word",
                tensor=tensors.names[whole[0]],
            )
        expected = array("q", bytes(8 * len(tensors)))  # words
        for row in sparse:
            expected[row] = tensors.n_changed(row)
        for row in whole:
            expected[row] = tensors.n_words[row]
        total, n_words = sum(expected), sum(tensors.n_words[row] for row in rows)
        entries = _entries(tensors, whole, sparse, layout)
        head, order, offsets = safetensors.compose_columns(
            *entries, _metadata(tensors, sparse, gone, layout, total, n_words)
        )
        size = len(head)
        if order:
            dtype, shape = entries[1][order[-1]], entries[2][order[-1]]
            size = offsets[order[-1]] + (dtype.n_bytes(shape) or 0)
        at = array("q", bytes(8 * len(tensors)))  # of the first entry of each tensor
        for i, row in enumerate(whole):
            at[row] = i
        for i, row in enumerate(sparse):
            at[row] = len(whole) + 2 * i
        del entries, order
        done = array("q", bytes(8 * len(tensors)))  # words so far
        n_done = 0

        def put(change: Change, fd: int) -> None:
            nonlocal n_done
            row, n = change.tensor, change.values.size
            begin = done[row]
            done[row] += n
            n_done += n
            if done[row] > expected[row]:
                raise _miscounted(opened.name, tensors.names[row])
            arrays: list[np.ndarray[Any, Any]] = [change.values]
            if not are_whole[row]:
                kind = np.int32 if tensors.n_words[row] <= _MAX_INT32 else np.int64
                arrays = [change.indices(kind), change.values]
            for i, array_ in enumerate(arrays, at[row]):
                with os_errors(output):
                    write_all(fd, offsets[i] + begin * array_.itemsize, array_)

        jobs = threads(jobs)
        check_room(output.parent, size)
        with staged_file(output, force=force) as stream:
            with os_errors(output):
                stream.write(head)
                stream.truncate(size)
            del head
            for change in changes([opened], source, jobs, whole=renamed):
                put(change, stream.fileno())
                if progress is not None:
                    progress(n_done, total)
            for row in rows:
                if done[row] != expected[row]:
                    raise _miscounted(opened.name, tensors.names[row])
    return ExportResult(
        output,
        total,
        n_words,
        [tensors.names[row] for row in sparse],
        [tensors.names[row] for row in whole],
        gone,
        size,
    )


def _miscounted(patch: str, tensor: str) -> CorruptError:
    """The file is laid out by the counts in the manifest, so they must be right."""
    return CorruptError(
        "number of changed words is not what the patch says", file=patch, tensor=tensor
    )


def _value_dtype(dtype: DType) -> DType:
    """What words of a tensor are to readers who know only whole values."""
    if dtype.bits == dtype.word_bits:
        return dtype
    return DTYPES["F32"] if dtype.name == "C64" else DTYPES["U8"]


def _entries(
    tensors: Tensors, whole: Sequence[int], sparse: Sequence[int], layout: Layout
) -> tuple[list[str], list[DType], list[tuple[int, ...]]]:
    """Names, types and shapes of what the file holds: whole tensors, then two for each other."""
    names = [tensors.names[row] for row in whole]
    dtypes = [tensors.dtypes[row] for row in whole]
    shapes = [tensors.shapes[row] for row in whole]
    for row in sparse:
        n = (tensors.n_changed(row),)
        kind = "I32" if tensors.n_words[row] <= _MAX_INT32 else "I64"
        names += [tensors.names[row] + suffix for suffix in _SUFFIXES[layout]]
        dtypes += [DTYPES[kind], _value_dtype(tensors.dtypes[row])]
        shapes += [n, n]
    if len(set(names)) < len(names):
        twice = next(name for name, n_entries in Counter(names).items() if n_entries > 1)
        raise UnsupportedError("two entries of the output would have this name", tensor=twice)
    return names, dtypes, shapes


def _metadata(
    tensors: Tensors,
    sparse: Sequence[int],
    gone: list[str],
    layout: Layout,
    n_changed: int,
    n_words: int,
) -> dict[str, str]:
    metadata = {
        "removed": json.dumps(gone),
        "shapes": json.dumps({tensors.names[row]: tensors.shapes[row] for row in sparse}),
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
