"""What the statistics of pools are called in Prometheus, and their values: nothing of prometheus_client."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from pgpool_rs._pools import figures
from pgpool_rs._publishing import PublishedPool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Each statistic: its metric, perhaps with a label, and what that is.
_NOW = "Connections, by what is done with them now."
_ERRORS = "Requests that ended with an error: a wait timed out, the pool or its queue was full, or another one."
_GAUGES = {
    "pool_available": ("connections state idle", _NOW),
    **{f"pool_{state}": (f"connections state {state}", _NOW) for state in ("lent", "opening", "checking", "returning")},
    "pool_min": ("connections_min", "Connections that the pool keeps open."),
    "pool_max": ("connections_max", "Connections that the pool may have."),
    "requests_waiting": ("requests_waiting", "Callers that wait for a connection now."),
    "oldest_loan_ms": ("oldest_loan_seconds", "How long the oldest loan has lasted."),
}
_REFUSED = ("timed_out", "refused", "crowded")
_COUNTERS = {
    "requests_num": ("requests", "Requests for a connection."),
    "requests_queued": ("requests_queued", "Requests that had to wait."),
    **{f"requests_{why}": (f"requests_errors reason {why}", _ERRORS) for why in (*_REFUSED, "other")},
    "usage_ms": ("usage_seconds", "How long connections were lent, in all."),
    "connections_num": ("connects", "Connects, failed ones included."),
    "connections_errors": ("connect_errors", "Connects that failed."),
    "leaks": ("leaks", "Loans that lasted longer than leak_after."),
}
_HISTOGRAMS = {"wait": "Until a request got its connection.", "use": "Of a loan.", "create": "Of a connect."}


class Sample(NamedTuple):
    kind: str
    metric: str
    about: str
    name: str
    labels: tuple[tuple[str, str], ...]


def samples(of: Iterable[Any], *, cumulative: bool, labelled: tuple[tuple[str, str], ...] = ()) -> dict[Sample, float]:
    """Read these pools. Those of one name are added up, but of their oldest loans the oldest counts."""
    found: dict[Sample, float] = {}
    for pool in of:
        for kind, metric, about, suffix, value in _of(pool, cumulative=cumulative):
            name, *label = metric.split()
            labels = (*labelled, ("pool", str(pool.name)), *([(label[0], label[1])] if label else []))
            sample = Sample(kind, f"pgpool_{name}", about, f"pgpool_{name}{suffix}", labels)
            before = found.get(sample, 0.0)
            found[sample] = max(before, value) if name == "oldest_loan_seconds" else before + value
    return found


def _of(pool: Any, *, cumulative: bool) -> Iterator[tuple[str, str, str, str, float]]:
    stats = pool.get_stats() if isinstance(pool, PublishedPool) else figures(pool)
    stats["requests_other"] = stats["requests_errors"] - sum(stats[f"requests_{why}"] for why in _REFUSED)
    for stat, number in stats.items():
        value = number / 1000 if stat.endswith("_ms") else number
        if stat in _GAUGES:
            yield "gauge", *_GAUGES[stat], "", value
        elif stat in _COUNTERS:
            yield "counter", *_COUNTERS[stat], "_total", value
        elif stat.startswith("closed_"):
            yield "counter", stat.replace("_", " reason ", 1), "Connections that were closed.", "_total", value
    for what, times in pool.get_histograms().items():
        about, before = (f"{what}_seconds", _HISTOGRAMS[what]), 0
        for bound, count in times.buckets.items():
            le = f"{about[0]} le {'+Inf' if bound == math.inf else bound}"
            yield "histogram", le, about[1], "_bucket", count - before
            before = 0 if cumulative else count
        if cumulative:
            yield "histogram", *about, "_count", times.count
        yield "histogram", *about, "_sum", times.sum
