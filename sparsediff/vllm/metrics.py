"""What the follower adds to the metrics that a vLLM server shows at /metrics.

Enters: what happened. Leaves: metrics in the default registry of prometheus_client, which
vLLM has as a dependency; nothing where they cannot be registered.
"""

from __future__ import annotations

from typing import Any


class Metrics:
    """Gauges and counters of one follower."""

    def __init__(self) -> None:
        self._version: Any = None
        try:
            from prometheus_client import Counter, Gauge, Histogram

            self._version = Gauge(
                "sparsediff_version", "Version served", multiprocess_mode="mostrecent"
            )
            self._lag = Gauge(
                "sparsediff_lag_versions",
                "Newer versions in the store",
                multiprocess_mode="mostrecent",
            )
            self._pause = Histogram(
                "sparsediff_pause_seconds",
                "Time in which no tokens were generated, by the way of the update",
                ["mode"],
                buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
            )
            self._failures = Counter("sparsediff_failures", "Updates that failed and left no trace")
        except (ImportError, ValueError):  # registered already, by another app in this process
            self._version = None

    def at(self, version: int, lag: int | None) -> None:
        """A version is served."""
        if self._version is not None:
            self._version.set(version)
            self._lag.set(lag or 0)

    def switched(self, mode: str, seconds: float) -> None:
        """Generation was paused for so long."""
        if self._version is not None:
            self._pause.labels(mode).observe(seconds)

    def failed(self) -> None:
        """An update failed."""
        if self._version is not None:
            self._failures.inc()
