"""Element types: how wide a stored word is, and how its bits are ordered.

Enters: a dtype name as safetensors spells it. Leaves: a `DType`. Nothing here
ever looks at a value as a float; the layout is used only to order words and
to sort them into classes of magnitude.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy.typing as npt


class DType(NamedTuple):
    """Layout of one element type.

    Attributes:
        name: the safetensors name.
        bits: bits per element (4 and 6 for the packed types).
        word_bits: bits per coded word: 8, 16, 32 or 64. Packed types are coded
            as bytes, complex64 as two float32 words.
        kind: ``float`` (sign and magnitude), ``signed`` (two's complement) or
            ``unsigned`` (also everything whose order is unknown).
        mantissa_bits: width of the mantissa; 0 unless ``kind`` is ``float``.
    """

    name: str
    bits: int
    word_bits: int
    kind: str
    mantissa_bits: int = 0

    @property
    def word_bytes(self) -> int:
        """Bytes per word."""
        return self.word_bits // 8

    @property
    def class_shift(self) -> int:
        """A word's class is its magnitude shifted right by this many bits.

        The class is the exponent for floats of 16 bits and more, the whole
        magnitude for 8-bit floats, where there are so few.
        """
        return self.mantissa_bits if self.word_bits > 8 else 0

    @property
    def n_classes(self) -> int:
        """Number of magnitude classes; 1 where magnitude says nothing."""
        return 1 << (self.word_bits - 1 - self.class_shift) if self.kind == "float" else 1

    @property
    def numpy(self) -> npt.DTypeLike:
        """Little-endian unsigned NumPy dtype of one word."""
        import numpy as np  # who only looks into headers does without

        return np.dtype(f"<u{self.word_bytes}")

    def n_bytes(self, shape: tuple[int, ...]) -> int | None:
        """Bytes that a tensor of ``shape`` takes; None if not whole bytes or past 2^60."""
        if 0 in shape:
            return 0
        n_bits = self.bits
        for side in shape:
            n_bits *= side
            if n_bits >> 63:
                return None
        return n_bits // 8 if n_bits % 8 == 0 else None


_TABLE = (
    DType("BOOL", 8, 8, "unsigned"),
    DType("U8", 8, 8, "unsigned"),
    DType("I8", 8, 8, "signed"),
    DType("F4", 4, 8, "unsigned"),
    DType("F6_E2M3", 6, 8, "unsigned"),
    DType("F6_E3M2", 6, 8, "unsigned"),
    DType("F8_E8M0", 8, 8, "unsigned"),
    DType("F8_E5M2", 8, 8, "float", 2),
    DType("F8_E4M3", 8, 8, "float", 3),
    DType("F8_E5M2FNUZ", 8, 8, "float", 2),
    DType("F8_E4M3FNUZ", 8, 8, "float", 3),
    DType("U16", 16, 16, "unsigned"),
    DType("I16", 16, 16, "signed"),
    DType("F16", 16, 16, "float", 10),
    DType("BF16", 16, 16, "float", 7),
    DType("U32", 32, 32, "unsigned"),
    DType("I32", 32, 32, "signed"),
    DType("F32", 32, 32, "float", 23),
    DType("C64", 64, 32, "float", 23),
    DType("U64", 64, 64, "unsigned"),
    DType("I64", 64, 64, "signed"),
    DType("F64", 64, 64, "float", 52),
)

DTYPES: dict[str, DType] = {d.name: d for d in _TABLE}
"""Every dtype the safetensors format knows, by name."""
