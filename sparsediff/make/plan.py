"""What is compared with what: base tensors for target tensors, words into buckets.

Enters: two open checkpoints. Leaves: a `Manifest` whose sizes, names, matches
and buckets are filled in; zeros stand for what needs tensor data, so that it is valid
already. A target tensor is matched by name (same file first), else by content: a few
short runs of its bytes are looked up among those of the base tensors of the same dtype
and shape.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache

from sparsediff.checkpoint import Checkpoint, CheckpointFile
from sparsediff.checkpoint.formats import Span
from sparsediff.checksum import LOCATOR_DIGITS, checksum
from sparsediff.patch.container import check_fits
from sparsediff.patch.manifest import (
    BUCKET_BYTES,
    MAX_BUCKET_WORDS,
    BaseFile,
    Bucket,
    Manifest,
    TargetFile,
)
from sparsediff.patch.tensors import Tensors

_PROBES = 32  # runs of bytes looked up per tensor
_PROBE_BYTES = 16  # at 2 % density a run of 8 bf16 words is unchanged 85 % of the time

_NOT_YET = "0"  # digit of a checksum or digest that `results` fills in

Match = tuple[int, Span]  # base file index, span
Matches = dict[str, dict[str, Match]]  # of target tensors, by file and name


def plan(base: Checkpoint, target: Checkpoint, bucket_words: int = MAX_BUCKET_WORDS) -> Manifest:
    """Match tensors and cut buckets.

    Args:
        base: the base.
        target: the target.
        bucket_words: most words per bucket; `BUCKET_BYTES` limits it too.

    Raises:
        UnsupportedError: there are too many tensors or files for one patch.
    """
    manifest = Manifest(base.is_directory, [], target.is_directory, [], Tensors(), [])
    manifest.base_files = [
        BaseFile(f.name, f.source.size, f.layout(), checksum(f.skeleton())) for f in base.files
    ]
    matches = _match(base, target)
    namesake = {f.name: i for i, f in enumerate(base.files)}
    # Two single files have no names to go by; in directories the namesake decides.
    only = 0 if len(base.files) == 1 and not (base.is_directory and target.is_directory) else None
    for file in target.files:
        first = len(manifest.tensors)
        matched = matches[file.name]
        for span in file.spans:
            match = matched.get(span.name)
            there = match and (match[0], match[1].offset, match[1].nbytes)
            manifest.tensors.add(span.name, span.dtype, span.shape, span.offset, there)
        manifest.target_files.append(
            TargetFile(
                file.name,
                file.source.size,
                len(file.spans),
                skeleton=32 * _NOT_YET,
                dictionary=namesake[file.name]
                if file.name in namesake
                else _likeliest(manifest.tensors.base_files[first:], only),
                skeleton_digest=64 * _NOT_YET,
            )
        )
        rows = range(first, len(manifest.tensors))
        manifest.buckets += _cut(manifest.tensors, rows, bucket_words)
    manifest.complete()
    check_fits(manifest)
    return manifest


def _likeliest(base_files: list[int | None], default: int | None) -> int | None:
    """Base file that most tensors of a file come from: its header is the best dictionary."""
    votes = Counter(file for file in base_files if file is not None)
    return min(votes, key=lambda f: (-votes[f], f)) if votes else default


def _match(base: Checkpoint, target: Checkpoint) -> Matches:
    """Base span for each target tensor that has one."""
    in_base = {f.name: (i, f.spans) for i, f in enumerate(base.files)}

    @cache
    def by_name() -> dict[str, Match]:
        """In whichever file; asked for only where the namesake lacks a tensor."""
        found: dict[str, Match] = {}
        for i, file in enumerate(base.files):
            for span in file.spans:
                if not span.is_all_of(file.source.size):
                    found.setdefault(span.name, (i, span))
        return found

    # An array is named after its file; between two files of one each, names say nothing.
    only = None
    if all(not c.is_directory and len(c.files[0].spans) == 1 for c in (base, target)):
        only = (0, base.files[0].spans[0])
    found: Matches = defaultdict(dict)
    strays: list[tuple[CheckpointFile, Span]] = []
    for file in target.files:
        i, spans = in_base.get(file.name, (0, []))
        namesakes = {span.name: (i, span) for span in spans}
        if spans is file.spans:  # nothing has moved
            found[file.name] = {name: match for name, match in namesakes.items() if match[1].nbytes}
            continue
        matched = found[file.name]
        for span in file.spans:
            near = namesakes.get(span.name)
            if near is None and not span.is_all_of(file.source.size):
                near = by_name().get(span.name)
            near = near or only
            if near is not None and _comparable(span, near[1]):
                matched[span.name] = near
            elif span.nbytes:
                strays.append((file, span))
    if strays:
        _match_by_content(base, strays, found)
    return found


def _comparable(target: Span, base: Span) -> bool:
    """Whether a common part exists: same dtype, and rows of the same size or as many words."""
    return (
        target.dtype is base.dtype
        and target.nbytes > 0
        and base.nbytes > 0
        and (target.nbytes == base.nbytes or target.shape[1:] == base.shape[1:])
    )


def _match_by_content(
    base: Checkpoint, strays: list[tuple[CheckpointFile, Span]], found: Matches
) -> None:
    """Match renamed and duplicated tensors: same dtype and shape, most probes alike."""
    wanted = {(span.dtype.name, span.shape) for _, span in strays}
    seen: dict[tuple[str, tuple[int, ...], int, bytes], list[Match]] = defaultdict(list)
    for i, file in enumerate(base.files):
        for span in file.spans:
            whole = span.is_all_of(file.source.size)
            if (span.dtype.name, span.shape) in wanted and not whole:
                for k, probe in enumerate(_probes(file, span)):
                    holders = seen[span.dtype.name, span.shape, k, probe]
                    if len(holders) < 64:  # a run this common (zeros, ones) tells nothing
                        holders.append((i, span))
    for file, span in strays if seen else ():
        votes: Counter[tuple[int, str]] = Counter()
        spans: dict[tuple[int, str], Match] = {}
        for k, probe in enumerate(_probes(file, span)):
            for match in seen.get((span.dtype.name, span.shape, k, probe), ()):
                key = (match[0], match[1].name)
                votes[key] += 1
                spans[key] = match
        if votes:
            best = min(votes, key=lambda v: (-votes[v], v))
            if 4 * votes[best] >= _PROBES:
                found[file.name][span.name] = spans[best]


def _probes(file: CheckpointFile, span: Span) -> list[bytes]:
    """`_PROBES` runs of bytes at evenly spread places of a tensor."""
    size = min(_PROBE_BYTES, span.nbytes)
    places = [(span.nbytes - size) * k // (_PROBES - 1) for k in range(_PROBES)]
    if span.nbytes <= 1 << 16:
        whole = file.source.read(span.offset, span.nbytes)
        return [whole[p : p + size] for p in places]
    return [file.source.read(span.offset + p, size) for p in places]


def _cut(tensors: Tensors, indices: range, bucket_words: int) -> list[Bucket]:
    """Buckets for the tensors of one file, by dtype and by whether there is a base.

    A tensor of half a bucket or more starts and ends its own buckets, so that
    an embedding of mostly untouched rows shares no statistics with a layer.
    """
    runs: dict[tuple[str, bool], list[tuple[int, int]]] = defaultdict(list)
    for i in indices:
        dtype, n_based, n_words = tensors.dtypes[i].name, tensors.n_based[i], tensors.n_words[i]
        if n_based:
            runs[dtype, True].append((i, n_based))
        if n_words > n_based:
            runs[dtype, False].append((i, n_words - n_based))
    buckets: list[Bucket] = []
    for (_, based), run in runs.items():
        limit = min(bucket_words, BUCKET_BYTES // tensors.dtypes[run[0][0]].word_bytes)
        bucket: Bucket | None = None
        own: list[int] = []  # its tensors
        for index, n_words in run:
            large = 2 * n_words >= limit
            if large:
                bucket = None
            while n_words:
                if bucket is None or bucket.n_words == limit:
                    own = []
                    bucket = (
                        Bucket(own, 0, base=32 * _NOT_YET)
                        if based
                        else Bucket(own, 0, target=32 * _NOT_YET, digest=64 * _NOT_YET)
                    )
                    buckets.append(bucket)
                n = min(n_words, limit - bucket.n_words)
                own.append(index)
                bucket.n_words += n
                n_words -= n
            if large:
                bucket = None
    for bucket in buckets:
        if bucket.base is not None:
            bucket.locators = LOCATOR_DIGITS * len(bucket.tensors) * _NOT_YET
    return sorted(buckets, key=lambda b: (b.tensors[0], b.base is None))
