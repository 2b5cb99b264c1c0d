"""What a command costs in a process of its own: its peak of memory, and how often it took some."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]

# VmHWM, not ru_maxrss: that one survives exec and would tell of the test's own memory.
_MEASURED = """
import resource
import sys
from pathlib import Path
from sparsediff.__main__ import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    (line,) = [s for s in status.splitlines() if s.startswith("VmHWM")]
    sys.stdout.flush()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print("\\npeak", int(line.split()[1]) * 1024, faults, file=sys.stderr)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command said and took.

    Attributes:
        code: it ended with.
        err: its standard error.
        peak_bytes: most memory it held, start-up included.
        n_faults: pages that the system had to clear or map for it.
    """

    code: int
    err: str
    peak_bytes: int
    n_faults: int


def cost(*args: object) -> Cost:
    """Run ``sparsediff ARGS`` on Linux, and measure it."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    err, _, counted = done.stderr.rpartition("\npeak ")
    return Cost(done.returncode, err, *map(int, counted.split()))
