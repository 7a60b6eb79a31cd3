"""The figures of all pools of a process, and spans of waits, for OpenTelemetry: make one `PoolTelemetry` for a process.

The extra `opentelemetry` has what it needs; the SDK is yours to choose and to set up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation

from pgpool_rs._core import __version__
from pgpool_rs._listener import Listener
from pgpool_rs._pools import figures, pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["PoolTelemetry"]

_NAME = "db.client.connection.pool.name"
_STATE = "db.client.connection.state"
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class _Gauge(NamedTuple):
    name: str
    unit: str
    about: str
    read: Callable[[Any, dict[str, int]], Iterator[tuple[int, dict[str, str]]]]


def _count(_pool: Any, stats: dict[str, int]) -> Iterator[tuple[int, dict[str, str]]]:
    idle = stats["pool_available"]
    yield idle, {_STATE: "idle"}
    yield stats["pool_size"] - stats["pool_opening"] - idle, {_STATE: "used"}


def _idle_max(pool: Any, stats: dict[str, int]) -> Iterator[tuple[int, dict[str, str]]]:
    keeps = pool.__dict__["_pgpool_options"].max_idle > 0  # A program may use `options` for anything.
    yield stats["pool_max" if keeps else "pool_min"], {}


def _stat(name: str) -> Callable[[Any, dict[str, int]], Iterator[tuple[int, dict[str, str]]]]:
    def read(_pool: Any, stats: dict[str, int]) -> Iterator[tuple[int, dict[str, str]]]:
        yield stats[name], {}

    return read


_GAUGES = (
    _Gauge("count", "{connection}", "Connections that are open, by state.", _count),
    _Gauge("idle.max", "{connection}", "Idle connections that the pool may keep.", _idle_max),
    _Gauge("idle.min", "{connection}", "Connections that the pool keeps open.", _stat("pool_min")),
    _Gauge("max", "{connection}", "Connections that the pool may have.", _stat("pool_max")),
    _Gauge("pending_requests", "{request}", "Callers that wait for a connection.", _stat("requests_waiting")),
)


class PoolTelemetry(Listener):
    """The metrics `db.client.connection.*` of the semantic conventions, and a span for each wait.

    It shows all pools of the process. Give it to each pool as its `listener`: the histograms, the time-outs and the
    spans are of those pools only.
    """

    def __init__(
        self, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        """Take the global providers where none are given."""
        meter = metrics.get_meter("pgpool_rs", __version__, meter_provider)
        self._tracer = trace.get_tracer("pgpool_rs", __version__, tracer_provider)
        for gauge in _GAUGES:
            name, observe = f"db.client.connection.{gauge.name}", self._observer(gauge)
            meter.create_observable_up_down_counter(name, [observe], gauge.unit, gauge.about)
        self._timeouts = meter.create_counter(
            "db.client.connection.timeouts", "{timeout}", "Requests that waited for too long."
        )
        self._create, self._wait, self._use = (
            meter.create_histogram(
                f"db.client.connection.{name}_time", "s", about, explicit_bucket_boundaries_advisory=_BOUNDS
            )
            for name, about in (
                ("create", "How long a connect took."),
                ("wait", "How long a request took until it got a connection."),
                ("use", "How long a loan lasted."),
            )
        )

    @staticmethod
    def _observer(gauge: _Gauge) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            # The SDK keeps one observation for each set of attributes: pools of one name are added up.
            found: dict[tuple[tuple[str, str], ...], int] = {}
            for pool in pools():
                for number, state in gauge.read(pool, figures(pool)):
                    attributes = ((_NAME, str(pool.name)), *state.items())
                    found[attributes] = found.get(attributes, 0) + number
            return [Observation(number, dict(attributes)) for attributes, number in found.items()]

        return observe

    def connected(self, pool: Any, took: float, /) -> None:
        """Count the time of a connect."""
        self._create.record(took, {_NAME: str(pool.name)})

    def borrowed(self, pool: Any, wait: float, /) -> None:
        """Count the time of a wait, and trace it unless an idle connection was lent at once."""
        self._wait.record(wait, {_NAME: str(pool.name)})
        if wait > 0:
            self._trace(pool, wait)

    def returned(self, pool: Any, use: float, /) -> None:
        """Count the time of a loan."""
        self._use.record(use, {_NAME: str(pool.name)})

    def timed_out(self, pool: Any, wait: float, /) -> None:
        """Count a wait that was too long, and trace it as an error."""
        self._timeouts.add(1, {_NAME: str(pool.name)})
        self._trace(pool, wait, trace.StatusCode.ERROR)

    def _trace(self, pool: Any, wait: float, status: trace.StatusCode = trace.StatusCode.UNSET) -> None:
        """Make a span that ends now, below the caller's span: this runs in the thread that has waited."""
        end = time.time_ns()
        attributes = {_NAME: str(pool.name), "db.system.name": "postgresql"}
        span = self._tracer.start_span("pgpool_rs getconn", attributes=attributes, start_time=end - int(wait * 1e9))
        if status is trace.StatusCode.ERROR:
            span.set_status(status, "PoolTimeout")
        span.end(end)
