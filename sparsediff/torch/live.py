"""A patch applied to a model's tensors where they are.

Enters: a patch, and a state dict or module that holds its base. Leaves: the same
tensors with the target's words, bit for bit, or as they were and an error. Everything
is decoded and verified before the first word is written; what was there is kept until
the last one is. Never replaces a tensor or its storage.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sparsediff.apply.rebuild import check_words
from sparsediff.checkpoint.memory import MemoryTensor
from sparsediff.errors import CorruptError, UnsupportedError, WrongBaseError
from sparsediff.parallel import default_jobs, ordered_map
from sparsediff.patch import words
from sparsediff.patch.container import PatchSource, open_patch
from sparsediff.patch.manifest import Manifest
from sparsediff.torch.tensors import (
    StateDict,
    checked,
    dtype_of,
    extent,
    held_by,
    in_memory,
    listed,
    overlaps_itself,
    shape_of,
    words_of,
)
from sparsediff.updates.changes import Change, changes
from sparsediff.updates.named import BaseTensors, check_names

_SIGNED = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

Rename = Callable[[str], str]
"""From a tensor's name in the patch to its key in the state dict."""

Unreached = Literal["warn", "refuse", "report"]
"""What to do where a tensor of ours would stay as it is: say so, refuse, or only list it."""


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What `apply_to_state_dict` did.

    Attributes:
        n_changed: words written; where most of a run changed, all of it.
        changed: keys of the tensors that changed, in the patch's order.
        unreached: names of tensors that no tensor of the patch's target, changed or not,
            gives its words to, neither by name nor by sharing memory: whatever they were made
            from, they stay what they are. Empty if the patch speaks of all there is.
    """

    n_changed: int
    changed: list[str]
    unreached: list[str]


def apply_to_module(
    patch: PatchSource,
    module: torch.nn.Module,
    *,
    verify_base: bool = True,
    verify_result: bool = False,
    rename: Rename | None = None,
    unreached: Unreached = "warn",
    jobs: int | None = None,
) -> LiveResult:
    """`apply_to_state_dict` to the parameters and buffers of a module.

    What must be reached are the parameters and persistent buffers that the module really
    has, by the names they have in it; a state dict that hooks rename or copy makes no
    difference.

    Raises:
        SparsediffError: as `apply_to_state_dict` does; then the module is as it was.
    """
    state = module.state_dict(keep_vars=True)
    return _apply(
        patch, state, held_by(module), verify_base, verify_result, rename, unreached, jobs
    )


def apply_to_state_dict(
    patch: PatchSource,
    state_dict: StateDict,
    *,
    verify_base: bool = True,
    verify_result: bool = False,
    rename: Rename | None = None,
    unreached: Unreached = "warn",
    jobs: int | None = None,
) -> LiveResult:
    """Change tensors in place from a patch's base to its target, bit for bit.

    Tensors are found by name, in whatever files the patch says they lie; checksums decide
    whether they are the base. All of the patch's tensors must be there, with the dtypes and
    shapes that the target has; others in ``state_dict`` are left alone, and ``unreached``
    says what is made of that. What is no tensor
    (``config.json``, headers, tokenizers) is verified in the patch and otherwise not
    concerned.

    All or nothing: positions and new words of everything that changes are decoded and
    verified before anything is written, and if writing fails, what was written is taken
    back. Nobody should read the tensors meanwhile. Names that share memory, tied weights
    above all, are fine as long as the patch gives them the same words, and are checked
    after writing. Tensors that are not contiguous are copied once to be read.

    Args:
        patch: path, ``-`` for standard input, or a binary stream.
        state_dict: tensors by name, such as ``module.state_dict()``, on any device.
        verify_base: also check what the patch leaves alone. What it changes is always
            checked, before and after.
        verify_result: read everything once more after writing.
        rename: from a tensor's name in the patch to its key in ``state_dict``.
        unreached: what to do if the target has nothing for a tensor that is here (a copy of
            a tied weight, a head of one's own): ``"warn"`` with `warnings.warn`,
            ``"refuse"`` before anything is written, or only ``"report"`` it in the result.
        jobs: threads; default all processors.

    Raises:
        UsageError: the patch is missing.
        WrongBaseError: the tensors are not the patch's base, one is missing, or one too many
            is there and ``unreached`` is ``"refuse"``.
        CorruptError: the patch is damaged.
        UnsupportedError: a tensor is new, or grew, or is of a kind that cannot be changed
            in place: distributed, quantised, sparse, on ``meta``; or names that share
            memory would need different words.
    """
    held = [(k, t) for k, t in state_dict.items() if isinstance(t, torch.Tensor)]
    return _apply(patch, state_dict, held, verify_base, verify_result, rename, unreached, jobs)


def _apply(
    patch: PatchSource,
    state_dict: StateDict,
    held: Iterable[tuple[str, torch.Tensor]],
    verify_base: bool,
    verify_result: bool,
    rename: Rename | None,
    unreached: Unreached,
    jobs: int | None,
) -> LiveResult:
    """See `apply_to_state_dict`; all of ``held`` should be reached."""
    jobs = jobs or default_jobs()
    with open_patch(patch) as opened:
        manifest = opened.manifest
        keys, live = _find(manifest, state_dict, rename or str)
        left = _left(held, live)
        if left and unreached == "refuse":
            raise WrongBaseError(f"wrong base: no tensor of the patch reaches {listed(left)}")
        base = BaseTensors(_named(manifest, live), manifest)
        found = list(changes([opened], base, jobs, whole_runs=True, skip_unchanged=not verify_base))
    shared = _sharing(live)
    with _undone_on_error() as undo:
        for change in found:
            _write(live[change.tensor], change, undo)
        if verify_result:
            _check_result(manifest, live, set(live), jobs)
        elif shared:
            try:
                _check_result(manifest, live, shared, jobs)
            except CorruptError as e:
                raise UnsupportedError(
                    "names that share memory would need different words", tensor=e.tensor
                ) from e
    changed = dict.fromkeys(keys[c.tensor] for c in found)
    if left and unreached == "warn":
        warnings.warn(
            f"no tensor of the patch reaches {listed(left)}: left as it was", stacklevel=3
        )
    return LiveResult(sum(c.values.size for c in found), list(changed), left)


def _find(
    manifest: Manifest, state_dict: StateDict, rename: Rename
) -> tuple[dict[int, str], dict[int, torch.Tensor]]:
    """Key and tensor for each of the manifest's tensors, by row; all of them fit to be changed."""
    check_names(manifest)
    keys: dict[int, str] = {}
    live: dict[int, torch.Tensor] = {}
    missing: list[str] = []
    for i, record in enumerate(manifest.tensors):
        if manifest.names[i] is None:
            continue
        key = rename(record.name)
        if record.n_based < record.n_words:
            raise UnsupportedError(
                "the patch makes it new or larger, which cannot be done in place",
                tensor=record.name,
            )
        if key not in state_dict:
            missing.append(key)
            continue
        tensor = checked(key, state_dict[key])
        there = dtype_of(key, tensor).name, shape_of(tensor)
        if there != (record.dtype.name, record.shape):
            raise WrongBaseError(
                "wrong base",
                tensor=key,
                expected=f"{record.dtype.name}{list(record.shape)}",
                found=f"{there[0]}{list(there[1])}",
            )
        if overlaps_itself(tensor):
            raise UnsupportedError(
                "cannot be changed in place: several of its elements share memory", tensor=key
            )
        keys[i], live[i] = key, tensor
    if len(missing) == 1:
        raise WrongBaseError("wrong base: tensor is missing", tensor=missing[0])
    if missing:
        raise WrongBaseError(f"wrong base: tensors are missing: {listed(missing)}")
    return keys, live


def _named(manifest: Manifest, live: dict[int, torch.Tensor]) -> dict[str, MemoryTensor]:
    return in_memory({manifest.tensors.names[i]: t for i, t in live.items()})


def _sharing(live: dict[int, torch.Tensor]) -> set[int]:
    """Rows of tensors whose memory, from first to last byte, overlaps with another's."""
    extents = sorted((*extent(t), row) for row, t in live.items() if t.numel())
    found: set[int] = set()
    reach = ("", 0, -1)  # device, end and row of what reaches furthest so far
    for device, begin, end, row in extents:
        if device == reach[0] and begin < reach[1]:
            found |= {row, reach[2]}
        if device != reach[0] or end > reach[1]:
            reach = (device, end, row)
    return found


def _left(held: Iterable[tuple[str, torch.Tensor]], live: dict[int, torch.Tensor]) -> list[str]:
    """Names of those that hold memory which tensors of ``live`` do not cover, together."""
    runs: list[tuple[str, int, int]] = []  # of memory that is covered, apart from each other
    for device, begin, end in sorted(extent(t) for t in live.values() if t.numel()):
        if runs and device == runs[-1][0] and begin <= runs[-1][2]:
            runs[-1] = device, runs[-1][1], max(end, runs[-1][2])
        else:
            runs.append((device, begin, end))
    found = []
    for name, tensor in held:
        if not tensor.numel():
            continue
        try:
            device, begin, end = extent(checked(name, tensor))
        except UnsupportedError:  # not the memory of any that was found fit to be changed
            found.append(name)
            continue
        at = bisect_right(runs, (device, begin, sys.maxsize)) - 1
        if at < 0 or runs[at][0] != device or runs[at][2] < end:
            found.append(name)
    return found


@contextlib.contextmanager
def _undone_on_error() -> Iterator[list[Callable[[], None]]]:
    """Collect what takes back each step; on any error, an interrupt too, do that, last first."""
    undo: list[Callable[[], None]] = []
    try:
        yield undo
    except BaseException as e:
        failed = 0
        for restore in reversed(undo):
            try:
                restore()
            except Exception:  # a dead device, say: the rest may still be saved
                failed += 1
        if failed:
            e.add_note(f"{failed} of {len(undo)} changes could not be taken back")
        raise


def _write(tensor: torch.Tensor, change: Change, undo: list[Callable[[], None]]) -> None:
    """Write a change; what takes it back is in ``undo`` before anything is written."""
    new = torch.from_numpy(change.values.view(_SIGNED[change.values.itemsize])).to(tensor.device)
    # In-place operations of PyTorch, so that autograd notices.
    with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
        whole = words_of(tensor)
        if not whole.is_contiguous():
            where = torch.from_numpy(change.indices(np.int64)).to(tensor.device)
            place = torch.unravel_index(where, whole.shape)
            _put(lambda values: whole.index_put_(place, values), whole[place], new, undo)
        elif change.positions is None:
            run = whole.view(-1)[change.start : change.start + new.numel()]
            _put(run.copy_, run.clone(), new, undo)
        else:
            flat = whole.view(-1)
            where = torch.from_numpy(change.indices(np.int64)).to(tensor.device)
            old = flat.index_select(0, where)
            _put(lambda values: flat.index_copy_(0, where, values), old, new, undo)


def _put(
    write: Callable[[torch.Tensor], object],
    old: torch.Tensor,
    new: torch.Tensor,
    undo: list[Callable[[], None]],
) -> None:
    inference = torch.is_inference_mode_enabled()

    def restore() -> None:
        with torch.no_grad(), torch.inference_mode(inference):
            write(old)

    undo.append(restore)
    write(new)


def _check_result(
    manifest: Manifest, live: dict[int, torch.Tensor], rows: set[int], jobs: int
) -> None:
    """Raise CorruptError if buckets with words of these rows are not the target's."""
    named = _named(manifest, live)

    def read(row: int, offset: int, buffer: object) -> None:
        named[manifest.tensors.names[row]].read(offset, buffer)

    source = words.Source(lambda row: (row, 0), read)

    def check(bucket: int) -> None:
        check_words(manifest, bucket, words.checksums(manifest, bucket, source)[0], None)

    buckets = [i for i, b in enumerate(manifest.buckets) if not rows.isdisjoint(b.tensors)]
    for _ in ordered_map(check, buckets, jobs):
        pass
