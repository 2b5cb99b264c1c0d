"""Reference entropy coder: interleaved range asymmetric numeral systems (rANS).

Enters: runs of one-byte symbols, each run with its frequency table. Leaves: one
byte string at the entropy of the tables. Static 14-bit frequencies,
32-bit states, 16-bit renormalisation, a power of two of interleaved lanes
(format.md, "Entropy coding"; J. Duda, arXiv 1311.2540; F. Giesen, arXiv
1402.3392). Vectorised over lanes; the compiled form must give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.errors import CorruptError
from sparsediff.kernels.symbols import N_SYMBOLS, SCALE, SCALE_BITS

LOW = 1 << 16  # states live in [LOW, 2^32)

Bytes = npt.NDArray[np.uint8]
Tables = npt.NDArray[np.uint32]  # (n_tables, 256), every used row sums to SCALE


def _rows(tables: Any) -> Tables:
    return np.frombuffer(tables, "<u4").reshape(-1, N_SYMBOLS)


def _starts(tables: Tables) -> npt.NDArray[np.uint64]:
    return (np.cumsum(tables, axis=1) - tables).astype(np.uint64)


def encode(runs: Sequence[bytes], tables: Any, lanes: int) -> bytes:
    """Encode the symbols of all runs, one after the other.

    Args:
        runs: symbols; each must have a frequency in its run's table.
        tables: a buffer of uint32, (n_runs, 256).
        lanes: number of interleaved states.

    Returns:
        ``lanes`` final states (uint32 LE), then the 16-bit words (LE) in the
        order the decoder takes them.
    """
    symbols = np.frombuffer(b"".join(runs), np.uint8)
    table_of = _table_of([len(r) for r in runs])
    tables = _rows(tables)
    freqs, starts = tables.astype(np.uint64), _starts(tables)
    state = np.full(lanes, LOW, np.uint64)
    rows: list[npt.NDArray[np.uint16]] = []
    shift, scale_bits = np.uint64(32 - SCALE_BITS), np.uint64(SCALE_BITS)
    for begin in range((symbols.size - 1) // lanes * lanes, -1, -lanes):
        s, k = symbols[begin : begin + lanes], table_of[begin : begin + lanes]
        f, x = freqs[k, s], state[: s.size]
        full = x >= f << shift
        if full.any():
            rows.append(x[full].astype(np.uint16))
            x = np.where(full, x >> np.uint64(16), x)
        quotient, rest = np.divmod(x, f)
        state[: s.size] = (quotient << scale_bits) + rest + starts[k, s]
    words = np.concatenate([np.zeros(0, np.uint16), *reversed(rows)])
    return state.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def decode(data: bytes, sizes: Sequence[int], tables: Any, lanes: int) -> list[bytes]:
    """Decode runs of ``sizes`` symbols; inverse of `encode`.

    Raises:
        CorruptError: ``data`` ends early, has bytes left over, or does not end
            in the states an encoder starts from.
    """
    table_of, tables = _table_of(sizes), _rows(tables)
    if len(data) < 4 * lanes or len(data) % 2:
        raise CorruptError("entropy-coded data is cut short", found=f"{len(data)} bytes")
    freqs, starts = tables.astype(np.uint64), _starts(tables)
    lookup = np.zeros((len(tables), SCALE), np.uint8)
    for row, freq in zip(lookup, tables, strict=True):
        row[:] = np.repeat(np.arange(256, dtype=np.uint8), freq)
    state = np.frombuffer(data, "<u4", lanes).astype(np.uint64)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.uint64)
    if np.any(state < LOW):
        raise CorruptError("entropy coder state out of range", expected=f"at least {LOW}")
    out = np.empty(table_of.size, np.uint8)
    taken = 0
    mask, scale_bits, low = np.uint64(SCALE - 1), np.uint64(SCALE_BITS), np.uint64(LOW)
    for begin in range(0, out.size, lanes):
        k = table_of[begin : begin + lanes]
        x = state[: k.size]
        slot = x & mask
        s = lookup[k, slot]
        out[begin : begin + lanes] = s
        x = freqs[k, s] * (x >> scale_bits) + slot - starts[k, s]
        short = np.flatnonzero(x < low)
        if short.size:
            more = words[taken : taken + short.size]
            if more.size != short.size:
                raise CorruptError("entropy-coded data is cut short")
            x[short] = (x[short] << np.uint64(16)) | more
            taken += short.size
        state[: k.size] = x
    if taken != words.size or np.any(state != low):
        raise CorruptError("entropy-coded data does not end where it should")
    return [run.tobytes() for run in np.split(out, np.cumsum(sizes)[:-1])]


def _table_of(sizes: Sequence[int]) -> Bytes:
    return np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
