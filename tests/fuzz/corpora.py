"""Inputs that are kept: few and small, and together they reach most of what long runs reached.

Each target has one archive of them in ``corpus/``, in which the names say what became of an input,
``taken`` or ``refused``. The kernels', in C, has its inputs written by `run.sh`:
``python -m tests.fuzz.corpora kernels DIRECTORY COMMAND`` keeps the best of a directory's files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
MOST = 64  # inputs of a target
MOST_BYTES = 1 << 16  # of them together


def read(name: str) -> dict[str, bytes]:
    """The inputs that are kept for a target, by their names; none for one that is new."""
    if not (CORPUS / f"{name}.zip").exists():
        return {}
    with zipfile.ZipFile(CORPUS / f"{name}.zip") as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def write(name: str, inputs: Iterable[bytes], verdict: Callable[[bytes], str]) -> None:
    """Keep these inputs for a target; what is in the archive depends on nothing else."""
    named = {f"{verdict(data)}/{sha256(data).hexdigest()[:12]}": data for data in inputs}
    CORPUS.mkdir(exist_ok=True)
    with zipfile.ZipFile(CORPUS / f"{name}.zip", "w") as archive:
        for member, data in sorted(named.items()):
            archive.writestr(zipfile.ZipInfo(member), data, zipfile.ZIP_DEFLATED, 9)


def smallest(command: list[str], inputs: Iterable[bytes]) -> list[bytes]:
    """Those of the inputs that reach the most for their size, within the limits.

    Args:
        command: of a fuzzer by libFuzzer, which says what each input reaches.
        inputs: any number of them.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    reached = _reached(command, sorted(set(inputs), key=lambda data: (len(data), data)))
    found: list[bytes] = []
    # Counts of how often an edge was taken are eight to an edge; edges by themselves come first.
    for bits in (3, 0):
        news = {d: frozenset(f >> bits for f in features) for d, features in reached.items()}
        seen = frozenset().union(*(news[data] for data in found))
        room = MOST_BYTES - sum(map(len, found))
        while len(found) < MOST:
            news = {d: n - seen for d, n in news.items() if len(d) <= room and n - seen}
            if not news:
                break
            best = max(news, key=lambda d: len(news[d]) / (MOST_BYTES / MOST + len(d)))
            found.append(best)
            seen = news[best]
            room -= len(best)
    return found


def _reached(command: list[str], inputs: list[bytes]) -> dict[bytes, list[int]]:
    """What each input reaches, by libFuzzer's numbers, from the file that its merge is noted in."""
    with tempfile.TemporaryDirectory() as directory:
        room, control = Path(directory), Path(directory) / "control"
        paths = [str(room / str(i)) for i in range(len(inputs))]
        for path, data in zip(paths, inputs, strict=True):
            Path(path).write_bytes(data)
        control.write_text("\n".join([str(len(paths)), "0", *paths, ""]))
        options = ["-merge_inner=2", f"-merge_control_file={control}", f"-artifact_prefix={room}/"]
        env = os.environ | {"PYTHONHASHSEED": "0", "TMPDIR": directory}
        subprocess.run([*command, *options], check=True, capture_output=True, env=env)
        rows = [line.split() for line in control.read_text().splitlines()[2 + len(paths) :]]
    return {inputs[int(r[1])]: [int(f) for f in r[2:]] for r in rows if r[0] == "FT"}


if __name__ == "__main__":
    target, place, *program = sys.argv[1:]
    known = smallest(
        program, (path.read_bytes() for path in Path(place).rglob("*") if path.is_file())
    )
    write(target, known, lambda _: "inputs")
    print(f"{target}: {len(known)} inputs, {sum(map(len, known)):,} bytes")
