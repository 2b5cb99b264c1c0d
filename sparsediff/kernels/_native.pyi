from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparsediff.checksum import Sums

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.generic]
Extents = Sequence[tuple[int, int, int]]
Side = tuple[Extents, Buffer | None]  # and memory
Tiers = tuple[list[int], list[bool]]  # bounds, marks_unchanged
Counts = tuple[list[list[int]], list[int]]  # by class, largest

class Diff:
    def __new__(
        cls, word_bits: int, kind: int, shift: int, bounds: list[int], marks: list[bool], /
    ) -> Diff: ...
    def feed(self, base: Buffer, target: Buffer, step_counts: Buffer, /) -> int: ...
    def payload(self) -> bytes: ...

class Patch:
    def __new__(
        cls, word_bits: int, kind: int, shift: int, payload: Buffer, n_words: int, /
    ) -> Patch: ...
    def feed(self, words: Buffer, /) -> None: ...
    def rebuild(
        self, piece_words: int, ends: Sequence[int], base: Extents, target: Extents, /
    ) -> tuple[Sums, Sums] | None: ...
    def finish(self) -> None: ...

def room(n_bytes: int, /) -> bytearray: ...
def survey(
    word_bits: int, kind: int, shift: int, base: Buffer, target: Buffer, /
) -> tuple[bytearray, bytearray, int]: ...
def count_steps(
    word_bits: int, kind: int, base: Buffer, target: Buffer, counts: Buffer, /
) -> int: ...
def count_parts(
    word_bits: int, kind: int, base: Buffer, target: Buffer, ends: Sequence[int], /
) -> Counts: ...
def differences(
    word_bytes: int, base: Buffer, target: Buffer, /
) -> tuple[bytearray, bytearray, bytearray]: ...
def take_in(
    word_bits: int,
    kind: int,
    shift: int,
    tiers: Tiers | None,
    piece_words: int,
    ends: Sequence[int],
    base: Side,
    target: Side,
    /,
) -> tuple[Sums, Sums, Counts, bytes] | None: ...
def rebuild(
    word_bits: int,
    kind: int,
    piece_words: int,
    ends: Sequence[int],
    base: Extents,
    target: Extents,
    /,
) -> tuple[Sums, Sums] | None: ...
def choose_tiers(
    members: Buffer, steps: Buffer, scale: float, /
) -> tuple[list[int], list[bool], float]: ...
def choose_by_sample(
    word_bits: int, kind: int, shift: int, base: Extents, target: Extents, stride: int, size: int, /
) -> tuple[tuple[list[int], list[bool], float], tuple[bytearray, bytearray] | None] | None: ...
def read_integers(text: Buffer, low: int, high: int, /) -> tuple[bytes, bytes] | None: ...
def literals(data: Buffer, stride: int, /) -> int: ...
def planes(
    word_bytes: int,
    target: Buffer,
    base: Buffer | None,
    starts: Sequence[int],
    size: int,
    /,
) -> bytearray: ...
def from_planes(
    planes: Buffer, first: int, word_bytes: int, words: Buffer, is_xor: bool, /
) -> None: ...
def use(name: str | None = None, /) -> str: ...
