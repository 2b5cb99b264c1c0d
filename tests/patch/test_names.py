"""Names of files in a patch: what is taken is what the independent reader takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.errors import CorruptError
from sparsediff.patch import manifest_json
from tests import oracle
from tests.hostile import write as hostile
from tests.patch.rewriting import dumped

_PIECES: tuple[str, ...] = ("a", "b", "-", "/", "/", ".", "..", "\n", ":", "c:", "\0")
_PIECES += ("\\", "\x7f", "\u00e9", ".sparsediff-tmp", ".7", "\u00e9" * 127, "b" * 254, "d/" * 50)
_NAME = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8).map("".join)
_TREE = st.lists(st.sampled_from(("a", "a-", "a0", "b")), min_size=1, max_size=3).map("/".join)


def agree(names: list[str]) -> None:
    """Whether a base may have files of these names, both readers say alike."""
    n, manifest = len(names), hostile.anchor()
    manifest["base"] |= {"name": names, "size": [0] * n, "layout": [[0]] * n}
    manifest["base"]["skeleton"] = [hostile.xxh3(b"")] * n
    text = dumped(manifest)
    try:
        oracle.check_names(names, directory=True)
    except oracle.Refused:
        with pytest.raises(CorruptError):
            manifest_json.parse(text, len(text))
    else:
        manifest_json.parse(text, len(text))


@given(_NAME)
def test_a_name_alone(name: str) -> None:
    agree([name])


@given(st.lists(_TREE, max_size=5))
def test_names_beside_each_other(names: list[str]) -> None:
    agree(names)


@pytest.mark.parametrize("part", ["", ".", "..", "c:", ".sparsediff-tmp", "x" * 256])
@pytest.mark.parametrize("name", ["{}", "a/{}", "{}/a", "a/{}/a"])
def test_a_part_of_a_name(part: str, name: str) -> None:
    with pytest.raises(oracle.Refused):
        oracle.check_names([name.format(part)], directory=True)
    agree([name.format(part)])
