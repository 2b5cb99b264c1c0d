"""What is updated in place stays as private as it was, and its owner's."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from sparsediff import apply_patch, make_patch
from sparsediff.disk.attributes import keep_attributes
from tests.support.pairs import tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others")


@pytest.fixture
def patch(base: Path, target: Path, tmp_path: Path) -> Path:
    (target / "added.json").write_text("{}")
    make_patch(base, target, tmp_path / "p.sdiff")
    return tmp_path / "p.sdiff"


def changed(base: Path, target: Path) -> list[Path]:
    """Files that the patch changes."""
    old, new = tree(base), tree(target)
    return [base / name for name in old if old[name] != new.get(name, old[name])]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666, 0o755])
def test_mode_is_kept_and_new_files_follow_the_umask(
    mode: int, base: Path, target: Path, patch: Path
) -> None:
    files = changed(base, target)
    assert files
    for file in files:
        file.chmod(mode)
    umask = os.umask(0o027)
    try:
        apply_patch(base, patch, in_place=True)
    finally:
        os.umask(umask)
    assert tree(base) == tree(target)
    assert {file.stat().st_mode & 0o7777 for file in files} == {mode}
    assert (base / "added.json").stat().st_mode & 0o7777 == 0o640


def test_checkpoint_that_is_one_file(tmp_path: Path) -> None:
    a, b = tmp_path / "a.bin", tmp_path / "b.bin"
    a.write_bytes(bytes(9000))
    b.write_bytes(b"a" * 9000)
    a.chmod(0o600)
    make_patch(a, b, tmp_path / "p")
    apply_patch(a, tmp_path / "p", in_place=True)
    assert (a.read_bytes(), a.stat().st_mode & 0o7777) == (b.read_bytes(), 0o600)


def test_private_while_it_is_built(
    base: Path, target: Path, patch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsediff.apply import rebuild
    from sparsediff.disk import outputs

    for file in changed(base, target):
        file.chmod(0o600)
    seen = set()

    def look(fd: int, offset: int, data: object) -> None:
        if not any(p.name.startswith(".added") for p in base.iterdir() if "tmp" in p.name):
            seen.add(os.fstat(fd).st_mode & 0o777)
        original(fd, offset, data)

    original = outputs.write_all
    monkeypatch.setattr(rebuild, "write_all", look)
    apply_patch(base, patch, in_place=True)
    assert seen == {0o600}


def _has_attributes(path: Path) -> bool:
    try:
        os.setxattr(path, "user.sparsediff.test", b"1")
    except (OSError, AttributeError):
        return False
    os.removexattr(path, "user.sparsediff.test")
    return True


def test_extended_attributes_and_access_lists_are_kept(
    base: Path, target: Path, patch: Path
) -> None:
    files = changed(base, target)
    if not _has_attributes(files[0]):
        pytest.skip("no extended attributes here")
    # Owner rw, user 12345 r, group nothing, mask r, others nothing.
    entries = [(1, 6, -1), (2, 4, 12345), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    for file in files:
        os.setxattr(file, "user.origin", b"run 7")
        file.chmod(0o600)
    try:
        os.setxattr(files[0], "system.posix_acl_access", acl)
    except OSError:
        acl = b""
    # New files of the directory would be readable by somebody.
    if acl:
        os.setxattr(base, "system.posix_acl_default", acl)
    apply_patch(base, patch, in_place=True)
    for file in files:
        assert os.getxattr(file, "user.origin") == b"run 7"
        listed = "system.posix_acl_access" in os.listxattr(file)
        assert listed == (bool(acl) and file == files[0])
    if acl:
        assert os.getxattr(files[0], "system.posix_acl_access") == acl


@needs_root
def test_owner_is_kept(base: Path, target: Path, patch: Path) -> None:
    files = changed(base, target)
    for file in files:
        os.chown(file, 12345, 12346)
        file.chmod(0o640)
    apply_patch(base, patch, in_place=True)
    for file in files:
        status = file.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12345, 12346, 0o640)


@pytest.mark.parametrize(("mode", "expected"), [(0o660, 0o600), (0o664, 0o644), (0o6770, 0o700)])
def test_group_that_cannot_be_kept_gets_no_more_than_others(
    mode: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("")
    new.write_text("")
    real = os.stat

    def stat(path: object, **options: object) -> os.stat_result:
        found = real(path, **options)  # type: ignore[arg-type]
        if path != old:
            return found
        values = list(found)
        values[0] = found.st_mode & ~0o7777 | mode
        values[4:6] = [found.st_uid + 1, found.st_gid + 1]
        return os.stat_result(values)

    def chown(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "fchown", chown)
    with open(new, "r+b") as f:
        keep_attributes(old, f.fileno())
        assert os.fstat(f.fileno()).st_mode & 0o7777 == expected
