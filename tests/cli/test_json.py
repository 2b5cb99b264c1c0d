"""JSON is what Python's own encoder prints, though rows are made and encoded one at a time."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any, NamedTuple
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from sparsediff.cli import documents
from sparsediff.cli.common import print_json
from sparsediff.cli.documents import Rows

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(inner, max_size=4)
    keys = st.text(max_size=4) | st.integers()
    return few | few.map(tuple) | st.dictionaries(keys, inner, max_size=4)


@given(st.recursive(plain, nested, max_leaves=20), st.integers(1, 4))
def test_as_python_prints_it(document: Any, block: int) -> None:
    at_once = mock.patch.object(documents, "_BLOCK", block)
    with at_once, contextlib.redirect_stdout(io.StringIO()) as out:
        print_json(document)
    assert out.getvalue() == json.dumps(document, indent=2) + "\n"


class Place(NamedTuple):
    n: object
    shape: tuple[object, ...]


shapes = st.lists(plain | st.integers(0, 2), max_size=18).map(tuple)
alike = st.lists(
    st.fixed_dictionaries({"100 %s": plain, "n": st.integers(), 3: st.text(), "shape": shapes}),
    max_size=9,
) | st.lists(st.builds(Place, plain, shapes), max_size=9)


@given(alike, st.integers(1, 4))
def test_rows_that_are_alike_are_printed_as_a_list(rows: list[Any], block: int) -> None:
    with (
        mock.patch.object(documents, "_BLOCK", block),
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        print_json({"rows": Rows(lambda: iter(rows)), "row": rows})
    assert out.getvalue() == json.dumps({"rows": rows, "row": rows}, indent=2) + "\n"


@given(st.lists(st.recursive(plain, nested, max_leaves=5), max_size=5))
def test_rows_are_printed_as_a_list(rows: list[Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_json({"rows": Rows(lambda: iter(rows)), "n": 1})
    assert out.getvalue() == json.dumps({"rows": rows, "n": 1}, indent=2) + "\n"
