"""Several patches in a row: each word that is different is listed once, with what it was."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff import WrongBaseError, iter_updates, make_patch, open_patch, removed_tensors
from sparsediff.apply import chain as chains
from sparsediff.checkpoint.memory import MemoryTensor, bytes_of
from sparsediff.dtypes import DTYPES
from tests.support.pairs import Array, Stored, change_some, training_pair, write_safetensors
from tests.updates.test_positions import check_updates, words_in


def patches(*checkpoints: Path, bucket_words: int = 1500) -> list[Path]:
    """The patch from each of the checkpoints to the next."""
    found = []
    for i, (a, b) in enumerate(pairwise(checkpoints)):
        found.append(b.parent / f"{i}.sdiff")
        make_patch(a, b, found[-1], bucket_words=bucket_words)
    return found


def check(base: Path, target: Path, chain: list[Path]) -> set[str]:
    """Compare what the chain says with the words of base and target; names it speaks of."""
    check_updates(base, target, chain)  # type: ignore[arg-type]
    old = {name: words for (_, name), words in words_in(base).items()}
    new = {name: words for (_, name), words in words_in(target).items()}
    told: dict[str, list[int]] = {}
    for u in iter_updates(chain, base):
        told.setdefault(u.name, []).extend(u.indices.tolist())
        assert (new[u.name][u.indices] == u.values).all()
        if u.indices[0] >= u.n_based:
            assert u.base_values is None
        else:
            assert u.base_values is not None
            assert u.indices[-1] < u.n_based
            assert u.base_values.tobytes() == old[u.name][u.indices].tobytes()
            assert (u.base_values != u.values).all()
    for at in told.values():
        assert len(set(at)) == len(at)
        assert (np.diff(at) > 0).all()
    assert removed_tensors(chain, base) == sorted(old.keys() - new.keys())
    return set(told)


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shares=st.lists(st.sampled_from([0.0, 0.002, 0.05, 1.0]), min_size=1, max_size=4),
    grow=st.lists(st.sampled_from([0, 0, 16]), min_size=4, max_size=4),
    again=st.booleans(),
    seed=st.integers(0, 50),
)
def test_every_dtype_through_several_steps(
    dtype: str,
    shares: list[float],
    grow: list[int],
    again: bool,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("c")
    rows, n = 64, DTYPES[dtype].n_bytes
    data = np.random.default_rng(seed).bytes(n((rows, 16)) or 0)
    still: Stored = ("F32", (2,), b"12345678")
    steps = [write_safetensors(place / "s", {"x": (dtype, (rows, 16), data), "y": still})]
    for i, (share, more) in enumerate(zip(shares, grow, strict=False)):
        data = change_some(data, share, seed + i) + bytes(n((more, 16)) or 0)
        rows += more
        tensors: dict[str, Stored] = {"x": (dtype, (rows, 16), data), "y": still}
        steps.append(write_safetensors(place / f"s{i}", tensors))
    if again and not any(grow[: len(shares)]):  # and back: then nothing is different
        steps.append(steps[0])
    told = check(steps[0], steps[-1], patches(*steps, bucket_words=300))
    if steps[-1] == steps[0]:
        assert not told


def test_steps_of_training_are_taken_in_one_pass(tmp_path: Path) -> None:
    one, two = training_pair(6000)
    back = ("BF16", one[1], two[2][:3000] + one[2][3000:])
    steps = [
        write_safetensors(tmp_path / str(i) / "m.safetensors", {"w": t, "v": one}).parent
        for i, t in enumerate((one, two, back))
    ]
    chain = patches(*steps)
    with chains.open_chain(chain) as opened:
        assert [len(g) for g in chains.groups(opened)] == [2]
    assert check(steps[0], steps[2], chain) == {"w"}
    tensors = {name: words for (_, name), words in words_in(steps[0]).items()}
    assert tensors.keys() == {"w", "v"}
    in_memory = {
        name: MemoryTensor(DTYPES["BF16"], one[1], partial(fill, words))
        for name, words in tensors.items()
    }
    found = [u.indices.tolist() for u in iter_updates(chain, in_memory)]
    assert found == [u.indices.tolist() for u in iter_updates(chain, steps[0])]


def fill(words: Array, offset: int, buffer: Any) -> None:
    """Read as a `MemoryTensor` does."""
    out = bytes_of(buffer)
    out[:] = words.view(np.uint8)[offset : offset + out.size]


def test_tensors_that_move_come_go_and_change_their_names(tmp_path: Path) -> None:
    one, two = training_pair(4000)
    _, three = training_pair(4000, seed=1)
    small: Stored = ("I16", (3,), b"abcdef")
    steps = [
        {"a": {"w": one, "gone": small, "old_name": three}},
        {"a": {"w": two, "old_name": three}, "b": {"more": small, "passing": small}},
        {"b": {"new_name": three}, "c": {"w": one, "more": small}},
        {"b": {"new_name": two}, "c": {"w": three, "more": small}},
    ]
    places = []
    for i, files in enumerate(steps):
        for name, tensors in files.items():
            write_safetensors(tmp_path / str(i) / f"{name}.safetensors", tensors)
        places.append(tmp_path / str(i))
    chain = patches(*places)
    with chains.open_chain(chain) as opened:
        assert len(chains.groups(opened)) > 1
    assert check(places[0], places[3], chain) == {"w", "more", "new_name"}
    assert check(places[0], places[2], chain[:2]) == {"more", "new_name"}  # `w` is back
    assert check(places[1], places[3], chain[1:]) == {"w", "new_name"}
    by_name = {u.name: u for u in iter_updates(chain[:3], places[0])}
    assert by_name["w"].n_based == 4000
    assert by_name["new_name"].n_based == by_name["more"].n_based == 0


def test_a_chain_cut_differently_and_from_nothing(base: Path, target: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    make_patch(nothing, base, tmp_path / "0.sdiff", bucket_words=2000)
    make_patch(base, target, tmp_path / "1.sdiff", bucket_words=3000)
    make_patch(target, base, tmp_path / "2.sdiff", bucket_words=4000)
    chain = [tmp_path / f"{i}.sdiff" for i in range(3)]
    check(base, base, chain[1:])
    new = {name: words for (_, name), words in words_in(target).items()}
    found = list(iter_updates(chain[:2], nothing))
    assert sum(u.indices.size for u in found) == sum(words.size for words in new.values())
    for u in found:
        assert (u.n_based, u.base_values) == (0, None)
        assert (new[u.name][u.indices] == u.values).all()
    assert not list(iter_updates(chain[1:], base))
    tensors: dict[str, Array] = {name: words.copy() for (_, name), words in words_in(base).items()}
    with pytest.raises(WrongBaseError):
        list(iter_updates(chain[1:], dict(tensors)))  # integers are not these tensors
    with pytest.raises(WrongBaseError, match="does not continue"):
        list(iter_updates([chain[1], chain[1]], base))
    with pytest.raises(WrongBaseError):
        list(iter_updates(chain[1:], target))
    with open(chain[1], "rb") as stream, open_patch(chain[2]) as opened:
        assert opened.manifest.tensors
        assert not list(iter_updates([stream, chain[2]], base))
