"""OpenTelemetry's SDK gets all metrics of the semantic conventions under their names, and a span for each wait."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.trace import StatusCode

from pgpool_rs import PoolTimeout, ThreadedConnectionPool
from pgpool_rs._core import advance_clock
from pgpool_rs.opentelemetry import PoolTelemetry
from pgpool_rs.testing import FakeServer
from tests.lib.pools import give_back, lend
from tests.lib.waits import waiting_task

NAMES = {value for name, value in vars(db_metrics).items() if name.startswith("DB_CLIENT_CONNECTION_")}


class Backend:
    """What an operator's backend gets."""

    def __init__(self) -> None:
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self._meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = PoolTelemetry(self._meters, self.tracers)

    def metrics(self) -> dict[str, Any]:
        """Read all metrics once, by their names."""
        data: Any = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str, pool: str) -> list[Any]:
        """Give the points of one metric for the pools of this name."""
        points = self.metrics()[f"db.client.connection.{name}"].data.data_points
        return [point for point in points if point.attributes[db_attributes.DB_CLIENT_CONNECTION_POOL_NAME] == pool]

    def value(self, name: str, pool: str, state: str | None = None) -> Any:
        """Give the only value of a metric, or the one for a state."""
        given = db_attributes.DB_CLIENT_CONNECTION_STATE
        (point,) = (point for point in self.points(name, pool) if point.attributes.get(given) == state)
        return point.value


@pytest.fixture
def backend() -> Backend:
    return Backend()


def exercise(backend: Backend, name: str) -> Any:
    """Make a pool and let everything happen to it once."""
    pool: Any = ThreadedConnectionPool(1, 2, name=name, listener=backend.telemetry)
    lent = lend(pool, 2)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.001)
    advance_clock(2)
    give_back(pool, lent)
    return pool


def test_all_metrics_have_the_names_units_and_kinds_of_the_semantic_conventions(
    server: FakeServer, backend: Backend
) -> None:
    pool = exercise(backend, "names")
    found = backend.metrics()
    assert set(found) == NAMES
    asked = Backend()
    meter: Any = asked._meters.get_meter("asked")
    for name in NAMES:
        # The conventions' own constructors say which unit and kind each has.
        make = getattr(db_metrics, "create_" + name.replace(".", "_"))
        instrument = make(meter)
        instrument.record(1.0) if hasattr(instrument, "record") else instrument.add(1)
    expected = asked.metrics()
    for name in NAMES:
        kinds = [(metric.unit, type(metric.data), getattr(metric.data, "is_monotonic", None)) for metric in
                 (found[name], expected[name])]  # fmt: skip
        assert kinds[0] == kinds[1], name
    del pool


def test_the_values_are_those_of_the_pool(server: FakeServer, backend: Backend) -> None:
    pool = exercise(backend, "values")
    lent = lend(pool, 2)
    values = {name: backend.value(name, "values") for name in ("max", "idle.min", "idle.max", "pending_requests")}
    assert values == {"max": 2, "idle.min": 1, "idle.max": 1, "pending_requests": 0}
    assert [backend.value("count", "values", state) for state in ("idle", "used")] == [0, 2]
    waiter = waiting_task(pool)
    assert backend.value("pending_requests", "values") == 1
    give_back(pool, lent)
    pool.putconn(waiter.result())
    assert backend.value("timeouts", "values") == 1
    for name, number in (("create_time", 3), ("wait_time", 5), ("use_time", 5)):
        (point,) = backend.points(name, "values")
        assert point.count == number, name
    (uses,) = backend.points("use_time", "values")
    assert uses.sum >= 4
    assert uses.explicit_bounds == tuple(pool.get_histograms()["use"].buckets)[:-1]


def test_pools_of_one_name_are_added_up(server: FakeServer, backend: Backend) -> None:
    pools = [exercise(backend, "twin"), exercise(backend, "twin")]
    assert backend.value("max", "twin") == 4
    assert [backend.value("count", "twin", state) for state in ("idle", "used")] == [2, 0]
    del pools


def test_a_closed_pool_may_have_no_connection(server: FakeServer, backend: Backend) -> None:
    pools: list[Any] = [ThreadedConnectionPool(1, 3, name="ends", max_idle=9) for _ in range(2)]
    assert [backend.value(name, "ends") for name in ("max", "idle.min", "idle.max")] == [6, 2, 6]
    pools[0].close()
    assert [backend.value(name, "ends") for name in ("max", "idle.min", "idle.max")] == [3, 1, 3]


def test_a_pool_whose_options_a_program_has_overwritten_is_shown(server: FakeServer, backend: Backend) -> None:
    pool: Any = ThreadedConnectionPool(1, 3, name="own")
    pool.options = pool.get_stats = "the program's"
    assert [backend.value(name, "own") for name in ("max", "idle.min", "idle.max")] == [3, 1, 1]


def test_a_wait_is_a_span_below_the_callers_own_and_an_idle_connection_is_none(
    server: FakeServer, backend: Backend
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, name="spans", listener=backend.telemetry)
    tracer = backend.tracers.get_tracer("mine")
    with tracer.start_as_current_span("request") as request:
        connection = pool.getconn()
        assert backend.exporter.get_finished_spans() == ()
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.001)
    spans: dict[str, Any] = {span.name: span for span in backend.exporter.get_finished_spans()}
    wait = spans["pgpool_rs getconn"]
    assert wait.parent.span_id == request.get_span_context().span_id
    assert wait.status.status_code is StatusCode.ERROR
    assert spans["request"].start_time <= wait.start_time <= wait.end_time <= spans["request"].end_time
    assert wait.attributes["db.client.connection.pool.name"] == "spans"
    backend.exporter.clear()
    waiter = waiting_task(pool)
    pool.putconn(connection)
    pool.putconn(waiter.result())
    (span,) = backend.exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET
