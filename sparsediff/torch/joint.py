"""A patch that many ranks make together, and how it gets into a store.

Enters: a plan's two sides, and the words of this rank's share. Leaves: on every rank the payloads
of its share, in a file; on the first also header and manifest; and a patch in the store. A large
one is put in parts, by all ranks at once, and is a list of these; a small one is one object, put
by the first rank, so that who pulls it need not ask once for every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sparsediff.checkpoint import Checkpoint
from sparsediff.disk.outputs import create, write_at
from sparsediff.make import MakeResult
from sparsediff.make.merge import complete, finish
from sparsediff.make.plan import plan
from sparsediff.patch.container import open_patch
from sparsediff.patch.manifest import Manifest
from sparsediff.shipping.parts import put_part
from sparsediff.shipping.publish import Made
from sparsediff.stores import Store
from sparsediff.torch.ranks import Bytes, Ranks
from sparsediff.torch.share import Collect, Copy, encode_share

PART_BYTES = 1 << 20
"""Of a rank's payloads, on average, from which on every rank puts its own."""


@dataclass(frozen=True, slots=True)
class Joint:
    """A patch that ranks made, on one of them.

    Attributes:
        base: version that it starts from; None for an anchor.
        room: directory that this rank keeps its share in.
        sizes: bytes of each rank's payloads.
        result: of making it, on the first rank; None on the others.
    """

    base: int | None
    room: Path
    sizes: list[int]
    result: MakeResult | None

    @property
    def head(self) -> Path:
        """Header and manifest, on the first rank."""
        return self.room / "head"

    @property
    def payloads(self) -> Path:
        """The payloads of this rank's share, in stored order."""
        return self.room / "payloads"

    def put(self, ranks: Ranks, store: Store, version: int, *, takes_parts: bool) -> Made | None:
        """Bring the patch to the store, or to the first rank, which will; all must call this.

        Args:
            ranks: that made it.
            store: as this rank reaches it.
            version: number of the version that it leads to.
            takes_parts: whether the store can hold patches in parts.

        Returns:
            What is to be published, on the first rank.

        Raises:
            SparsediffError: of this rank, or of another.
        """
        if takes_parts and ranks.size > 1 and sum(self.sizes) >= PART_BYTES * ranks.size:
            return self._put_parts(ranks, store, version)
        return self._collected(ranks)

    def _put_parts(self, ranks: Ranks, store: Store, version: int) -> Made | None:
        with ranks.together():
            mine = [self.head] if self.result is not None else []
            if self.sizes[ranks.rank]:
                mine.append(self.payloads)
            parts = [put_part(store, version, path) for path in mine]
        everyone = ranks.to_first(parts)
        if everyone is None or self.result is None:
            return None
        return Made(self.base, [part for parts in everyone for part in parts], self.result)

    def _collected(self, ranks: Ranks) -> Made | None:
        whole = self.room / "patch"
        with ExitStack() as stack:
            with ranks.together():
                source = stack.enter_context(open(self.payloads, "rb"))
                if self.result is not None:
                    head = self.head.read_bytes()
                    create(whole, self.result.patch_bytes)
                    write_at(whole, 0, head)

            def write(offset: int, data: Bytes) -> None:
                write_at(whole, len(head) + offset, data)

            ranks.bring(source, self.sizes, None if self.result is None else write)
        with ranks.together():
            if self.result is not None:  # it came over a network
                with open_patch(whole) as patch:
                    patch.check_payloads()
        return None if self.result is None else Made(self.base, whole, self.result)


def make_jointly(
    start: int | None,
    base: Checkpoint,
    target: Checkpoint,
    copy: Copy,
    collects: Callable[[Manifest], Collect],
    ranks: Ranks,
    room: Path,
    jobs: int,
) -> Joint:
    """Make a patch; every rank must call this.

    Args:
        start: version that the patch starts from; None for an anchor.
        base: the checkpoint before; only its headers are read.
        target: the one to be published; likewise.
        copy: what words are compared with; becomes what they are.
        collects: given the plan, who brings the words.
        ranks: that share the work.
        room: where this rank keeps its share; made here.
        jobs: threads.

    Raises:
        SparsediffError: of this rank, or of another.
    """
    with ExitStack() as stack:
        with ranks.together():
            manifest = plan(base, target)
            room.mkdir()
            payloads = open(room / "payloads", "wb")  # noqa: SIM115 - see below
            stack.callback(_closed, payloads)
        found = encode_share(
            manifest, base, target, copy, collects(manifest), ranks, payloads, jobs
        )
        with ranks.together():
            payloads.flush()
    everyone = ranks.to_first(found)
    result = None
    with ranks.together():
        if everyone is not None:
            head, result = finish(manifest, complete(manifest, everyone))
            (room / "head").write_bytes(head)
    return Joint(start, room, ranks.gather(sum(found.sizes.values())), result)


def _closed(file: BinaryIO) -> None:
    """Close a file that was flushed, or of which a failure to flush has been told."""
    with suppress(OSError):
        file.close()
