"""Mutants of bytes, made up without looking at coverage: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

_ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**53, 2**63, 2**64 - 1)
_TEXTS = (b"-1", b"1e999", b"null", b"[]", b"{}", b'"', b"\\u0000", b"\\ud800", b"../", b"\0", b"9")


def mutant(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the seeds, changed here and there."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.3:
            at = min(at, rng.randrange(64))  # headers come first
        n = rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 64)))
        match rng.randrange(9):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + n]
            case 3:
                data[at:at] = rng.randbytes(n)
            case 4:
                width = rng.choice((1, 2, 4, 8))
                value = rng.choice(_ODD) % (1 << 8 * width)
                data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
            case 5:
                data[at : at + rng.randrange(3)] = rng.choice(_TEXTS)
            case 6:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + n]
            case 7:
                other = rng.choice(seeds)
                start = rng.randrange(len(other) + 1)
                data[at : at + n] = other[start : start + n]
            case _:
                if rng.random() < 0.2:
                    del data[at:]
    return bytes(data)
