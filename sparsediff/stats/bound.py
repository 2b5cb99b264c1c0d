"""The entropy bound: how small the changes could get, given the base exponents.

Enters: pairs of base and target words. Leaves: bits. With classes e, the
exponent of the base word,

    bound = sum_e n_e H(k_e / n_e) + sum_e k_e H(step | e)

where n_e elements of class e, k_e of them changed, H in bits, the second over
the empirical distribution of signed steps. Positions and values are each
charged at the entropy of what is actually there; no cost of describing the
statistics is included, so a real coder stays above it unless changes cluster.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsediff.dtypes import DType
from sparsediff.kernels.numbers import CHUNK
from sparsediff.kernels.steps import Words, keys
from sparsediff.patch.counts import n_entropy

MAX_DISTINCT = 1 << 21  # (class, step) pairs kept; past that what is there is closed off

Counts = npt.NDArray[np.int64]


class _Pool:
    """Counts of one dtype."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        n = 1 << (dtype.word_bits - 1 - dtype.mantissa_bits) if dtype.kind == "float" else 1
        self.members = np.zeros(n, np.int64)
        self.steps = np.zeros((2, 0), np.uint64)  # class and step of each distinct pair
        self.counts = np.zeros(0, np.int64)
        self.closed = 0.0

    def _classes(self, words: Words) -> npt.NDArray[np.uint64]:
        if self.members.size == 1:
            return np.zeros(words.size, np.uint64)
        magnitude = words & words.dtype.type((1 << (self.dtype.word_bits - 1)) - 1)
        return np.asarray(magnitude >> words.dtype.type(self.dtype.mantissa_bits)).astype(np.uint64)

    def add(self, base: Words, target: Words) -> None:
        for i in range(0, base.size, CHUNK):
            b, t = base[i : i + CHUNK], target[i : i + CHUNK]
            self.members += np.bincount(
                self._classes(b).astype(np.int64), minlength=self.members.size
            )
            at = np.flatnonzero(b != t)
            b, t = b[at], t[at]
            step = (keys(t, self.dtype) - keys(b, self.dtype)).astype(np.uint64)
            self._merge(np.stack([self._classes(b), step]), np.ones(at.size, np.int64))

    def _merge(self, steps: npt.NDArray[np.uint64], counts: Counts) -> None:
        steps = np.concatenate([self.steps, steps], axis=1)
        counts = np.concatenate([self.counts, counts])
        if not counts.size:
            return
        order = np.lexsort(steps[::-1])
        steps, counts = steps[:, order], counts[order]
        first = np.flatnonzero(np.append(True, np.any(steps[:, 1:] != steps[:, :-1], axis=0)))
        self.steps, self.counts = steps[:, first], np.add.reduceat(counts, first)
        if self.counts.size > MAX_DISTINCT:
            self.closed = self.bits()
            self.members[:] = 0
            self.steps, self.counts = self.steps[:, :0], self.counts[:0]

    def bits(self) -> float:
        cls = self.steps[0].astype(np.int64)
        changed = np.bincount(cls, weights=self.counts, minlength=self.members.size)
        where = n_entropy(np.stack([changed, self.members - changed], axis=-1)).sum()
        # sum_e k_e H(step|e) = sum over pairs of count * log2(k_e / count)
        how = float(self.counts @ np.log2(changed[cls] / self.counts)) if cls.size else 0.0
        return self.closed + float(where) + how


class Bound:
    """Adds up the bound over buckets, dtype by dtype. Safe to call from several threads.

    Steps of 32 bits and more may all be distinct; so that memory stays bounded,
    after `MAX_DISTINCT` of them the bits so far are set aside and counting
    starts anew. That can only lower the bound.
    """

    def __init__(self) -> None:
        self._pools: dict[str, _Pool] = {}
        self._lock = threading.Lock()

    def add(self, dtype: DType, base: Any, target: Any) -> None:
        """Count one bucket's words, which are arrays or views of memory."""
        with self._lock:
            pool = self._pools.setdefault(dtype.name, _Pool(dtype))
            pool.add(np.asarray(base), np.asarray(target))

    def bits(self) -> float:
        """The bound so far, in bits."""
        with self._lock:
            return sum(pool.bits() for pool in self._pools.values())
