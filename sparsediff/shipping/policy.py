"""How versions are stored: whole, as a patch, with a shortcut; and what they are called.

Enters: what the store holds and how large the next patch came out. Leaves:
decisions. Touches no file and no store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsediff.disk.selection import Selection
from sparsediff.shipping.catalog import Catalog
from sparsediff.shipping.source import Candidate, Rule


@dataclass(frozen=True, slots=True)
class Policy:
    """What is shipped, and how.

    Attributes:
        rule: which checkpoints are complete.
        anchor_every: store every n-th version whole; None lets their weight decide.
        anchor_weight: store a version whole once the patches since the last anchor
            weigh this many times as much as it. At 1, neither what is stored nor what
            a newcomer fetches is more than twice the least.
        squash_every: after so many versions, add a patch across all of them.
        newest: ship only the newest checkpoint, not those between.
        rewind: go on from what is there if the store has gone back; and
            ship the checkpoint modified last, even if its number is not above
            the last one's: the training was taken back.
        selection: which files of a checkpoint are shipped.
        longest_chain: where weight decides, store a version whole at the latest when there
            would be more patches than this since the last anchor, however little they weigh:
            each costs a newcomer a request, and a pass over all words.
        hold_behind: no version is published that would leave a machine which acknowledges
            more than so many versions behind; None: whoever is slow is left behind.
        ack_max_age: machines that were heard of longer ago than this, in seconds, do not
            count there; None: all do.
    """

    rule: Rule = field(default_factory=Rule)
    anchor_every: int | None = None
    anchor_weight: float = 1.0
    squash_every: int | None = None
    newest: bool = False
    rewind: bool = False
    selection: Selection = field(default_factory=Selection)
    longest_chain: int = 500
    hold_behind: int | None = None
    ack_max_age: float | None = None

    def due(
        self, catalog: Catalog | None, complete: list[Candidate], same: str | None = None
    ) -> tuple[list[Candidate], list[Candidate]]:
        """Which complete checkpoints are to be shipped, in order, and which are left alone.

        The step shipped last is shipped again if it was written again. Earlier ones that
        were are left alone: a later one may be their continuation, or the training that
        was given up.

        Args:
            catalog: of the store; None if it is empty.
            complete: checkpoints, in numeric order.
            same: fingerprint of one that holds what the latest version does.
        """
        if catalog is None:
            return (complete[-1:] if self.newest else complete), []
        last = catalog.latest
        lost = catalog.is_lost(last)

        def is_shipped(candidate: Candidate) -> bool:
            if candidate.number != last.number:
                versions = catalog.history.numbered(candidate.number)
                return any(v.source == candidate.fingerprint for v in versions)
            # Of the same step, only what it was last is what the store has.
            return not lost and candidate.fingerprint in (last.source, same)

        new = [c for c in complete if not is_shipped(c)]
        if self.rewind:
            return sorted(new, key=lambda c: c.modified)[-1:], []
        if last.number is None:
            return new[-1:], []
        later = [c for c in new if c.number is not None and c.number > last.number]
        again = [c for c in new if c.number == last.number]  # or the same, if it was lost
        due = later if later and lost else again + later
        left = [c for c in new if c not in due and c not in again and c.modified > last.shipped]
        return (due[-1:] if self.newest else due), left

    def wants_anchor(self, catalog: Catalog | None, step_bytes: int | None) -> bool:
        """Whether the next version is to be stored whole.

        Args:
            catalog: of the store; None if it is empty.
            step_bytes: size of the patch from the latest version; None if there is none.
        """
        if catalog is None or step_bytes is None:
            return True
        if catalog.is_lost(catalog.latest):
            return True
        n, n_bytes, anchor_bytes = catalog.history.since_anchor()
        if anchor_bytes is None:
            return True
        if self.anchor_every is not None:
            return n + 1 >= self.anchor_every
        if n >= self.longest_chain:
            return True
        weight = step_bytes + n_bytes
        return weight > self.anchor_weight * anchor_bytes or not pays(step_bytes, anchor_bytes)

    def is_shortcut_due(self, version: int, start: int) -> bool:
        """Whether ``version`` gets a patch across all versions since ``start``."""
        return self.squash_every is not None and version - start >= self.squash_every

    def next_shortcut(self, version: int, start: int | None) -> int | None:
        """Where the next shortcut starts from once ``version`` is published."""
        if self.squash_every is None:
            return None
        return version if start is None or self.is_shortcut_due(version, start) else start


def pays(patch_bytes: int, anchor_bytes: int) -> bool:
    """Whether a patch saves enough over an anchor to be a link in a chain."""
    return patch_bytes < 0.8 * anchor_bytes


def unique_name(name: str, number: int | None, version: int, catalog: Catalog | None) -> str:
    """Name of a version: that of the checkpoint, with the version's number if it is not unique.

    Args:
        name: of the checkpoint.
        number: in that name; None if it has none, so that the next has the same name.
        version: number of the version.
        catalog: of the store; None if it is empty.
    """
    is_new = catalog is None or catalog.history.named(name) is None
    if number is not None and is_new:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{version:06}.{suffix}" if stem and dot else f"{name}-{version:06}"
