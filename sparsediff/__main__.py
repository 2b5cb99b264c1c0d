"""The program ``sparsediff``, also as ``python -m sparsediff``.

Enters: signals, from the first moment on. Leaves: what `cli.main` does; or one line and
exit code 130 if the user changes their mind before the command line is even loaded.
"""

from __future__ import annotations

import gc
import os
import signal

TYPE_CHECKING = False  # `typing` takes longer to import than all of this
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the program."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as under nohup
            signal.signal(signum, _end)
    # Neither modules nor records of many tensors hold cycles worth looking for, and they would
    # be looked through again and again.
    gc.set_threshold(100_000, 20, 20)
    from sparsediff import cli

    cli.main()


def _end(signum: int, frame: object) -> NoReturn:
    """Nothing has been begun, so there is nothing to clean up."""
    os.write(2, b"sparsediff: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
