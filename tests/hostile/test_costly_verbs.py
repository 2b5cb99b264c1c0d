"""No verb that reads a patch below 1 MB takes more than 300 MiB, or many seconds, for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hostile import costly
from tests.hostile.costly_patches import patches, write_pair
from tests.support.costs import cost

BY = ("layer", "kind", "depth", "part", "dtype", "file")
READ = {
    "verify": "verify {patch}",
    "show": "show {patch}",
    "show --json": "show {patch} --json",
    "stats": "stats {patch}",
    "stats --json": "stats {patch} --json",
    "stats --csv": "stats {patch} --csv",
    "stats --sort": "stats {patch} --sort bits --json",
    "stats --sort name": "stats {patch} --sort name",
    "stats --top": "stats {patch} --top 5",
}
"""Verbs that read the patch alone: it is right, and they say so."""
GROUP = {f"stats --by {by}": f"stats {{patch}} --by {by}" for by in BY}
"""The same of groups of tensors: for patches of many, of one it is what `stats` is without."""
REBUILD = {
    "verify --base": "verify {patch} --base {base}",
    "apply": "apply {base} {patch} -o {out}",
    "squash": "squash {base} {patch} -o {out}",
    "export": "export {base} {patch} -o {out}",
    "export -j 1": "export {base} {patch} -o {out} -j 1",
    "export trl": "export {base} {patch} -o {out} --layout trl",
    "export slime": "export {base} {patch} -o {out}/weight_v000101 --layout slime",
    "apply in place": "apply {base} {patch} --in-place",
}
"""Verbs that make the target's words."""
CHAIN = {
    "apply chain": "apply {base} {patch} {patch} -o {out}",
    "squash chain": "squash {base} {patch} {patch} -o {out}",
}
"""… of two patches in a row, each of which leaves the base as it was."""
_SECONDS = {
    name: 20.0
    for name in (*READ, *GROUP, *REBUILD, *CHAIN)
    if name not in ("verify", "verify --base")
}
"""Of processor time: what a verb prints or writes takes 10 to 20 µs for each tensor or bucket, on a
busy machine twice that."""
_SECONDS["show --json"] = 40.0  # which prints each tensor, and each part of a bucket beside
_REFUSED = {
    ("new", "export trl"): 12,  # TRL's reader would leave new tensors out,
    ("new", "export slime"): 12,  # and slime's would need a whole version
    ("same", "export trl"): 12,  # To both, a tensor that the base has no name for is new.
    ("same", "export slime"): 12,
    # Tensors of one name, in several files, are refused by what writes one file of all of them.
    **{("shapes", verb): 12 for verb in REBUILD if verb.startswith("export")},
}
"""Of ideas and verbs that do not go together, the code."""


@pytest.fixture(scope="module", params=[*patches()])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    idea = request.param
    return idea, *write_pair(idea, tmp_path_factory.mktemp("costly"))


@pytest.mark.slow
@pytest.mark.parametrize("verb", [*READ])
def test_reading(pair: tuple[str, Path, Path], verb: str) -> None:
    _, patch, _ = pair
    check(verb, READ[verb].format(patch=patch), {0})


@pytest.mark.slow
@pytest.mark.parametrize("verb", [*GROUP])
@pytest.mark.parametrize("pair", ["new", "same", "shapes"], indirect=True)
def test_grouping(pair: tuple[str, Path, Path], verb: str) -> None:
    _, patch, _ = pair
    check(verb, GROUP[verb].format(patch=patch), {0})


@pytest.mark.slow
@pytest.mark.parametrize("verb", [*REBUILD])
@pytest.mark.parametrize("idea", ["new", "same", "long shape", "shapes", "digits"])
def test_rebuilding(idea: str, verb: str, tmp_path: Path) -> None:
    patch, base = write_pair(idea, tmp_path)
    if verb == "export slime":
        (tmp_path / "out").mkdir()
    codes = {_REFUSED.get((idea, verb), 0)}
    check(verb, REBUILD[verb].format(patch=patch, base=base, out=tmp_path / "out"), codes)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [name for name in REBUILD if not name.startswith("export")])
def test_rebuilding_many_buckets(verb: str, tmp_path: Path) -> None:
    patch, base = write_pair("buckets", tmp_path)
    check(verb, REBUILD[verb].format(patch=patch, base=base, out=tmp_path / "out"), {0}, 20)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [*CHAIN])
def test_chain(verb: str, tmp_path: Path) -> None:
    patch, base = write_pair("same", tmp_path)
    line = CHAIN[verb].format(patch=patch, base=base, out=tmp_path / "out")
    check(verb, line, {0})


def check(verb: str, line: str, codes: set[int], most: float | None = None) -> None:
    """Hold a command to a code, to memory, and to so many seconds or those of its verb."""
    before = os.times()
    found = cost(*line.split())
    after = os.times()
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    assert found.code in codes, found.err
    assert found.peak_bytes < costly.MAX_PEAK, f"{found.peak_bytes >> 20} MiB"
    most = _SECONDS.get(verb, costly.MAX_SECONDS) if most is None else most
    assert seconds < most, f"{seconds:.2f} s"
