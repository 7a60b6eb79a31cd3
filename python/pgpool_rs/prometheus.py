"""The figures of all pools of a process, for Prometheus: call `instrument()` once, before or after they are made."""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import values
from prometheus_client.core import REGISTRY, Metric
from prometheus_client.registry import Collector

from pgpool_rs._pools import pools
from pgpool_rs._publishing import read, warn
from pgpool_rs._samples import Sample, samples
from pgpool_rs._threads import start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client import CollectorRegistry

__all__ = ["PoolCollector", "instrument"]


def _metrics(found: dict[Sample, float]) -> Iterator[Metric]:
    metrics: dict[str, Metric] = {}
    for sample, value in found.items():
        metric = metrics.setdefault(sample.metric, Metric(sample.metric, sample.about, sample.kind))
        metric.add_sample(sample.name, dict(sample.labels), value)
    yield from metrics.values()


class PoolCollector(Collector):
    """Reads the pools of this process when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        """Give the figures of this moment."""
        yield from _metrics(samples(pools(), cumulative=True))


class HostCollector(Collector):
    """Reads what the processes of a host publish in a folder when Prometheus asks.

    Each process has series of its own: a sum over processes would fall when one of them ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Give the figures of the processes that live now."""
        found: dict[Sample, float] = {}
        for process in read(self._folder):
            found |= samples(process.pools, cumulative=True, labelled=(("process", process.name),))
        yield from _metrics(found)


class _Writer:
    """Writes the figures of this process into the files in which prometheus_client keeps those of all processes."""

    def __init__(self, interval: float) -> None:
        self._interval, self._lock = interval, threading.Lock()
        self._values: dict[Sample, Any] = {}
        # No thread may hold the lock of prometheus_client's files at a fork: the child would find it taken for ever.
        take, give = self._lock.acquire, self._lock.release
        os.register_at_fork(before=take, after_in_parent=give, after_in_child=lambda: self.start(give))
        atexit.register(self.write)

    def start(self, release: Callable[[], None] = lambda: None) -> None:
        """Start the thread."""
        release()
        start(threading.Thread(target=self._run, name="pgpool_rs.prometheus", daemon=True))

    def _run(self) -> None:
        failed = False
        while True:
            try:
                self.write()
                failed = False
            except OSError as error:  # as where the disk is full
                if not failed:
                    warn("cannot write the metrics: %s", error)
                failed = True
            time.sleep(self._interval)

    def write(self) -> None:
        """Write what there is now. What belongs to a pool that is gone counts as none."""
        with self._lock:
            now = samples(pools(), cumulative=False)
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
