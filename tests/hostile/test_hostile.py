"""Each hostile file gets the verdict that README.md states, from every verb, for little memory."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff import SparsediffError, apply_patch, verify_patch
from sparsediff.checkpoint.open import open_checkpoint
from sparsediff.errors import CorruptError
from sparsediff.patch.signed import Signed
from sparsediff.shipping.acks import read_acks
from sparsediff.shipping.catalog_json import read_catalog
from sparsediff.shipping.complete import check_directory
from sparsediff.shipping.parts import parts_of
from sparsediff.signing import signer, trust
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.hostile import beside, small
from tests.hostile.write import (
    FILES,
    beginning,
    everything,
    header,
    page,
    pointer,
    sealed,
    signed_patch,
)
from tests.support.pairs import tree

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| `(\S+)` \| .+ \| (?:`(\w+)` )?(\d+)(?:, carried)? \|")
VERDICTS = {
    m[1]: (m[2], int(m[3]))
    for line in (Path(__file__).parent / "README.md").read_text().splitlines()
    if (m := ROW.fullmatch(line))
}
KINDS = (
    "patch", "payload", "pointer", "signed", "parts", "key", "secret", "signature", "page", "ack",
    "beside",
)  # fmt: skip
UNFOLDS = "patch-manifest-"  # to 32 MiB: each verb takes a second
STATED = re.compile(rb"\npeak (\d+)\n")


def kind_of(name: str) -> str:
    kind = name.partition("-")[0]
    return kind if kind in KINDS else "checkpoint"


def prepared(name: str, room: Path, data: bytes | None = None) -> Path:
    """Where a file lies, or the store that it is in."""
    (room / "empty").mkdir(exist_ok=True)
    kind, data = kind_of(name), (FILES / name).read_bytes() if data is None else data
    if kind in ("patch", "payload", "checkpoint"):
        return FILES / name
    if kind == "signature":
        (room / "a.sdiff").write_bytes(signed_patch())
        (room / "a.sdiff.sig").write_bytes(data)
        return room / "a.sdiff"
    if kind == "beside":
        step = room / "run" / f"step_{[*VERDICTS].index(name) if name in VERDICTS else 0}"
        step.mkdir(parents=True)
        (step / beside.NAMES[Path(name).suffix]).write_bytes(data)
        (step / "m.data").write_bytes(b"abc")
        (step / "w.safetensors").write_bytes(header(b"{}"))
        return step
    if kind in ("key", "secret"):
        (room / "key").write_bytes(data)
        (room / "key").chmod(0o600)
    store = room / "store"
    (store / "versions").mkdir(parents=True)
    if kind == "parts":
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"versions/anchor-{sha256[:16]}.parts.json"
        (store / key).write_bytes(data)
        document = pointer(key=key, sha256=sha256)
        document["versions"][0]["patches"][0]["list_bytes"] = len(data)
        data = sealed(document)
    if kind == "page":
        sha256 = hashlib.sha256(data).hexdigest()
        (store / "versions" / "pages").mkdir()
        (store / "versions" / "pages" / f"{sha256[:16]}.json").write_bytes(data)
        row = page(last=1, n=1, names=["step_1", "step_1"], numbers=[1, 1], since_anchor=[1, 5, 1])
        row |= {"key": f"versions/pages/{sha256[:16]}.json", "n_bytes": len(data)}
        document = pointer(version=33, name="step_33", latest=33)
        data = sealed(document | {"pages": [row | {"sha256": sha256}]})
    if kind == "ack":
        (store / "acks").mkdir()
        (store / "acks" / "a.json").write_bytes(data)
    if kind in ("key", "secret", "ack"):
        data = sealed(pointer())
    (store / "latest.json").write_bytes(data)
    return store


def commands(name: str, path: Path, room: Path) -> list[list[object]]:
    """Every command that has to do with what is wrong with a file."""
    empty, out = room / "empty", room / "out"
    trusted, key = ["--trust", FILES / "trusted.pub"], room / "key"
    found: dict[str, list[list[object]]] = {
        "patch": [
            ["verify", path],
            ["show", path],
            ["stats", path],
            ["apply", empty, path, "-o", out],
            ["squash", empty, path, path, "-o", out],
            ["export", empty, path, "-o", out],
        ],
        "payload": [["verify", path, "--base", empty], ["apply", empty, path, "-o", out]],
        "pointer": [["log", path], ["pull", path, out], ["check", path]],
        "parts": [["pull", path, out], ["check", path]],
        "key": [["log", path, "--trust", key], ["pull", path, out, "--trust", key]],
        "secret": [["make", empty, empty, "-o", out, "--sign", key], ["sign", path, "--sign", key]],
        "signature": [
            ["verify", path, *trusted],
            ["show", path, *trusted],
            ["apply", empty, path, "-o", out, *trusted],
        ],
        "page": [["log", path, "--all"], ["check", path]],
        "ack": [["status", path]],
        "beside": [],
        "checkpoint": [["make", path, path, "-o", out, "--quiet"]],
    }
    found["signed"] = [[*words, *trusted] for words in found["pointer"]]
    return found[kind_of(name)]


def read(name: str, path: Path, room: Path) -> None:
    """Have the library read what a file is for."""
    kind = kind_of(name)
    if kind in ("patch", "payload"):
        verify_patch(path, base=room / "empty" if kind == "payload" else None)
    elif kind == "checkpoint":
        open_checkpoint(path)
    elif kind == "beside":
        check_directory(path, {p.name: p.stat().st_size for p in path.iterdir()})
    elif kind in ("key", "secret"):
        (trust if kind == "key" else signer)([room / "key"])
    elif kind == "signature":
        trusted = trust([FILES / "trusted.pub"])
        assert trusted is not None
        verify_patch(Signed(path, trusted))
    elif kind == "ack":
        (ack,) = read_acks(open_store(str(path)))
        assert (ack.version == 1, ack.problem is None) == ("right" in name,) * 2
    else:
        trusted = trust([FILES / "trusted.pub"]) if kind == "signed" else None
        store = open_store(str(path), trust=trusted)
        found = read_catalog(store)
        if kind == "page" and found is not None:
            assert len(list(found[0].versions)) > 1
        if kind == "parts" and found is not None:
            (patch,) = found[0].latest.patches
            parts_of(store, patch)
            if "missing" in name:
                raise CorruptError("told when they are fetched")


def shown(room: Path) -> dict[str, bytes]:
    """All files but what `pull` keeps for its next run."""
    return {k: v for k, v in tree(room).items() if not k.startswith("out/.sparsediff/")}


def test_the_files_are_those_that_are_described_and_those_that_the_script_writes() -> None:
    made = everything()
    assert tree(FILES) == made
    assert VERDICTS.keys() == made.keys() - {"trusted.pub"}
    assert sum(map(len, made.values())) < 550_000


def test_small_files_are_made_from_what_is_right(tmp_path: Path, cli: Run) -> None:
    (version,) = pointer()["versions"]
    for name, data in (small.right(beginning(), version) | beside.right()).items():
        room = tmp_path / name
        room.mkdir()
        path = prepared(name, room, data)
        read(name, path, room)
        if kind_of(name) == "ack":
            assert "damaged" not in cli("status", path)[1]


def test_ship_waits_for_what_is_not_there(tmp_path: Path, cli: Run) -> None:
    names = [name for name in VERDICTS if kind_of(name) == "beside"]
    for name in names:
        prepared(name, tmp_path)
    before = tree(tmp_path)
    found, out, err = cli("ship", tmp_path / "run", tmp_path / "store", "--dry-run", "--json")
    assert (found, err) == (0, "")
    assert len(json.loads(out)["waiting"]) == len(names)
    assert not re.search("[\x1b\u202e]", out)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str, tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    error, code = VERDICTS[name]
    monkeypatch.chdir(tmp_path)  # where what a pickle runs would leave its file
    path = prepared(name, tmp_path)
    if error is None:
        read(name, path, tmp_path)
    else:
        with pytest.raises(SparsediffError) as caught:
            read(name, path, tmp_path)
        assert (type(caught.value).__name__, caught.value.exit_code) == (error, code)
    before = shown(tmp_path)
    for words in commands(name, path, tmp_path)[: 1 if name.startswith(UNFOLDS) else None]:
        found, out, err = cli(*words)
        assert found == code, (words, err)
        assert "Traceback" not in err
        assert not re.search("[\0-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", err)
        if code:
            # Of parts, one line for each way that was tried, and one that there is no other.
            assert err.count("\n") == (2 if kind_of(name) == "parts" else 1), err
        elif kind_of(name) == "ack":
            assert "acks/a.json is damaged" in out
            assert not re.search("[\x1b\u202e]", out)
        else:
            apply_patch(path, tmp_path / "out", tmp_path / "again")
            assert (tmp_path / "again").read_bytes() == path.read_bytes()
            (tmp_path / "again").unlink()
            (tmp_path / "out").unlink()
        assert shown(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in VERDICTS if name.endswith(".safetensors")])
def test_what_the_library_of_safetensors_refuses_is_refused(name: str) -> None:
    """But for a type that is unknown, of which there may be more in years to come."""
    library = pytest.importorskip("safetensors")
    try:
        library.deserialize((FILES / name).read_bytes())
    except library.SafetensorError:
        assert (VERDICTS[name][1] == 11) == (name != "unknown.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VERDICTS if name.startswith(UNFOLDS)])
def test_verdict_of_all_verbs(name: str, tmp_path: Path, cli: Run) -> None:
    path = prepared(name, tmp_path)
    before = tree(tmp_path)
    for words in commands(name, path, tmp_path):
        found, _, err = cli(*words)
        assert (found, err.count("\n")) == (VERDICTS[name][1], 1), (words, err)
        assert tree(tmp_path) == before


def test_none_takes_more_than_300_mib(tmp_path: Path) -> None:
    lines = []
    for name in VERDICTS:
        room = tmp_path / name
        room.mkdir()
        words = commands(name, prepared(name, room), room)
        lines += words[:1] if name.startswith(UNFOLDS) else words
    done = subprocess.run(
        [sys.executable, "-c", _ALL_IN_ONE],
        input="\n".join("\t".join(map(str, words)) for words in lines).encode(),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    (peak,) = STATED.findall(done.stdout)
    assert int(peak) < 300 << 20
    shutil.rmtree(tmp_path)


# VmHWM is the most that any of them took, start-up and what the others left included.
_ALL_IN_ONE = """
import sys
from pathlib import Path
from sparsediff.cli import run
for line in sys.stdin.read().split("\\n"):
    run(line.split("\\t"))
status = Path("/proc/self/status").read_text()
(line,) = [s for s in status.splitlines() if s.startswith("VmHWM")]
print(f"\\npeak {int(line.split()[1]) * 1024}", flush=True)
"""
