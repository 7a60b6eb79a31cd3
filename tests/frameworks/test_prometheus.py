"""Prometheus sees the figures of all pools: of one process, and of all workers of a gunicorn."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from psycopg2 import OperationalError

from pgpool_rs import PoolTimeout, ThreadedConnectionPool
from pgpool_rs.prometheus import PoolCollector, instrument
from pgpool_rs.testing import FakeServer
from tests.lib.metrics_site import serving
from tests.lib.pools import give_back, lend
from tests.lib.programs import run_program
from tests.lib.waits import wait_until


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    instrument(registry)
    return registry


def test_the_figures_are_those_of_the_statistics(server: FakeServer, registry: CollectorRegistry) -> None:
    pool: Any = ThreadedConnectionPool(1, 3, name="web")

    def figure(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"pgpool_{name}", {"pool": "web", **labels})

    lent = lend(pool, 3)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.001)
    assert [figure("connections", state=state) for state in ("lent", "idle", "opening")] == [3, 0, 0]
    give_back(pool, lent)
    assert [figure("connections", state=state) for state in ("lent", "idle")] == [0, 1]
    assert (figure("connections_min"), figure("connections_max"), figure("requests_waiting")) == (1, 3, 0)
    server.fail("connect", OperationalError("down"))
    lent = lend(pool, 1)
    with pytest.raises(OperationalError):
        pool.getconn()
    give_back(pool, lent)
    errors = {why: figure("requests_errors_total", reason=why) for why in ("timed_out", "refused", "crowded", "other")}
    assert errors == {"timed_out": 1, "refused": 0, "crowded": 0, "other": 1}
    assert figure("requests_total") == 6
    assert (figure("connects_total"), figure("closed_total", reason="surplus")) == (4, 2)
    histogram = pool.get_histograms()["use"]
    assert figure("use_seconds_count") == figure("use_seconds_bucket", le="+Inf") == histogram.count == 4
    assert figure("use_seconds_bucket", le="0.005") == histogram.buckets[0.005]
    assert figure("use_seconds_sum") == pytest.approx(histogram.sum)


def test_pools_of_one_name_are_added_up(server: FakeServer, registry: CollectorRegistry) -> None:
    first: Any = ThreadedConnectionPool(1, 3, name="twin")
    second: Any = ThreadedConnectionPool(2, 4, name="twin")
    first.putconn(first.getconn())
    give_back(second, lend(second, 2))

    def figure(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"pgpool_{name}", {"pool": "twin", **labels})

    assert (figure("connections_max"), figure("connections", state="idle"), figure("requests_total")) == (7, 3, 3)
    assert figure("wait_seconds_count") == figure("wait_seconds_bucket", le="+Inf") == 3


def test_a_pool_that_is_closed_or_not_yet_open_may_have_no_connection(
    server: FakeServer, registry: CollectorRegistry
) -> None:
    pools: list[Any] = [ThreadedConnectionPool(1, 3, name="ends") for _ in range(2)]

    def figures() -> list[float | None]:
        return [registry.get_sample_value(f"pgpool_connections_{of}", {"pool": "ends"}) for of in ("min", "max")]

    assert figures() == [2, 6]
    pools[0].close()
    assert figures() == [1, 3]
    pools += [ThreadedConnectionPool(1, 3, name="ends", open=False)]
    assert figures() == [1, 3]
    pools[2].open()
    assert figures() == [2, 6]


def test_a_pool_that_is_gone_is_not_shown(server: FakeServer, registry: CollectorRegistry) -> None:
    def names() -> set[str]:
        return {sample.labels["pool"] for metric in PoolCollector().collect() for sample in metric.samples}

    pool: Any = ThreadedConnectionPool(0, 1, name="gone")
    assert "gone" in names()
    del pool
    assert "gone" not in names()


def test_the_workers_of_a_gunicorn_are_added_up_whichever_is_asked(dsn: str) -> None:
    with serving(dsn, workers=2) as site:
        # The first answer, for which `serving` has waited.
        answers = [site.get("/query") for _ in range(2)]

        def requests() -> float:
            return site.figure("pgpool_requests_total", pool="web")

        def all_are_counted() -> bool:
            answers.append(site.get("/query"))
            return len(set(answers)) == 2

        wait_until(all_are_counted, "answers of both workers")
        asked = len(answers) + 1
        wait_until(lambda: requests() == asked, "the requests of both workers")
        for name in ("wait_seconds_count", "use_seconds_count"):
            assert site.figure(f"pgpool_{name}") == asked
        assert site.figure("pgpool_wait_seconds_bucket", le="+Inf") == asked
        # Two workers, and the master that has loaded the service.
        assert site.figure("pgpool_connections_max") == 3 * 4
        os.kill(int(answers[0]), signal.SIGTERM)
        wait_until(lambda: site.get("/query") not in answers, "a new worker")
        wait_until(lambda: requests() > asked, "a count with what the old worker has counted")
        wait_until(lambda: site.figure("pgpool_connections_max") == 3 * 4, "the old worker's figures of now are gone")


def test_a_process_that_cannot_write_its_metrics_says_so_once_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    run_program(f"""
import os

os.environ["PROMETHEUS_MULTIPROC_DIR"] = {str(folder)!r}

import psycopg2

from pgpool_rs import ThreadedConnectionPool, prometheus
from pgpool_rs.testing import FakeServer
from tests.lib.log import listening
from tests.lib.waits import wait_until

psycopg2.connect = FakeServer().connect
pool = ThreadedConnectionPool(1, 1)
tries, write = [], prometheus._Writer.write

def count(writer):
    tries.append(1)
    write(writer)

prometheus._Writer.write = count
with listening("publishing", 30) as log:
    prometheus.instrument(interval=0.001)
    wait_until(lambda: len(tries) > 3)
    os.mkdir({str(folder)!r})
    wait_until(lambda: os.listdir({str(folder)!r}))
assert [text.startswith("cannot write the metrics: ") for text in log.texts] == [True], log.texts
""")
