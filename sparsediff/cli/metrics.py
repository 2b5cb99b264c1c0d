"""Metrics of ship and pull in the text format of Prometheus.

Enters: values of one run. Leaves: a file for the node exporter's textfile
collector, replaced by rename. What a run does not know, because it failed
early, stays as it was; totals go on from what the file says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sparsediff.errors import UsageError, os_errors

_HELP = {
    "last_run_timestamp_seconds": "When the last run started.",
    "last_success_timestamp_seconds": "When the last run that succeeded ended.",
    "exit_code": "Exit code of the last run.",
    "version": "Version of the store that this side has.",
    "latest_version": "Newest version of the store.",
    "lag_versions": "Versions that are still to be moved, for whatever reason.",
    "lag_seconds": "Age of the oldest version that is still to be moved.",
    "last_shipped_timestamp_seconds": "When the newest version of the store was shipped.",
    "newest_seen_timestamp_seconds": "When the newest checkpoint that was ever seen was written.",
    "waiting_checkpoints": "Checkpoints seen that are not in the store, by reason.",
    "stalled_checkpoints": "Those of them that have waited too long, by reason.",
    "patch_bytes": "Size of the last version as it was moved.",
    "ratio": "Size of the last version over its size as it was moved.",
    "density": "Share of elements that changed in the last version.",
    "make_seconds": "Time to make the last version's patches.",
    "send_seconds": "Time to send and publish the last version.",
    "fetch_seconds": "Time to fetch the last version.",
    "apply_seconds": "Time to rebuild and verify the last version.",
    "versions_total": "Versions moved.",
    "moved_bytes_total": "Bytes moved.",
    "whole_bytes_total": "Bytes that whole copies of the versions moved would have taken.",
}


def write_metrics(
    file: str,
    verb: str,
    labels: dict[str, str],
    gauges: dict[str, float],
    added: dict[str, float],
    by_reason: dict[str, dict[str, float]],
) -> None:
    """Update a metrics file.

    Args:
        file: path; replaced whole.
        verb: part of the metrics' names.
        labels: of all metrics.
        gauges: values now, by name.
        added: growth of totals, by name.
        by_reason: values now, by name and by the label ``reason``.

    Raises:
        UsageError: prometheus_client is not installed, or the path is unusable.
        UnavailableError: the disk is full.
    """
    try:
        from prometheus_client import CollectorRegistry, write_to_textfile
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise UsageError(
            "--metrics-file needs prometheus_client: pip install prometheus_client"
        ) from None
    prefix = f"sparsediff_{verb}_"
    values: dict[str, dict[str, float]] = {}  # by name and reason, which is empty for most
    try:
        for family in text_string_to_metric_families(Path(file).read_text()):
            for sample in family.samples:
                reason = sample.labels.get("reason", "")
                if {**sample.labels, "reason": reason} == {**labels, "reason": reason}:
                    name = sample.name.removeprefix(prefix)
                    values.setdefault(name, {})[reason] = sample.value
    except (OSError, ValueError):
        pass  # none yet, or no longer readable: totals start again, which Prometheus expects
    values |= {name: {"": value} for name, value in gauges.items()} | by_reason
    for name, growth in added.items():
        values[name] = {"": values.get(name, {}).get("", 0.0) + growth}

    class Collector:
        def collect(self) -> Iterator[Metric]:
            for name, text in _HELP.items():
                if name in values:
                    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                    keys = [*labels, *(["reason"] if "" not in values[name] else [])]
                    metric = kind(prefix + name.removesuffix("_total"), text, labels=keys)
                    for reason, value in values[name].items():
                        metric.add_metric([*labels.values(), reason][: len(keys)], value)
                    yield metric

    registry = CollectorRegistry()
    registry.register(Collector())
    with os_errors(file):
        write_to_textfile(file, registry)
