"""What the benchmark ran on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from sparsediff.kernels import NAME
from tests.bench.process import output


def _first(pattern: str, path: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return "?"
    return found[1].strip() if found else "?"


def describe() -> dict[str, str]:
    """Processor, memory, system, kernels and versions, each as a line of text."""
    memory = _first(r"^MemTotal:\s+(\d+)", "/proc/meminfo")
    return {
        "processor": _first(r"^model name\s*:(.*)", "/proc/cpuinfo"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory) / 2**20:.1f} GiB" if memory.isdigit() else memory,
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "kernels": NAME.removeprefix("compiled, "),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "commit": output(["git", "describe", "--always", "--dirty", "--abbrev=12"]).strip(),
    }


def filesystem(directory: Path) -> str:
    """Type of the file system that holds ``directory``."""
    return ["?", *output(["df", "--output=fstype", str(directory)]).split()][-1]
