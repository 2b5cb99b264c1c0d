"""One rank's share of a patch: its words come together, are compared and encoded.

Enters: a plan, blocks of tensors that ranks hold, the copy of what the share was before.
Leaves: what `merge` needs of the share, and the copy as the words are now. Goes in rounds: in
each, every rank receives the words of a few of its buckets and then encodes these, so that
what is in memory besides the copy is bounded by the size of buckets, not of the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from sparsediff.checkpoint import Checkpoint
from sparsediff.checkpoint.memory import bytes_of
from sparsediff.kernels.steps import Words
from sparsediff.make.encode import Encoded, encode_bucket, encode_skeleton
from sparsediff.make.part import Findings, payload_name
from sparsediff.make.shares import Share, Task, cut
from sparsediff.parallel import ordered_map
from sparsediff.patch import words
from sparsediff.patch.manifest import Manifest
from sparsediff.patch.words import NOTHING, Source
from sparsediff.torch.ranks import Bytes, Exchange, Ranks
from sparsediff.torch.shards import Rows, WholeTensor

Positions = npt.NDArray[np.int64]


class Copy:
    """The words of a share, by bucket, as they were published last.

    Until `accept` it can be taken back what they were before.
    """

    def __init__(self) -> None:
        self._words: dict[int, Words] = {}
        self._before: dict[int, tuple[Positions | None, Words | None]] = {}

    def __getitem__(self, bucket: int) -> Words:
        return self._words[bucket]

    def replace(self, bucket: int, new: Words) -> None:
        """Become ``new``; what changed is kept for `undo`."""
        old = self._words.get(bucket)
        if old is None or bucket in self._before:
            self._before.setdefault(bucket, (None, old))
            self._words[bucket] = new
            return
        changed = np.flatnonzero(old != new)
        if changed.size * (8 + old.itemsize) >= old.nbytes:
            self._before[bucket] = None, old
            self._words[bucket] = new
        else:
            self._before[bucket] = changed, old[changed]
            old[changed] = new[changed]

    def accept(self) -> None:
        """What is here now is what was published."""
        self._before.clear()

    def undo(self) -> None:
        """Become what was published last."""
        for bucket, (changed, old) in self._before.items():
            if changed is not None:
                self._words[bucket][changed] = old
            elif old is not None:
                self._words[bucket] = old
            else:
                del self._words[bucket]
        self._before.clear()

    def forget(self) -> None:
        """Hold nothing."""
        self._words.clear()
        self._before.clear()


Collect = Callable[[list[list[int]]], Iterator[Words]]
"""Given buckets by rank, the words of this rank's, in order.

Every rank calls it at the same time. While the words are taken, no rank waits for another."""


def encode_share(
    manifest: Manifest,
    base: Checkpoint,
    target: Checkpoint,
    copy: Copy,
    collect: Collect,
    ranks: Ranks,
    payloads: BinaryIO,
    jobs: int,
) -> Findings:
    """Encode this rank's share of a plan; every rank must call this.

    Args:
        manifest: the plan, the same on every rank.
        base: the checkpoint before; only its headers are read.
        target: the one to be published; likewise.
        copy: what words are compared with; becomes what they are.
        collect: called once in each round.
        ranks: that share the work.
        payloads: where these go.
        jobs: threads.

    Raises:
        SparsediffError: of this rank, or of another.
    """
    shares = cut(manifest, ranks.size)
    target_bytes = sum(f.size for f in manifest.target_files)
    found = Findings(Share(ranks.rank + 1, ranks.size), {}, [], {})

    def encode(task: Task, new: Words | None) -> Encoded:
        if task.bucket is None or new is None:
            return encode_skeleton(manifest, task.file, base, target)
        has_base = manifest.buckets[task.bucket].base is not None
        before = _source(manifest, task.bucket, copy[task.bucket]) if has_base else NOTHING
        after = _source(manifest, task.bucket, new)
        return encode_bucket(manifest, task.bucket, before, after, target_bytes, None)

    for start in range(0, max(map(len, shares)), jobs):
        now = [share[start : start + jobs] for share in shares]
        new = collect([[t.bucket for t in tasks if t.bucket is not None] for tasks in now])
        with ranks.together():
            mine = [(t, None if t.bucket is None else next(new)) for t in now[ranks.rank]]
            for (task, after), encoded in zip(
                mine, ordered_map(lambda a: encode(*a), mine, jobs), strict=True
            ):
                found.results.append(encoded.result)
                if encoded.payload:
                    found.sizes[payload_name(task)] = len(encoded.payload)
                    payloads.write(encoded.payload)
                if task.bucket is not None and after is not None:
                    copy.replace(task.bucket, after)
    return found


def from_copy(copy: Copy, ranks: Ranks) -> Collect:
    """Words of buckets out of the copy, where they are already."""
    return lambda buckets: (copy[b] for b in buckets[ranks.rank])


def from_ranks(
    tensors: Mapping[str, WholeTensor],
    held: Mapping[str, torch.Tensor],
    ranks: Ranks,
    manifest: Manifest,
) -> Collect:
    """Words of buckets from the ranks that hold them.

    Args:
        tensors: which blocks of which tensor are where.
        held: the words of this rank's blocks, by tensor.
        ranks: that exchange them.
        manifest: the plan.
    """

    def rows_of(bucket: int) -> Iterator[tuple[str, Rows, int, int]]:
        """Tensor, the rows that are needed of it, and which of their words: start and number."""
        for part in manifest.parts[bucket]:
            name = manifest.tensors.names[part.tensor]
            rows = Rows.around(tensors[name], part.start, part.n_words)
            yield name, rows, part.start - rows.start * rows.tensor.row_words, part.n_words

    def collect(buckets: list[list[int]]) -> Iterator[Words]:
        mine = buckets[ranks.rank]
        with ranks.together():
            sent = {
                rank: data
                for rank, theirs in enumerate(buckets)
                if rank != ranks.rank and (data := _packed(rank, theirs)).size
            }
            expected: dict[int, int] = defaultdict(int)
            for bucket in mine:
                for _, rows, _, _ in rows_of(bucket):
                    for sender, block in rows.tensor.senders(ranks.rank):
                        part = rows.part_of(block)
                        if part is not None and sender != ranks.rank:
                            expected[sender] += part.n_words * rows.tensor.word_bytes
            exchange = ranks.ready(sent, dict(expected))
        exchange.run()
        return _put_together(mine, exchange, list(expected))

    def _packed(receiver: int, theirs: list[int]) -> Bytes:
        """What this rank sends to another for its buckets."""
        pieces = []
        for bucket in theirs:
            for name, rows, _, _ in rows_of(bucket):
                block = rows.tensor.block_sent(ranks.rank, receiver)
                if block is not None and rows.part_of(block) is not None:
                    pieces.append(_bytes(rows.taken_from(held[name], block)))
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)

    def _put_together(mine: list[int], exchange: Exchange, senders: list[int]) -> Iterator[Words]:
        received = {sender: exchange.received(sender) for sender in senders}
        at: dict[int, int] = defaultdict(int)
        for bucket in mine:
            yield _words_of(bucket, received, at)

    def _words_of(bucket: int, received: dict[int, Bytes], at: dict[int, int]) -> Words:
        dtype = words.bucket_dtype(manifest, bucket).numpy
        whole = np.empty(manifest.buckets[bucket].n_words, dtype)
        end = 0
        for name, rows, start, n_words in rows_of(bucket):
            window = np.empty(rows.shape, dtype)
            for sender, block in rows.tensor.senders(ranks.rank):
                part = rows.part_of(block)
                if part is None:
                    continue
                if sender == ranks.rank:
                    data = _bytes(rows.taken_from(held[name], block))
                else:
                    n_bytes = part.n_words * rows.tensor.word_bytes
                    data = received[sender][at[sender] : at[sender] + n_bytes]
                    at[sender] += n_bytes
                window[part.slices] = data.view(dtype).reshape(part.sizes)
            whole[end : end + n_words] = window.reshape(-1)[start : start + n_words]
            end += n_words
        return whole

    return collect


def _bytes(tensor: torch.Tensor) -> Bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _source(manifest: Manifest, bucket: int, held: Words) -> Source:
    """A bucket's words that are in memory, as encoding reads them."""
    start: dict[int, tuple[int, int]] = {}  # by tensor: where its words are, and which is first
    end = 0
    for part in manifest.parts[bucket]:
        start[part.tensor] = end, part.start
        end += part.n_words
    data = held.view(np.uint8)

    def read(tensor: int, offset: int, buffer: Any) -> None:
        out = bytes_of(buffer)
        place, first = start[tensor]
        at = offset + (place - first) * held.itemsize
        out[:] = data[at : at + out.size]

    return Source(lambda tensor: (tensor, 0), read)
