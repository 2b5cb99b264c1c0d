"""The tools, each at the settings that make its smallest exact patches in sane time.

A tool says which commands make and apply a patch; all of them run as processes,
so that everybody's times include what a user waits for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.process import output

JOBS = 2  # sparsediff gets two threads, and so does everyone who can use them
PYTHON = [sys.executable, "-m"]


@dataclass(frozen=True)
class Job:
    """The files of one run of one tool on one pair; ``scratch`` is empty at first."""

    base: Path
    target: Path
    scratch: Path

    @property
    def patch(self) -> Path:
        """Where the patch goes."""
        return self.scratch / "patch"

    @property
    def out(self) -> Path:
        """Where the rebuilt target goes."""
        return self.scratch / "out.safetensors"

    def fill(self, command: str) -> list[str]:
        """The words of a command, names of files filled in."""
        window = max(1 << 24, min(2 << self.base.stat().st_size.bit_length(), 1 << 31))
        names = {
            "base": self.base,
            "target": self.target,
            "target_name": self.target.name,
            "base_dir": self.base.parent,
            "target_dir": self.target.parent,
            "patch": self.patch,
            "out": self.out,
            "held": self.scratch / "held",  # what a store holds of the base
            "window": window,  # of xdelta3: a power of two, more than the whole base
        }
        words = [word.format_map(names) for word in command.split(" ")]
        return [*PYTHON, *words[2:]] if words[:2] == ["python", "-m"] else words


@dataclass(frozen=True)
class Tool:
    """One tool at one setting. Commands are templates for `Job.fill`.

    ``prepare`` is what both sides do once with the base; it is not timed. For a
    store that holds the base, ``grows`` says that the patch is its growth.
    """

    name: str
    setting: str
    make: tuple[str, ...]
    apply: tuple[str, ...]
    program: str = ""
    package: str = ""
    module: str = ""
    prepare: tuple[str, ...] = ()
    grows: bool = False
    sorts: bool = False  # all suffixes of the base: left out above --sort-limit
    environment: dict[str, str] = field(default_factory=dict)

    def size(self, job: Job) -> int:
        """Bytes of what now lies at ``job.patch``."""
        paths = [job.patch, *job.patch.rglob("*")] if job.patch.is_dir() else [job.patch]
        return sum(p.stat().st_size for p in paths if not p.is_dir())

    def missing(self) -> str:
        """What has to be installed to run it; empty if nothing has."""
        if self.module and not importlib.util.find_spec(self.module):
            return f"Python package {self.package}"
        if self.program and not shutil.which(self.program):
            return f"program {self.program}"
        return ""

    def version(self) -> str:
        """As the tool or its package says."""
        if self.package:
            return importlib.metadata.version(self.package)
        if self.program == "bsdiff":  # does not say
            return output(["dpkg-query", "-W", "-f", "${Version}", "bsdiff"]) or "?"
        text = output([self.program, {"xdelta3": "-V"}.get(self.program, "--version")])
        found = re.search(r"\d+(\.\d+)+", text)
        return found[0] if found else "?"


def _zstd(level: int) -> Tool:
    options = f"-q -f --long=31 -T{JOBS} --patch-from={{base}}"
    return Tool(
        "zstd --patch-from",
        f"-{level} --long=31 -T{JOBS}",
        (f"zstd -{level} {options} {{target}} -o {{patch}}",),
        (f"zstd -d {options} {{patch}} -o {{out}}",),
        program="zstd",
    )


def _library(call: str, name: str, setting: str, package: str, module: str) -> Tool:
    """A Python library behind `tests.bench.libraries`."""
    verbs = {
        verb: (
            f"python -m tests.bench.libraries {verb} {call} {{base}} {{target}} {{patch}} {{out}}",
        )
        for verb in ("prepare", "make", "apply")
    }
    store = module == "moonclip"
    prepare = verbs["prepare"] if store else ()
    return Tool(
        name,
        setting,
        verbs["make"],
        verbs["apply"],
        package=package,
        module=module,
        prepare=prepare,
        grows=store,
    )


def _simple(codec: str, name: str, setting: str) -> Tool:
    """One of `tests.bench.simple`."""
    run = "python -m tests.bench.simple"
    return Tool(
        name,
        setting,
        (f"{run} make {codec} {{base}} {{target}} {{patch}}",),
        (f"{run} apply {codec} {{base}} {{patch}} {{out}}",),
        package="numpy" if codec == "coo" else "zstandard",
    )


def _arc(setting: str, **environment: str) -> Tool:
    package = "fireworks-delta-compression"
    tool = _library(
        "fireworks", "fireworks arc_v3", setting, package, "fireworks_delta_compression"
    )
    tool.environment.update(environment)
    return tool


OURS = Tool(
    "sparsediff",
    f"-j {JOBS}",
    (f"python -m sparsediff make {{base}} {{target}} -o {{patch}} -j {JOBS}",),
    (f"python -m sparsediff apply {{base}} {{patch}} -o {{out}} -j {JOBS}",),
    package="sparsediff",
)
TOOLS = [
    OURS,
    *(_zstd(level) for level in (1, 3, 19)),
    Tool(
        "xdelta3",
        "-9 -S lzma -B ALL -W 16M",
        ("xdelta3 -e -9 -S lzma -B {window} -W 16777216 -f -s {base} {target} {patch}",),
        ("xdelta3 -d -B {window} -f -s {base} {patch} {out}",),
        program="xdelta3",
    ),
    Tool(
        "bsdiff",
        "no options",
        ("bsdiff {base} {target} {patch}",),
        ("bspatch {base} {out} {patch}",),
        program="bsdiff",
        sorts=True,
    ),
    _library("hdiffpatch", "HDiffPatch", "bzip2", "hdiffpatch", "hdiffpatch"),
    Tool(
        "detools",
        "-a hdiffpatch -t hdiffpatch -c lzma",
        (
            "python -m detools create_patch -a hdiffpatch -t hdiffpatch -c lzma "
            "{base} {target} {patch}",
        ),
        ("python -m detools apply_patch {base} {patch} {out}",),
        package="detools",
        module="detools",
    ),
    _simple("coo", "indices + values", "int32, not compressed"),
    _simple("gaps", "u16 gaps + values", "zstd -1"),
    _simple("xor-1", "XOR", "zstd -1"),
    _simple("xor-19", "XOR", "zstd -19"),
    _arc("default"),
    # It takes the best of the candidates that are ready soon; waiting for all makes smaller ones.
    _arc(
        "all candidates, zstd -19", ARC3_CANDIDATE_WAIT_MULTIPLIER="1000", ARC3_FAST_ZSTD_LEVEL="19"
    ),
    Tool(
        "lmz append",
        f"-j {JOBS}",
        (f"python -m lmz append -q -j {JOBS} {{patch}} {{target}}",),
        (f"python -m lmz extract -q -j {JOBS} {{patch}} {{target_name}} {{out}}",),
        package="lmzip",
        module="lmz",
        prepare=(f"python -m lmz compress -q -j {JOBS} {{base}} {{patch}}",),
        grows=True,
    ),
    Tool(
        "weightscope",
        "--threshold 0",
        ("weightscope export {base_dir} {target_dir} --threshold 0 -o {patch}",),
        ("weightscope apply {patch} {base_dir} -o {out}",),
        program="weightscope",
        package="weightscope",
        module="weightscope",
    ),
    _library("zipnn", "zipnn", f"byte delta, {JOBS} threads", "zipnn", "zipnn"),
    _library("moonclip:3", "moonclip", "level 3", "moonclip", "moonclip"),
    _library("moonclip:19", "moonclip", "level 19", "moonclip", "moonclip"),
    Tool(
        "reminis diff",
        "no options",
        (
            "reminis convert -q {target} -o {held}.target",
            "reminis diff -q {held} {held}.target -o {patch}",
        ),
        (
            "reminis apply -q {held} {patch} -o {held}.out",
            "reminis export -q {held}.out -o {out}",
        ),
        program="reminis",
        package="reminis",
        module="reminis",
        prepare=("reminis convert -q {base} -o {held}",),
    ),
]
