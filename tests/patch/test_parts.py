"""Which words buckets take: columns that look like lists of parts."""

from __future__ import annotations

from array import array

import pytest

from sparsediff.patch.parts import Part, PartsByBucket


def by_bucket(last: int = 9) -> PartsByBucket:
    tensors, starts, sizes = [0, 1, 2, 2, 4], [0, 0, 0, 7, 0], [5, 6, 7, 1, last]
    columns = array("i", tensors), array("q", starts), array("q", sizes)
    return PartsByBucket(columns, array("q", [0, 3, 5]))


def test_parts_are_those_in_the_columns() -> None:
    parts = by_bucket()
    first, second = parts
    assert [*first] == [Part(0, 0, 5), Part(1, 0, 6), Part(2, 0, 7)]
    assert [*second] == [Part(2, 7, 1), Part(4, 0, 9)]
    assert (len(parts), len(first), len(second)) == (2, 3, 2)
    assert (second[1], second[-1], [*first[1:]]) == (Part(4, 0, 9), Part(4, 0, 9), [*first][1:])
    assert [*first[1:][1:]] == [Part(2, 0, 7)]
    assert (second.tensors.tolist(), second.sizes.tolist()) == ([2, 4], [1, 9])
    with pytest.raises(IndexError):
        first[3]


def test_parts_are_compared_by_value() -> None:
    assert by_bucket() == by_bucket() != by_bucket(last=8)
