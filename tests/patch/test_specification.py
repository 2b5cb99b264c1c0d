"""Rules of the format page that once left room for a guess: package and oracle judge alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zstandard

from sparsediff import UnsupportedError, apply_patch, make_patch
from sparsediff.kernels import rans
from sparsediff.kernels.varint import varint
from tests.patch.mutants import mutants
from tests.patch.rewriting import Parts, by_oracle, by_reader, container, dumped, edited
from tests.support.pairs import model_directory, tree, write_safetensors

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
ZSTD = b"\x28\xb5\x2f\xfd"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A base directory, and a patch from it."""
    root = tmp_path_factory.mktemp("specification")
    base, target = model_directory(root / "base"), model_directory(root / "target", lr=1e-6)
    (base / "empty").touch()
    (target / "empty").touch()
    make_patch(base, target, root / "p.sdiff")
    return base, (root / "p.sdiff").read_bytes()


def judged(base: Path, patch: bytes, tmp_path: Path) -> bool:
    """Whether a patch is accepted; package and oracle must agree, on every byte."""
    ours, why = by_reader(base, patch, tmp_path / "out")
    theirs, reason = by_oracle(base, patch)
    assert ours == theirs, (why, reason)
    return ours is not None


def set_column(table: str, column: str, value: Any, row: int = 0) -> Callable[[Parts], None]:
    def edit(parts: Parts) -> None:
        parts.manifest[table][column][row] = value

    return edit


def changed_row(parts: Parts) -> int:
    """A tensor that changed."""
    return next(i for i, n in enumerate(parts.manifest["tensors"]["changed"]) if n)


# Figures for people: what is compared with what


@pytest.mark.parametrize("column", ["median", "largest"])
def test_median_and_largest_are_not_checked(
    column: str, made: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = made
    assert judged(base, edited(patch, set_column("tensors", column, 2**63)), tmp_path)
    assert not judged(base, edited(patch, set_column("tensors", column, 2**63 + 1)), tmp_path)


def test_changed_and_wider_may_be_wrong_but_not_impossible(
    made: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = made

    def figures(changed: Callable[[int], int], wider: Callable[[int], int]) -> bytes:
        def edit(parts: Parts) -> None:
            row = changed_row(parts)
            t = parts.manifest["tensors"]
            n = t["shape"][row][0]
            for side in t["shape"][row][1:]:
                n *= side
            t["changed"][row], t["wider"][row] = changed(n), wider(n)

        return edited(patch, edit)

    assert judged(base, figures(lambda n: n, lambda n: n), tmp_path)
    assert judged(base, figures(lambda n: 0, lambda n: 0), tmp_path)
    assert not judged(base, figures(lambda n: n + 1, lambda n: 0), tmp_path)
    assert not judged(base, figures(lambda n: 1, lambda n: 2), tmp_path)


def test_locators_are_a_hint_but_must_have_their_form(
    made: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = made

    def locators(change: Callable[[str], str]) -> bytes:
        def edit(parts: Parts) -> None:
            column = parts.manifest["buckets"]["locators"]
            column[0] = change(column[0])

        return edited(patch, edit)

    assert judged(base, locators(lambda text: "0" * len(text)), tmp_path)
    assert not judged(base, locators(lambda text: text + "00"), tmp_path)
    assert not judged(base, locators(lambda text: text[:-1]), tmp_path)
    assert not judged(base, locators(lambda text: "G" * len(text)), tmp_path)


# Zstd frames


@pytest.mark.parametrize(
    ("number", "accepted"), [(b"\0", True), (b"\0\0\0\0", True), (b"\1", False)]
)
def test_a_dictionary_number_of_zero_names_no_dictionary(
    number: bytes, accepted: bool, made: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = made
    parts = Parts.of(patch)
    text = dumped(parts.manifest)
    head = bytes([0xA0 | {1: 1, 4: 3}[len(number)]])  # single segment, size in four bytes
    blocks = [text[i : i + 100_000] for i in range(0, len(text), 100_000)]
    frame = ZSTD + head + number + len(text).to_bytes(4, "little")
    for i, block in enumerate(blocks):
        frame += (len(block) << 3 | (i == len(blocks) - 1)).to_bytes(3, "little") + block
    assert judged(base, parts.patch(frame=frame), tmp_path) == accepted


def test_a_dictionary_may_begin_with_the_magic_number_of_trained_ones(tmp_path: Path) -> None:
    for side, end in (("base", b"old"), ("target", b"new")):
        content = b"\x37\xa4\x30\xec" + bytes(range(256)) * 40 + end
        (tmp_path / side).write_bytes(content)
    make_patch(tmp_path / "base", tmp_path / "target", tmp_path / "p")
    patch = (tmp_path / "p").read_bytes()
    assert judged(tmp_path / "base", patch, tmp_path)


@pytest.mark.parametrize(("flip", "accepted"), [(0, True), (1, False)])
def test_a_content_checksum_is_allowed_and_must_be_right(
    flip: int, accepted: bool, made: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = made
    parts = Parts.of(patch)
    compressor = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True)
    frame = bytearray(compressor.compress(dumped(parts.manifest)))
    frame[-1] ^= flip
    assert judged(base, parts.patch(frame=bytes(frame)), tmp_path) == accepted


@pytest.mark.parametrize(("over", "accepted"), [(0, True), (1, False)])
def test_the_limit_of_a_payload_is_a_constant(
    over: int, accepted: bool, few: tuple[Path, bytes], tmp_path: Path
) -> None:
    """A valid frame of nearly nothing but blocks of nothing, as long as a bucket's may be."""
    base, patch = few
    limit = 2**26 + 2**20 + over
    parts = Parts.of(patch)
    words = bytes(STEPPED)
    last = (len(words) << 3 | 1).to_bytes(3, "little") + words
    # Of the three lengths of a dictionary number, one leaves blocks of three bytes to fill.
    flag, number = next(
        (f, b"\0" * n)
        for f, n in ((0, 0), (1, 1), (2, 2))
        if (limit - 1 - 9 - n - len(last)) % 3 == 0
    )
    head = b"\2" + ZSTD + bytes([0xA0 | flag]) + number + len(words).to_bytes(4, "little")
    parts.payloads["bucket.0"] = head + bytes(limit - len(head) - len(last)) + last
    assert len(parts.payloads["bucket.0"]) == limit
    assert judged(base, parts.patch(), tmp_path) == accepted


# Bucket payloads

STEPPED = [value + (i in (3, 50)) for i, value in enumerate(range(100))]  # what `few` makes


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A base of 100 bytes in one tensor, two of which change by one step."""
    root = tmp_path_factory.mktemp("few")
    for name, values in (("base", range(100)), ("target", STEPPED)):
        write_safetensors(root / name, {"a": ("U8", (100,), bytes(values))})
    make_patch(root / "base", root / "target", root / "p")
    return root / "base", (root / "p").read_bytes()


def tiers(gap_symbols: list[int], n: bytes = b"\x64") -> bytes:
    """The payload of `few` as one tier, with a gap table that has symbols up to 130."""
    gaps, steps = np.zeros((2, 256), np.uint32)
    gaps[3], gaps[10], gaps[130], steps[0] = 8000, 8000, 384, 1 << 14
    stored = b"".join(varint(int(f) // 4) for f in gaps[:130])
    coded = rans.encode([bytes(gap_symbols), bytes(2)], np.stack([gaps, steps]), 1)
    tables = bytes([0, 130]) + stored + bytes([0, 0])
    extra = bytes([50 - 3 - 1 - 32])  # of the gap 46, whose class 10 begins with 32
    return b"\1\1" + n + b"\2\1" + tables + b"\0" + bytes([len(coded)]) + coded + extra


@pytest.mark.parametrize(
    ("payload", "accepted"),
    [
        pytest.param(tiers([3, 10]), True, id="table"),
        pytest.param(tiers([3, 130]), False, id="symbol"),
        pytest.param(tiers([3, 10], b"\xe4\x00"), True, id="longer number"),
        pytest.param(tiers([3, 10], b"\xe4" + b"\x80" * 7 + b"\0"), True, id="9 bytes"),
        pytest.param(tiers([3, 10], b"\xe4" + b"\x80" * 8 + b"\0"), False, id="10 bytes"),
    ],
)
def test_unused_gap_symbols_may_have_frequencies_and_numbers_superfluous_bytes(
    payload: bytes, accepted: bool, few: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = few
    parts = Parts.of(patch)
    parts.payloads["bucket.0"] = payload
    assert judged(base, parts.patch(), tmp_path) == accepted


# Names


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        (".x.sparsediff-tmp", False),
        (".sparsediff-tmp", False),
        (".x.sparsediff-tmp.7", False),
        (".x.sparsediff-tmp.", True),
        (".x.sparsediff-tmp7", True),
        (".x.sparsediff-tmp.7.", True),
        ("x.sparsediff-tmp", True),
        ("\x7f", True),
    ],
)
def test_names_of_unfinished_files(
    name: str, accepted: bool, made: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = made
    parts = Parts.of(patch)
    row = parts.manifest["target"]["name"].index("empty")
    assert (
        judged(base, edited(patch, set_column("target", "name", name, row)), tmp_path) == accepted
    )


def test_what_looks_unfinished_is_carried_and_what_is_makes_a_refusal(tmp_path: Path) -> None:
    model_directory(tmp_path / "a")
    target = model_directory(tmp_path / "b", lr=1e-6)
    (target / ".x.sparsediff-tmp.").write_text("mine")
    make_patch(tmp_path / "a", target, tmp_path / "p")
    apply_patch(tmp_path / "a", tmp_path / "p", tmp_path / "c")
    assert tree(tmp_path / "c") == tree(target)
    (target / ".x.sparsediff-tmp").write_text("of a killed run")
    with pytest.raises(UnsupportedError, match="remove or rename") as info:
        make_patch(tmp_path / "a", target, tmp_path / "q")
    assert str(target / ".x.sparsediff-tmp") in str(info.value)
    assert not (tmp_path / "q").exists()


# Rows


def test_the_layout_of_an_empty_file_is_a_single_zero(
    made: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = made
    row = Parts.of(patch).manifest["base"]["name"].index("empty")
    assert Parts.of(patch).manifest["base"]["layout"][row] == [0]
    for layout in ([], [0, 0]):
        assert not judged(base, edited(patch, set_column("base", "layout", layout, row)), tmp_path)


def test_a_layout_says_nothing_of_where_tensors_have_their_base(
    few: tuple[Path, bytes], tmp_path: Path
) -> None:
    base, patch = few
    parts, content = Parts.of(patch), base.read_bytes()
    parts.manifest["base"] |= {
        "layout": [[len(content)]],
        "skeleton": [xxhash.xxh3_128_hexdigest(content)],
    }
    parts.manifest["target"]["dictionary"] = [None]
    skeleton = content[:-100]
    payloads = {"skeleton.0": zstandard.compress(skeleton)} | parts.payloads
    parts.manifest["target"]["skeleton"] = [xxhash.xxh3_128_hexdigest(skeleton)]
    assert judged(base, Parts(parts.manifest, payloads).patch(), tmp_path)


def test_a_tensor_of_no_words_has_no_base(tmp_path: Path) -> None:
    base, patch = GOLDEN / "many-dtypes" / "base", GOLDEN / "many-dtypes" / "patch.sdiff"
    parts = Parts.of(patch.read_bytes())
    t = parts.manifest["tensors"]
    row = next((i for i, shape in enumerate(t["shape"]) if 0 in shape), None)
    if row is None:  # give it one
        row = len(t["name"])
        for name, value in {
            "name": "none", "dtype": "U8", "shape": [0], "skip": 0, "base": None, "base_skip": 0,
            "new": 0, "changed": 0, "wider": 0, "median": 0, "largest": 0,
        }.items():  # fmt: skip
            t[name].append(value)
        parts.manifest["target"]["tensors"][-1] += 1
    assert t["base"][row] is None
    assert judged(base, parts.patch(), tmp_path)
    t["base"][row] = 0
    assert not judged(base, parts.patch(), tmp_path)


def test_a_target_directory_may_have_no_files(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    parts = Parts.of((GOLDEN / "anchor" / "patch.sdiff").read_bytes())
    for table in ("target", "tensors", "buckets"):
        for name, column in parts.manifest[table].items():
            parts.manifest[table][name] = [] if isinstance(column, list) else column
    parts.payloads = {}
    assert judged(tmp_path / "base", parts.patch(), tmp_path)


def test_base_skip_has_a_lower_bound(made: tuple[Path, bytes], tmp_path: Path) -> None:
    base, patch = made
    for value in (-(2**53), -(2**53) - 1, -1):
        assert not judged(base, edited(patch, set_column("tensors", "base_skip", value)), tmp_path)


def test_keys_count_among_the_strings(tmp_path: Path) -> None:
    """A manifest of n lists needs n - 64 strings; the 27 keys are among them.

    The oracle counts them; whoever reads column by column refuses such before: none is a column.
    """
    (tmp_path / "base").mkdir()
    empty: dict[str, Any] = {
        table: {name: column if name == "directory" else [] for name, column in columns.items()}
        for table, columns in Parts.of(
            (GOLDEN / "anchor" / "patch.sdiff").read_bytes()
        ).manifest.items()
    }
    text = dumped(empty)
    n_lists, n_keys = text.count(b"[") + text.count(b"{"), text.count(b'":')
    assert n_lists <= 64 + n_keys
    frame = zstandard.compress(text)
    assert judged(tmp_path / "base", container({"manifest": frame}), tmp_path)
    for n in (64 + n_keys - n_lists, 64 + n_keys - n_lists + 1):
        nested = dict(empty)
        nested["target"] = empty["target"] | {"size": [[]] * n}
        patch = container({"manifest": zstandard.compress(dumped(nested))})
        assert not judged(tmp_path / "base", patch, tmp_path)
        _, reason = by_oracle(tmp_path / "base", patch)
        assert (reason == "manifest: lists") == (n > 64 + n_keys - n_lists)


@pytest.mark.parametrize(
    "name", sorted(p.name for p in GOLDEN.iterdir() if (p / "patch.sdiff").exists())
)
def test_package_and_oracle_agree_about_mutants(name: str, tmp_path: Path) -> None:
    base = GOLDEN / name / "base"
    if not base.exists():
        base = tmp_path / "nothing"
        base.mkdir()
    patch = (GOLDEN / name / "patch.sdiff").read_bytes()
    seen = 0
    for what, mutant in mutants(tree(base), patch, 45, seed=len(name)):
        ours, why = by_reader(base, mutant, tmp_path / "out")
        theirs, reason = by_oracle(base, mutant)
        assert ours == theirs, (what, why, reason)
        seen += ours is None
    assert seen
