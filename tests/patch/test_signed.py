"""Patches that are signed, in a file beside them."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsediff import (
    Share,
    apply_patch,
    export_patch,
    iter_updates,
    make_part,
    make_patch,
    merge_parts,
    open_patch,
    patch_stats,
    squash_patches,
    verify_patch,
)
from sparsediff.errors import CorruptError, UnsupportedError, UntrustedError, UsageError
from sparsediff.patch import signed
from sparsediff.patch.container import sign_patch
from sparsediff.patch.signed import Signed, beside, signed_when_it_appears
from tests.conftest import Run
from tests.support.keys import Pair, new_key, outdated
from tests.support.pairs import model_directory, tree


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return new_key(tmp_path / "key")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = model_directory(tmp_path / "target")
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def patch(base: Path, target: Path, pair: Pair, tmp_path: Path) -> Path:
    make_patch(base, target, tmp_path / "p.sdiff")
    sign_patch(tmp_path / "p.sdiff", pair.signer)
    return tmp_path / "p.sdiff"


READERS: dict[str, Callable[[Signed, Path, Path], object]] = {
    "apply": lambda patch, base, out: apply_patch(base, patch, out),
    "apply --in-place": lambda patch, base, _: apply_patch(base, [patch], in_place=True),
    "verify": lambda patch, base, _: verify_patch(patch, base=base),
    "squash": lambda patch, base, out: squash_patches(base, [patch], out),
    "export": lambda patch, base, out: export_patch(patch, base, out),
    "stats": lambda patch, *_: patch_stats(patch),
    "iter_updates": lambda patch, base, _: list(iter_updates([patch], base)),
}


def merged(base: Path, target: Path, out: Path, **options: Any) -> None:
    """The same as `make_patch`, in two parts."""
    parts = [out.parent / f"{i}.part" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        make_part(base, target, Share(i, 2), part, force=True)
    merge_parts(parts, out, **options)


def squashed(base: Path, target: Path, out: Path, **options: Any) -> None:
    """The same, of a chain."""
    make_patch(base, target, out.parent / "only.sdiff", force=True)
    squash_patches(base, out.parent / "only.sdiff", out, **options)


WRITERS: dict[str, Callable[..., object]] = {
    "make": make_patch,
    "merge": merged,
    "squash": squashed,
}


@pytest.mark.parametrize("reader", READERS)
def test_nothing_unsigned_passes_once_a_key_is_trusted(
    reader: str, patch: Path, base: Path, pair: Pair, tmp_path: Path
) -> None:
    read, out, before = READERS[reader], tmp_path / "out", tree(base)
    for trusted in (new_key(tmp_path / "other"), outdated(pair)):
        with pytest.raises(UntrustedError, match=r"p\.sdiff: no signature is trusted"):
            read(Signed(patch, trusted.trust), base, out)
    os.rename(f"{patch}.sig", tmp_path / "away")
    with pytest.raises(UntrustedError, match="is not signed"):
        read(Signed(patch, pair.trust), base, out)
    assert not out.exists()
    assert tree(base) == before
    os.rename(tmp_path / "away", f"{patch}.sig")
    read(Signed(patch, pair.trust), base, out)


def test_no_byte_of_a_signed_patch_can_be_changed(patch: Path, pair: Pair, base: Path) -> None:
    data = patch.read_bytes()
    with open_patch(patch) as opened:
        beginning = len(data) - sum(opened.sizes.values())
    some = [*range(0, beginning, 5), *range(beginning, len(data), max(1, len(data) // 50))]
    signed = json.loads(Path(f"{patch}.sig").read_text())["signatures"]
    assert signed == pair.signer.sign("patch", data[:beginning])  # and so every digest
    for at in range(beginning):
        other = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 : beginning]
        with pytest.raises(UntrustedError, match="a wrong one"):
            Signed(patch, pair.trust).check(other)
    for at in some:
        changed = bytearray(data)
        changed[at] ^= 1
        patch.write_bytes(changed)
        with pytest.raises((CorruptError, UnsupportedError)):
            verify_patch(Signed(patch, pair.trust))


def test_another_patch_does_not_pass_with_the_signature(
    patch: Path, pair: Pair, base: Path, target: Path
) -> None:
    signed = beside(patch).read_bytes()
    make_patch(target, base, patch, force=True)
    beside(patch).write_bytes(signed)
    verify_patch(patch)
    with pytest.raises(UntrustedError, match="a wrong one"):
        verify_patch(Signed(patch, pair.trust))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"format":"sparsediff-signatures"}', b"[" * 9999, b" " * 70000]
)
def test_what_is_no_file_of_signatures(data: bytes, patch: Path, pair: Pair) -> None:
    Path(f"{patch}.sig").write_bytes(data)
    with pytest.raises(UntrustedError, match=r"file of its signatures, p\.sdiff\.sig"):
        verify_patch(Signed(patch, pair.trust))


def test_a_pipe_holds_no_signatures_and_nobody_up(patch: Path, pair: Pair) -> None:
    os.unlink(f"{patch}.sig")
    os.mkfifo(f"{patch}.sig")
    with pytest.raises(UntrustedError, match="no regular file"):
        verify_patch(Signed(patch, pair.trust))


def test_what_has_no_signature_beside_it_is_refused(pair: Pair) -> None:
    with pytest.raises(UsageError, match="standard input"), open_patch(Signed("-", pair.trust)):
        pass


def test_a_signed_patch_is_byte_for_byte_one_that_is_not(
    patch: Path, base: Path, target: Path
) -> None:
    stream = io.BytesIO()
    make_patch(base, target, stream)
    assert stream.getvalue() == patch.read_bytes()


@pytest.mark.parametrize("output", ["-", io.BytesIO(), None])
def test_what_is_no_file_cannot_be_signed(
    output: object, base: Path, target: Path, pair: Pair
) -> None:
    with pytest.raises(UsageError, match="must be a file"):
        make_patch(base, target, output, signer=pair.signer)  # type: ignore[arg-type]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("there", [b"{}", b"[" * 9999, b"\xff" * 70000])
def test_a_file_that_held_no_signatures_is_replaced(
    there: bytes, writer: str, patch: Path, base: Path, target: Path, pair: Pair
) -> None:
    Path(f"{patch}.sig").write_bytes(there)
    WRITERS[writer](base, target, patch, force=True, signer=pair.signer)
    verify_patch(Signed(patch, pair.trust))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("there", [b"", b"{}", b"a patch, perhaps"])
def test_a_file_that_holds_no_signatures_is_not_replaced_without_force(
    there: bytes, writer: str, base: Path, target: Path, pair: Pair, tmp_path: Path
) -> None:
    (tmp_path / "p.sig").write_bytes(there)
    with pytest.raises(UsageError, match=r"p\.sig: exists, and holds no signatures"):
        WRITERS[writer](base, target, tmp_path / "p", signer=pair.signer)
    assert (tmp_path / "p.sig").read_bytes() == there
    assert not (tmp_path / "p").exists()


def test_sign_leaves_what_another_program_signed_with(patch: Path, pair: Pair) -> None:
    """Whose files may have the same name."""
    beside = Path(f"{patch}.sig")
    beside.write_bytes(b"\x88u\4\0\x16")
    with pytest.raises(UsageError, match=r"sig: exists, and holds no signatures .*move it away"):
        sign_patch(patch, pair.signer)
    assert beside.read_bytes() == b"\x88u\4\0\x16"
    beside.unlink()
    sign_patch(patch, pair.signer)
    sign_patch(patch, pair.signer)


@pytest.mark.parametrize("writer", WRITERS)
def test_signatures_of_a_patch_that_was_replaced_unsigned_go_with_it(
    writer: str, patch: Path, base: Path, target: Path, pair: Pair
) -> None:
    """They would be wrong ones of the new patch, as if somebody had changed it."""
    write = WRITERS[writer]
    write(base, target, patch, force=True)
    verify_patch(Signed(patch, pair.trust))  # byte for byte what was signed
    write(target, base, patch, force=True)
    with pytest.raises(UntrustedError, match="is not signed"):
        verify_patch(Signed(patch, pair.trust))
    beside(patch).write_text("a list of songs")
    write(base, target, patch, force=True)
    assert beside(patch).read_text() == "a list of songs"


def test_what_has_no_signatures_beside_it_is_replaced_without_being_read(
    base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs to be allowed to."""
    (tmp_path / "p").write_text("of somebody who lets nobody read it")
    monkeypatch.setattr(signed, "_is_another", lambda *_: pytest.fail("read"))
    make_patch(base, target, tmp_path / "p", force=True)


@pytest.mark.parametrize("kind", ["directory", "forbidden"])
def test_errors_with_a_file_of_signatures_name_it(
    kind: str, patch: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "directory":
        beside(patch).unlink()
        beside(patch).mkdir()
    else:

        def forbid(path: Any, *more: Any) -> int:
            if str(path) == str(beside(patch)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return os_open(path, *more)

        os_open = os.open
        monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(UsageError, match=rf"{beside(patch)}: (is a directory|permission denied)"):
        verify_patch(Signed(patch, pair.trust))


def test_signatures_that_a_killed_run_left_are_replaced(
    patch: Path, base: Path, target: Path, pair: Pair
) -> None:
    patch.unlink()
    make_patch(base, target, patch, signer=pair.signer)
    verify_patch(Signed(patch, pair.trust))


def test_signatures_of_many_patches_that_were_cut_off_leave_room_for_the_next(
    patch: Path, base: Path, target: Path, pair: Pair
) -> None:
    beside = Path(f"{patch}.sig")
    document = json.loads(beside.read_text())
    others = [{"key": f"{i:016x}", "ed25519": "AA=="} for i in range(64)]
    beside.write_text(json.dumps(document | {"signatures": others}))
    make_patch(base, target, patch, force=True, signer=pair.signer)
    assert json.loads(beside.read_text()) == document


def test_command_line_from_key_to_target(
    base: Path, target: Path, tmp_path: Path, cli: Run
) -> None:
    key, patch, out = tmp_path / "key", tmp_path / "p.sdiff", tmp_path / "out"
    assert cli("keygen", "-o", key)[0] == 0
    assert cli("make", base, target, "-o", patch, "--sign", key)[0] == 0
    rows = json.loads(Path(f"{patch}.sig").read_text())["signatures"]
    assert [sorted(row) for row in rows] == [["ed25519", "key"]]
    trusted = ("--trust", f"{key}.pub")
    assert cli("apply", base, patch, "-o", out, *trusted)[0] == 0
    assert tree(out) == tree(target)
    assert cli("keygen", "-o", tmp_path / "new")[0] == 0
    assert cli("sign", patch, "--sign", tmp_path / "new", *trusted)[0] == 0
    assert cli("sign", patch, "--sign", tmp_path / "new", *trusted)[0] == 11
    for words in (
        ("apply", base, patch, "-o", tmp_path / "none"),
        ("verify", patch),
        ("squash", base, patch, "-o", tmp_path / "none"),
        ("export", base, patch, "-o", tmp_path / "none"),
        ("show", patch),
        ("stats", patch),
    ):
        code, stdout, err = cli(*words, *trusted)
        assert (code, stdout, err.count("\n")) == (11, "", 1), words
        assert "no signature is trusted" in err
    assert not (tmp_path / "none").exists()
    for piped in (("apply", base, "-"), ("export", "-", base)):
        code, _, err = cli(*piped, "-o", tmp_path / "none", *trusted)
        assert (code, "standard input has no signature" in err) == (2, True)
    code, _, err = cli("export", patch, base, "-o", tmp_path / "none", *trusted)  # as it was once
    assert code == 11
    assert "no signature is trusted" in err.splitlines()[-1]
    assert cli("sign", tmp_path / "none", "--sign", key)[2].endswith("no such patch or store\n")
    assert not (tmp_path / "none").exists()
    assert cli("make", base, target, "-o", "-", "--sign", key)[0] == 2


def test_command_line_signs_what_merge_and_squash_make(
    base: Path, target: Path, pair: Pair, tmp_path: Path, cli: Run
) -> None:
    a, part, once = tmp_path / "a.sdiff", tmp_path / "1.part", tmp_path / "once.sdiff"
    trusted, key = ("--trust", pair.public), ("--sign", pair.key)
    assert cli("make", base, target, "-o", part, "--part", "1/1")[0] == 0
    assert cli("merge", part, "-o", a, *key)[0] == 0
    assert cli("squash", base, a, "-o", once, *trusted, *key)[0] == 0
    for patch in (a, once):
        assert cli("verify", patch, *trusted)[0] == 0
        assert len(json.loads(beside(patch).read_text())["signatures"]) == 1
    assert cli("squash", base, a, "-o", once, "--force", *trusted)[0] == 0
    assert cli("verify", once, *trusted)[0] == 0  # byte for byte what was signed
    beside(a).unlink()
    none = ("-o", tmp_path / "none")
    assert cli("squash", base, a, *none, *trusted, *key)[0] == 11
    code, _, err = cli("merge", part, "-o", "-", *key)
    assert (code, "must be a file" in err) == (2, True)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("none")]


@pytest.mark.parametrize("keys", ["", "\n", "key"])
def test_parts_which_cannot_be_signed_are_refused_once_a_key_is_trusted(
    keys: str,
    base: Path,
    target: Path,
    pair: Pair,
    tmp_path: Path,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part, out = tmp_path / "only.part", tmp_path / "merged.sdiff"
    assert cli("make", base, target, "-o", part, "--part", "1/1")[0] == 0
    monkeypatch.setenv("SPARSEDIFF_TRUST", str(pair.public) if keys == "key" else keys)
    code, _, err = cli("merge", part, "-o", out)
    assert (code, err.count("\n")) == (11 if keys == "key" else 2, 1)
    assert ("parts cannot be" if keys == "key" else "without a key") in err
    assert not out.exists()
    for words in (("verify", tmp_path / "p.sdiff"), ("show", tmp_path / "p.sdiff")):
        assert keys == "key" or cli(*words)[0] == 2
    monkeypatch.delenv("SPARSEDIFF_TRUST")
    assert cli("merge", part, "-o", out)[0] == 0


def test_a_patch_that_does_not_appear_leaves_no_signature_beside_an_unsigned_one(
    tmp_path: Path, pair: Pair
) -> None:
    old = tmp_path / "old.sdiff"
    old.write_bytes(b"old")

    def fail() -> None:
        with signed_when_it_appears(old, pair.signer) as sign:
            sign(b"new")
            assert beside(old).exists()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert old.read_bytes() == b"old"
    assert not beside(old).exists()
