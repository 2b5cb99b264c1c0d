"""merge: the parts of a patch to the patch.

Enters: parts, one of each share. Leaves: the patch that one machine would have made of the
same checkpoints, byte for byte. Reads each part once and encodes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from sparsediff.errors import CorruptError, UnavailableError, UsageError
from sparsediff.make.part import Findings, Part
from sparsediff.make.results import Completion
from sparsediff.make.shares import cut
from sparsediff.make.spool import Output, deliver, place_of
from sparsediff.make.write import MakeResult
from sparsediff.parallel import Progress
from sparsediff.patch import manifest_json
from sparsediff.patch.container import pack
from sparsediff.patch.manifest import Manifest

if TYPE_CHECKING:
    from sparsediff.signing import Signer

_MANY = 8  # missing parts that a message lists


def merge_parts(
    parts: Sequence[Path | str],
    output: Output,
    *,
    force: bool = False,
    progress: Progress | None = None,
    signer: Signer | None = None,
) -> MakeResult:
    """Write the patch that parts belong to.

    Args:
        parts: paths of all of them, in any order.
        output: path of the patch, ``-`` for standard output, a binary stream, or None to
            measure only: then no payload is read.
        force: replace an existing output.
        progress: told of bytes of payloads that were copied.
        signer: who signs the patch, as for `make_patch`.

    Raises:
        UsageError: a part is missing or given twice, or belongs to another patch; or a path is
            unusable, or the output exists.
        CorruptError: a part is damaged.
        UnsupportedError: another version of sparsediff made a part.
        UnavailableError: a checkpoint changed between two parts, or the disk is full.
        LockedError: another run writes the same output.
    """
    if not parts:
        raise UsageError("give the parts of a patch")
    place = place_of(output, force=force, inputs=parts, signer=signer)
    opened = _in_order(parts)
    _check_same_files(opened)
    manifest, found = _completed(opened)
    head, result = finish(manifest, found)
    payloads = _payloads(opened, sum(found.sizes.values()), progress)
    deliver(output, place, head, payloads, force=force, signer=signer)
    return result


def _in_order(paths: Sequence[Path | str]) -> list[Part]:
    """Open parts; return them by number.

    Raises:
        UsageError: they are not all the parts of one patch, each once.
    """
    first = Part(paths[0])
    count = first.found.share.count
    held = {first.found.share.index: first}
    for path in paths[1:]:
        part = Part(path)
        if part.plan_checksum != first.plan_checksum or part.found.share.count != count:
            raise UsageError(
                f"part {part.found.share} was made from another base or target, or with other "
                f"options, than part {first.found.share} in {first.name}",
                file=part.name,
            )
        first.plan = first.plan or part.plan
        part.plan = b""  # megabytes that need not be held a hundred times
        twin = held.setdefault(part.found.share.index, part)
        if twin is not part:
            raise UsageError(f"is part {part.found.share}, and so is {twin.name}", file=part.name)
    missing = [i for i in range(1, count + 1) if i not in held]
    if missing:
        more = f" and {len(missing) - _MANY} more" if len(missing) > _MANY else ""
        named = ", ".join(f"{i}/{count}" for i in missing[:_MANY])
        raise UsageError(f"missing of this patch: part {named}{more}", file=first.name)
    return [held[i] for i in range(1, count + 1)]


def _check_same_files(parts: list[Part]) -> None:
    """Raise UnavailableError if two parts read different states of one file."""
    seen: dict[str, tuple[int, Part]] = {}
    for part in parts:
        for name, changed in part.found.read.items():
            before, other = seen.setdefault(name, (changed, part))
            if before != changed:
                raise UnavailableError(
                    f"{name.rstrip('/')} has another time of change than when {other.name} "
                    f"was made; make the parts again from checkpoints that stay as they are, or "
                    f"from copies that keep times",
                    file=part.name,
                )


def _completed(parts: list[Part]) -> tuple[Manifest, Completion]:
    """The manifest of the patch, and the sizes of its payloads."""
    plan = next((p.plan for p in parts if p.plan), b"")
    manifest = manifest_json.parse(plan, len(plan))
    shares = cut(manifest, len(parts))
    for part, mine in zip(parts, shares, strict=True):
        part.check_fits(manifest, mine)
    found = complete(manifest, [part.found for part in parts])
    try:
        text = manifest_json.dump(manifest)
        manifest_json.parse(text, len(text))
    except CorruptError as e:
        raise CorruptError("results of the parts do not fit the plan", found=e.problem) from e
    return manifest, found


def complete(manifest: Manifest, found: Sequence[Findings]) -> Completion:
    """Enter into a plan what encoding its shares found, all of them, in order."""
    completion = Completion(manifest)
    for findings, mine in zip(found, cut(manifest, len(found)), strict=True):
        sizes = iter(findings.sizes.values())
        for task, result in zip(mine, findings.results, strict=True):
            completion.enter(task, result, 0 if result.digest is None else next(sizes))
    return completion


def finish(manifest: Manifest, found: Completion) -> tuple[bytes, MakeResult]:
    """Header and manifest of the patch, and what was made, when everything is entered.

    Raises:
        UnsupportedError: the patch would pass the limits of the format.
    """
    head = pack(manifest, found.sizes)
    return head, MakeResult(
        manifest,
        found.sizes,
        sum(f.size for f in manifest.base_files),
        sum(f.size for f in manifest.target_files),
        len(head) + sum(found.sizes.values()),
    )


def _payloads(parts: list[Part], total: int, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    for payload in chain.from_iterable(part.payloads() for part in parts):
        yield payload
        done += len(payload)
        if progress is not None:
            progress(done, total)
