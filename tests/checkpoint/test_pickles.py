"""Pickles as inert data: nothing runs, nothing blows up, everything else is read."""

from __future__ import annotations

import collections
import contextlib
import pickle
import pickletools
import random
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsediff.checkpoint.formats import pickles, torch_tensors
from sparsediff.checkpoint.formats.pickles import Call, Dict, Global, Persistent, PickleError, load
from sparsediff.checkpoint.formats.torch_tensors import find_storages

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
)


def plain(node: Any) -> Any:
    """The inert form of a value, made from the value itself."""
    if isinstance(node, Dict):
        return {key: plain(value) for key, value in node.pairs}
    if isinstance(node, list):
        return [plain(item) for item in node]
    if isinstance(node, tuple):
        return tuple(plain(item) for item in node)
    if isinstance(node, Call) and node.function == Global("_codecs.encode"):
        return node.arguments[0].encode(node.arguments[1])  # bytes, before protocol 3
    if isinstance(node, Call) and node.function in (
        Global("builtins.bytes"),
        Global("__builtin__.bytes"),
    ):
        return b""
    return node


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL), st.binary(max_size=9))
def test_values_of_every_protocol(value: Any, protocol: int, after: bytes) -> None:
    data = pickle.dumps(value, protocol)
    root, length = load(data + after)
    assert length == len(data)
    assert plain(root) == value


def test_every_opcode_is_known() -> None:
    assert {op.name for op in pickletools.opcodes} == {*pickles._OPCODES, "STOP"}


def test_objects_keep_what_they_are_made_of() -> None:
    made = collections.OrderedDict(a=[1], b=2)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        root, _ = load(pickle.dumps(made, protocol))
        assert root.function == Global("collections.OrderedDict")
        assert root.pairs == [("a", [1]), ("b", 2)]
    error, _ = load(pickle.dumps(ValueError("no")))
    assert (error.function, error.arguments) == (Global("builtins.ValueError"), ("no",))


# Nothing runs

EVIL = {
    "reduce": b"cos\nsystem\n(S'%s'\ntR.",
    "reduce_4": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x60%-96s\x85R.",
    "build": b"cbuiltins\nobject\n)\x81}S'__setstate__'\ncos\nsystem\nsbS'%s'\nb.",
    "inst": b"(S'%s'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'%s'\no.",
    "newobj": b"cos\nsystem\n(S'%s'\nt\x81.",
    "newobj_ex": b"cos\nsystem\n(S'%s'\nt}\x92.",
    "getattr": b'cbuiltins\neval\n(S\'__import__("os").system("%s")\'\ntR.',
    "persistent": b"cos\nsystem\n(S'%s'\ntRQ.",
    "import": b"cantigravity\nthis\n(S'%s'\ntR.",
    "extension": b"\x82\x01(S'%s'\ntR.",
    "extension_2": b"\x83\x01\x01(S'%s'\ntR.",
    "extension_4": b"\x84\x01\x01\x01\x01(S'%s'\ntR.",
}


@pytest.mark.parametrize("kind", sorted(EVIL))
def test_nothing_in_a_pickle_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    root, _ = load(EVIL[kind] % b"touch ran")
    assert find_storages(root) == {}
    assert list(tmp_path.iterdir()) == []
    assert set(sys.modules) == modules


def test_the_evil_ones_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(EVIL["reduce"] % b"touch ran")
    assert [p.name for p in tmp_path.iterdir()] == ["ran"]


# Nothing blows up

DOUBLING = b"".join(b"(h%ch%ct\x94" % (i, i) for i in range(200))
BOMBS = {
    "doubling tuples": b"\x80\x04)\x94" + DOUBLING + b".",
    "lists of themselves": b"\x80\x04]\x94" + b"h\0h\0ah\0a" * 30_000 + b".",
    "deep lists": b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep tuples": b"\x80\x04)" + b"\x85" * 400_000 + b".",
    "deep dicts": b"\x80\x04" + b"}\x8c\x01k" * 100_000 + b"Ns" + b"s" * 99_999 + b".",
    "deep calls": b"\x80\x04)" + b"c0\n0\n" + b")R" * 100_000 + b".",
    "marks": b"\x80\x04N" + b"(" * 400_000 + b"1" * 400_000 + b".",
    "wide key shared": b"\x80\x04\x8d" + (60_000).to_bytes(8, "little") + b"k" * 60_000
    + b"\x940}(" + b"h\0]" * 60_000 + b"u.",
    "many memo indices": b"\x80\x04]" + b"".join(
        b"r" + (i * 40_503 % (1 << 32)).to_bytes(4, "little") for i in range(100_000)) + b".",
    "giant tuple shared by calls": b"\x80\x04(" + b"N" * 100_000 + b"t\x94("
    + b"c0\n0\nh\0R" * 100_000 + b"t.",
}  # fmt: skip


def defuse() -> None:
    """Read all bombs in no more memory than a few hundred megabytes above what there is."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + (400 << 20)
    torch_tensors._MAX_VISITS >>= 3  # it takes a few seconds otherwise
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for bomb in BOMBS.values():
        with contextlib.suppress(PickleError):
            find_storages(load(bomb)[0])
    print("defused")


def test_bombs_take_seconds_and_megabytes() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from tests.checkpoint.test_pickles import defuse; defuse()"],
        capture_output=True,
        text=True,
        timeout=120,  # it takes a few seconds
    )
    assert (run.stdout, run.returncode) == ("defused\n", 0), run.stderr


REFUSED = {
    "nothing": b"",
    "no end": b"\x80\x02]",
    "not a pickle": b"PK\3\4",
    "nothing to return": b".",
    "nothing to pop": b"0.",
    "no mark": b"\x80\x02N1.",
    "mark of too little": b"\x80\x02(t1.",
    "short tuple": b"\x80\x02N\x87.",
    "unknown memo": b"\x80\x02h\x05.",
    "huge memo index": b"\x80\x02Nj\xff\xff\xff\xff.",
    "memo index of a chosen hash": b"Np%d\n." % (7 * sys.hash_info.modulus),
    "negative memo index": b"Np-1\n.",
    "huge index in text": b"g" + b"9" * 10_000 + b"\n.",
    "huge bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "huge string": b"\x80\x04X\xff\xff\xff\x7f.",
    "negative string": b"T\xff\xff\xff\xff.",
    "huge long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "negative long": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "long of many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "odd dict": b"\x80\x02}(Nu.",
    "global of a list": b"\x80\x04]\x8c\x01a\x93.",
    "bad escape": b"S'\\y'\n.",
    "bad utf-8": b"\x80\x04\x8c\x02\xff\xff.",
    "object of nothing": b"(o.",
    "endless line": b"S'" + b"a" * 100_000,
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_is_no_pickle_is_refused_in_a_line(kind: str) -> None:
    with pytest.raises(PickleError) as info:
        load(REFUSED[kind])
    assert len(str(info.value)) < 80


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize(
    ("data", "is_read"),
    [
        (b"S'\\y'\n.", False),
        (b"S'\\\\y\\n\\x41\\101'\n.", True),
        (b"S'\\\\\\y'\n.", False),
        (b"S'\\400'\n.", False),
        (b"S'\\4\\\\00'\n.", True),
        (b"cos\n\\ystem\n.", False),
        (b"(ios\n\\ystem\n.", False),
        (b"P\\y\n.", False),
        (b"V\\y\n.", True),
        (b"\x80\x02X\x02\0\0\0\\y.", True),
    ],
)
def test_nothing_depends_on_what_warnings_do(data: bytes, is_read: bool, action: Any) -> None:
    """Of an escape that means nothing Python warns, which is an error where one wants that."""
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        refused = pytest.raises(PickleError, match=r"not a pickle \(bad escape\)")
        with contextlib.nullcontext() if is_read else refused:
            load(data)


def test_too_many_opcodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100)
    load(b"\x80\x02" + b"N0" * 48 + b"N.")
    with pytest.raises(PickleError, match="too many opcodes"):
        load(b"\x80\x02" + b"N0" * 50 + b"N.")


def test_frames_may_lie() -> None:
    assert load(b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.")[0] is None


@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_damaged_pickles_never_surprise(rng: random.Random, protocol: int) -> None:
    value = {"a": [1, (2, "x")], "o": collections.OrderedDict(k=b"bytes"), "n": -(1 << 70)}
    data = bytearray(pickle.dumps(value, protocol))
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        if rng.random() < 0.3:
            del data[at:][: rng.randint(1, 4)]
        else:
            data[at] = rng.choice((rng.randrange(256), ord(rng.choice("(tRbQsuaeo0129."))))
    try:
        root, length = load(bytes(data))
    except PickleError:
        return
    assert length <= len(data)
    find_storages(root)


@given(st.binary(max_size=60))
def test_any_bytes_never_surprise(data: bytes) -> None:
    with contextlib.suppress(PickleError):
        find_storages(load(data)[0])


# What torch says about storages


def storage(key: str, n: int, kind: str = "torch.FloatStorage") -> Persistent:
    return Persistent(("storage", Global(kind), key, "cpu", n))


def tensor(
    on: Persistent, shape: tuple[Any, ...], strides: tuple[Any, ...], offset: int = 0
) -> Call:
    function = Global("torch._utils._rebuild_tensor_v2")
    return Call(function, (on, offset, shape, strides, False, None))


def test_first_tensor_names_the_storage() -> None:
    shared = storage("0", 6)
    root = Dict(
        [
            ("view", tensor(shared, (2,), (1,), 4)),
            ("whole", tensor(shared, (2, 3), (3, 1))),
            (7, [None, tensor(storage("1", 6), (2, 3), (3, 1))]),
            ("turned", tensor(storage("2", 6), (2, 3), (1, 2))),
            (("odd", 1), storage("3", 5)),
        ]
    )
    root.pairs.append(("self", root))
    assert {k: (s.name, s.shape) for k, s in find_storages(root).items()} == {
        "0": ("view", None),
        "1": ("7.1", (2, 3)),
        "2": ("turned", None),
        "3": ("<4>", None),
    }


def test_of_two_pairs_with_one_key_the_later_has_its_name() -> None:
    first, second = (tensor(storage(key, 6), (6,), (1,)) for key in "01")
    for key, name in (("w", "w"), (7, "7"), ("_modules", "")):
        found = find_storages(Dict([(key, first), ("v", None), (key, second)]))
        assert {k: s.name for k, s in found.items()} == {"0": "<0>", "1": name}


def test_numbers_of_chosen_hashes_are_no_keys() -> None:
    keys = [n * sys.hash_info.modulus for n in (1, 2)]
    found = find_storages(Dict([(k, storage(str(i), 1)) for i, k in enumerate(keys)]))
    assert [s.name for s in found.values()] == ["<0>", "<1>"]


@pytest.mark.parametrize(
    "odd",
    [
        tensor(storage("0", 6), (2, "3"), (3, 1)),
        tensor(storage("0", 6), (2, -3), (3, 1)),
        tensor(storage("0", 6), (1 << 80, 0), (3, 1)),
        tensor(storage("0", 6), (1,) * 1000, (1,) * 1000),
        tensor(storage("0", 6), ([],), (1,)),
        Call(Global("torch._utils._rebuild_tensor_v2"), storage("0", 6)),
        Call(Global("torch._utils._rebuild_tensor_v2"), (storage("0", 6),)),
        Call(Global("torch._utils._rebuild_from_type_v2"), (None, storage("0", 6))),
        Call(storage("1", 1), (storage("0", 6),)),
    ],
)
def test_strange_tensors_still_name_their_storage(odd: Any) -> None:
    found = find_storages(Dict([("w", odd)]))
    assert (found["0"].name, found["0"].shape) == ("w", None)


@pytest.mark.parametrize(
    "key", [None, "0", (), ("storage", 1, 2, 3, 4), ("storage", None, "0", "cpu", -1), [1] * 9]
)
def test_strange_keys_name_nothing(key: Any) -> None:
    assert find_storages(Persistent(key)) == {}
