"""The figures of all pools of a process, for Prometheus: call `instrument()` once, before or after they are made."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import values
from prometheus_client.core import REGISTRY, Metric
from prometheus_client.registry import Collector

from pgpool_rs._pools import pools
from pgpool_rs._publishing import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from prometheus_client import CollectorRegistry

__all__ = ["PoolCollector", "instrument"]


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


class _Sample(NamedTuple):
    kind: str
    metric: str
    about: str
    name: str
    labels: tuple[tuple[str, str], ...]


def _samples(
    of: Iterable[Any], *, cumulative: bool, labelled: tuple[tuple[str, str], ...] = ()
) -> dict[_Sample, float]:
    """Read these pools. Those of one name are added up, but of their oldest loans the oldest counts."""
    found: dict[_Sample, float] = {}
    for pool in of:
        for kind, metric, about, suffix, value in _of(pool, cumulative=cumulative):
            name, *label = metric.split()
            labels = (*labelled, ("pool", str(pool.name)), *([(label[0], label[1])] if label else []))
            sample = _Sample(kind, f"pgpool_{name}", about, f"pgpool_{name}{suffix}", labels)
            before = found.get(sample, 0.0)
            found[sample] = max(before, value) if name == "oldest_loan_seconds" else before + value
    return found


def _of(pool: Any, *, cumulative: bool) -> Iterator[tuple[str, str, str, str, float]]:
    stats = pool.get_stats()
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


def _metrics(samples: dict[_Sample, float]) -> Iterator[Metric]:
    metrics: dict[str, Metric] = {}
    for sample, value in samples.items():
        metric = metrics.setdefault(sample.metric, Metric(sample.metric, sample.about, sample.kind))
        metric.add_sample(sample.name, dict(sample.labels), value)
    yield from metrics.values()


class PoolCollector(Collector):
    """Reads the pools of this process when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        """Give the figures of this moment."""
        yield from _metrics(_samples(pools(), cumulative=True))


class HostCollector(Collector):
    """Reads what the processes of a host publish in a folder when Prometheus asks.

    Each process has series of its own: a sum over processes would fall when one of them ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Give the figures of the processes that live now."""
        found: dict[_Sample, float] = {}
        for process in read(self._folder):
            found |= _samples(process.pools, cumulative=True, labelled=(("process", process.name),))
        yield from _metrics(found)


class _Writer:
    """Writes the figures of this process into the files in which prometheus_client keeps those of all processes."""

    def __init__(self, interval: float) -> None:
        self._interval, self._lock = interval, threading.Lock()
        self._values: dict[_Sample, Any] = {}
        # No thread may hold the lock of prometheus_client's files at a fork: the child would find it taken for ever.
        take, give = self._lock.acquire, self._lock.release
        os.register_at_fork(before=take, after_in_parent=give, after_in_child=lambda: self.start(give))
        atexit.register(self.write)

    def start(self, release: Callable[[], None] = lambda: None) -> None:
        """Start the thread."""
        release()
        threading.Thread(target=self._run, name="pgpool_rs.prometheus", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.write()
            time.sleep(self._interval)

    def write(self) -> None:
        """Write what there is now. What belongs to a pool that is gone counts as none."""
        with self._lock:
            now = _samples(pools(), cumulative=False)
            for sample in now.keys() - self._values.keys():
                kind, metric, about, name, labels = sample
                mode = "livemax" if metric == "pgpool_oldest_loan_seconds" else "livesum"
                names = zip(*labels, strict=True)
                self._values[sample] = values.ValueClass(kind, metric, name, *names, about, multiprocess_mode=mode)
            for sample, value in self._values.items():
                if sample in now or sample.kind == "gauge":
                    value.set(now.get(sample, 0.0))


def instrument(registry: CollectorRegistry = REGISTRY, *, interval: float = 2.0) -> None:
    """Show the figures of all pools of this process.

    With PROMETHEUS_MULTIPROC_DIR, a thread of this process and of each forked child writes them every `interval` s.
    """
    if values.ValueClass._multiprocess:
        _Writer(interval).start()
    else:
        registry.register(PoolCollector())
