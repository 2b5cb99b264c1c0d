"""Columns of tensors give the tensors that were entered, and compare them as one would singly."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from sparsediff.dtypes import DTYPES, DType
from sparsediff.patch.tensors import Tensors

Row = tuple[str, DType, tuple[int, ...], int, tuple[int, int, int] | None]

BASES = st.none() | st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 64))
ROWS = st.lists(
    st.tuples(
        st.text(max_size=3),
        st.sampled_from([DTYPES["BF16"], DTYPES["F32"], DTYPES["U8"]]),
        st.sampled_from([(), (0,), (3,), (2, 4)]),
        st.integers(0, 9),
        BASES,
    ),
    max_size=8,
)


def tensors_of(rows: list[Row]) -> Tensors:
    tensors = Tensors()
    for row in rows:
        tensors.add(*row)
    return tensors


@given(ROWS)
def test_what_is_entered_is_there(rows: list[Row]) -> None:
    tensors = tensors_of(rows)
    assert len(tensors) == len(rows)
    assert [*tensors] == [tensors[i] for i in range(len(rows))] == tensors[:]
    for i, (tensor, (name, dtype, shape, offset, base)) in enumerate(
        zip(tensors, rows, strict=True)
    ):
        assert tensor[:4] == (name, dtype, shape, offset)
        assert tensor.n_bytes == dtype.n_bytes(shape) == tensor.n_words * dtype.word_bytes
        assert tensor.base_file == (base and base[0])
        n_there = base[2] if base else 0
        assert tensor.n_based == min(tensor.n_bytes, n_there) // dtype.word_bytes
        assert tensor.n_changed == tensors.n_changed(i) == tensor.n_words - tensor.n_based
    again = pickle.loads(pickle.dumps(tensors))
    assert again == tensors
    assert again.lie_like(tensors)
    if rows:
        again.medians[-1] += 1
        assert again != tensors
        assert again.lie_like(tensors)
        again.offsets[-1] += 1
        assert not again.lie_like(tensors)


@given(ROWS, st.integers(0, 8), st.integers(0, 8))
def test_some_in_a_row_with_other_base_files(rows: list[Row], a: int, b: int) -> None:
    tensors, at = tensors_of(rows), range(*sorted((min(a, len(rows)), min(b, len(rows)))))
    found = tensors_of(rows)
    found.extend(tensors, at, {None: None, 0: 5, 1: None, 2: 2})
    assert found[: len(rows)] == tensors[:]
    new_file = {None: None, 0: 5, 1: None, 2: 2}
    expected = [tensors[i]._replace(base_file=new_file[tensors[i].base_file]) for i in at]
    assert found[len(rows) :] == expected


@given(ROWS, st.data())
def test_based_on_the_patch_before(rows: list[Row], data: st.DataObject) -> None:
    """As from step to step of training; and not, as soon as one word lies elsewhere."""
    before = tensors_of(rows)
    after = tensors_of([(*row[:4], (1, row[3], 64)) for row in rows])
    every = range(len(rows))
    assert after.are_based_on(before, every, 1)
    assert not any(before.n_words) or not after.are_based_on(before, every, 0)
    if not rows:
        return
    row = data.draw(st.sampled_from(every))
    if data.draw(st.booleans()):
        after.base_files[row] = 2
    else:
        column = data.draw(st.sampled_from([after.base_offsets, after.n_based]))
        column[row] += 1
    assert after.are_based_on(before, every, 1) == (before.n_words[row] == 0)
    assert after.are_based_on(before, range(row), 1)
