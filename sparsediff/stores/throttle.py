"""A limit on bytes per second, shared by all threads.

Enters: how many bytes are about to move. Leaves: after as long as it takes. Never
lets through more at once than a quarter of a second's worth, saved up while
idle or not; never looks at the time of day.
"""

from __future__ import annotations

import threading
import time

from sparsediff.errors import UsageError
from sparsediff.parallel import check_wanted

_BURST = 0.25  # seconds
_TURN = 0.02  # seconds of one thread before it is the next one's turn


class Throttle:
    """Token bucket.

    Args:
        bytes_per_second: None for no limit.
    """

    def __init__(self, bytes_per_second: float | None = None) -> None:
        """See the class.

        Raises:
            UsageError: the rate is not positive.
        """
        if bytes_per_second is not None and not bytes_per_second > 0:
            raise UsageError("a rate must be positive", found=bytes_per_second)
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._paid_until = time.monotonic()

    def take(self, n_bytes: int) -> None:
        """Return when ``n_bytes`` more may have moved, if they are still wanted."""
        check_wanted()
        if self._rate is None:
            return
        # In small portions, each queued behind the others': threads take turns,
        # however much one of them wants.
        portion = max(1, int(self._rate * _TURN))
        while n_bytes > 0:
            now = min(portion, n_bytes)
            n_bytes -= now
            time.sleep(self._wait(now))
            check_wanted()

    def _wait(self, n_bytes: int) -> float:
        assert self._rate is not None
        with self._lock:
            now = time.monotonic()
            self._paid_until = max(self._paid_until, now - _BURST) + n_bytes / self._rate
            return max(0.0, self._paid_until - now)
