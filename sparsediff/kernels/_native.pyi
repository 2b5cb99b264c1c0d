from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Buffer = bytes | bytearray | npt.NDArray[np.generic]
Side = tuple[Buffer, Buffer, Buffer]  # extents, memory, sums

class Diff:
    def __new__(
        cls, word_bits: int, kind: int, shift: int, bounds: Sequence[int], marks: bytes, /
    ) -> Diff: ...
    def feed(self, base: Buffer, target: Buffer, step_counts: Buffer, /) -> int: ...
    def take_in(
        self,
        piece_words: int,
        ends: Buffer,
        by_class: Buffer,
        largest: Buffer,
        base: Side,
        target: Side,
        /,
    ) -> bool: ...
    def finish(self) -> list[tuple[int, int, bytes, bytes, bytes, bytes]]: ...

class Patch:
    def __new__(
        cls,
        word_bits: int,
        kind: int,
        shift: int,
        bounds: Sequence[int],
        tiers: Sequence[tuple[int, int, bytes, bytes, bytes, bytes]],
        /,
    ) -> Patch: ...
    def feed(self, words: Buffer, /) -> None: ...
    def rebuild(
        self, piece_words: int, ends: Buffer, base: Side, target: Buffer, target_sums: Buffer, /
    ) -> bool: ...
    def finish(self) -> None: ...

def survey(
    word_bits: int,
    kind: int,
    shift: int,
    base: Buffer,
    target: Buffer,
    members: Buffer,
    steps: Buffer,
    /,
) -> int: ...
def count_parts(
    word_bits: int,
    kind: int,
    base: Buffer,
    target: Buffer,
    ends: Buffer,
    by_class: Buffer,
    largest: Buffer,
    /,
) -> None: ...
def take_in(
    word_bits: int,
    kind: int,
    piece_words: int,
    ends: Buffer,
    by_class: Buffer,
    largest: Buffer,
    base: Side,
    target: Side,
    /,
) -> bool: ...
def rebuild(
    word_bits: int,
    kind: int,
    piece_words: int,
    ends: Buffer,
    base: Side,
    target: Buffer,
    target_sums: Buffer,
    /,
) -> bool: ...
def choose_tiers(
    members: Buffer, steps: Buffer, scale: float, log2: Buffer, /
) -> tuple[list[int], list[bool], float]: ...
def tier_tables(
    rows: Sequence[tuple[int, bytes, bytes]], microbits: Buffer, /
) -> tuple[list[bytes], bytes]: ...
def geometric(n_marked: int, n_members: int, /) -> bytes: ...
def literals(data: Buffer, /) -> int: ...
def histogram(data: Buffer, counts: Buffer, /) -> None: ...
def rans_encode(symbols: Buffer, sizes: Sequence[int], tables: Buffer, lanes: int, /) -> bytes: ...
def rans_decode(
    data: Buffer, sizes: Sequence[int], tables: Buffer, lanes: int, symbols: Buffer, /
) -> None: ...
def use(name: str | None = None, /) -> str: ...
