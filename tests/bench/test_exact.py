"""The benchmark's own codecs are exact, so that it compares with something that works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bench.compare import Options, ours_is_exact, race
from tests.bench.pairs import place
from tests.bench.rivals import TOOLS
from tests.bench.simple import from_gaps, main, to_gaps
from tests.bench.tensors import exactness
from tests.support.pairs import Stored, write_safetensors


def odd_pair(directory: Path) -> tuple[Path, Path]:
    """Long gaps, ±0, NaN payloads, an empty tensor, an unchanged one, and odd widths."""
    zeros = np.zeros(300_000, np.uint16)
    after = zeros.copy()
    after[[0, 1, 65_536, 65_537 + 65_535, 299_999]] = [0x8000, 0x7FC1, 0xFFFF, 0x7F81, 1]
    small = np.arange(257, dtype=np.uint8)
    base: dict[str, Stored] = {
        "odd": ("BF16", (300_000,), zeros.tobytes()),
        "bytes": ("F8_E4M3", (257,), small.tobytes()),
        "empty": ("F32", (0, 4), b""),
        "same": ("F32", (2, 2), bytes(16)),
    }
    target: dict[str, Stored] = base | {
        "odd": ("BF16", (300_000,), after.tobytes()),
        "bytes": ("F8_E4M3", (257,), (small ^ 0x80).tobytes()),
    }
    paths = place(directory)
    for path, tensors in zip(paths, (base, target), strict=True):
        write_safetensors(path, tensors)
    return paths


@pytest.mark.parametrize("codec", ["coo", "gaps", "xor-1", "xor-19"])
def test_simple_codecs_round_trip(codec: str, tmp_path: Path) -> None:
    base, target = odd_pair(tmp_path)
    patch, out = tmp_path / "patch", tmp_path / "out"
    main("make", codec, base, target, patch)
    main("apply", codec, base, patch, out)
    assert exactness(target, out) == "yes"
    assert exactness(target, base) == "no"


@pytest.mark.parametrize(
    "at", [[], [0], [65_534], [65_535], [65_536], [0, 65_536, 131_073], [131_070, 400_000]]
)
def test_gaps_of_every_length(at: list[int]) -> None:
    positions = np.array(at, np.int64)
    stream = to_gaps(positions)
    assert stream.dtype == np.uint16
    assert from_gaps(stream).tolist() == at


def test_a_new_header_is_told_from_lost_bits(tmp_path: Path) -> None:
    tensor: Stored = ("F32", (2,), bytes(8))
    one = write_safetensors(tmp_path / "one", {"w": tensor}, metadata={"format": "pt"})
    two = write_safetensors(tmp_path / "two", {"w": tensor})
    three = write_safetensors(tmp_path / "three", {"w": ("I32", (2,), bytes(8))})
    assert [exactness(one, path) for path in (one, two, three)] == ["yes", "tensors", "no"]


def test_a_race_names_who_failed(tmp_path: Path) -> None:
    base, target = odd_pair(tmp_path)
    options = Options(size=1, repeats=1, slow=60, sort_limit=64, timeout=60)
    gaps = next(t for t in TOOLS if t.name.startswith("u16"))
    broken = TOOLS[0].__class__(
        "broken", "", ("python -m tests.bench.no_such",), (), package="numpy"
    )
    results = race(base, target, [TOOLS[0], gaps, broken], options, lambda line: None)
    assert [r.exact for r in results] == ["yes", "yes", "no"]
    assert "no_such" in results[2].error
    assert results[0].make[0].peak > 10_000_000
    rows = [r.to_json() for r in results]
    assert ours_is_exact([{"results": rows}])
    rows[0]["exact"] = "tensors"
    assert not ours_is_exact([{"results": rows}])
