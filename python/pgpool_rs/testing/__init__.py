"""Test a pool: a server in memory, what must hold of any pool over it, and whether its history can be explained.

Nothing here needs a database. The extra `testing` brings hypothesis along, which `PoolMachine` needs and nothing else
does. <https://pgpool-rs.readthedocs.io/en/latest/testing-a-wrapper.html> shows how to begin, and
<https://pgpool-rs.readthedocs.io/en/latest/testing.html> has everything.
"""

from typing import TYPE_CHECKING

from pgpool_rs.testing.fake.clock import Clock
from pgpool_rs.testing.fake.connection import BareFakeConnection, FakeConnection, MortalFakeConnection
from pgpool_rs.testing.fake.gate import PATIENCE, Gate
from pgpool_rs.testing.fake.server import FakeServer
from pgpool_rs.testing.fake.session import ACTIVE, IDLE, INERROR, INTRANS, UNKNOWN
from pgpool_rs.testing.fake.visit import Visit
from pgpool_rs.testing.history.check import HistoryError, Limits, check_history
from pgpool_rs.testing.history.exercise import exercise
from pgpool_rs.testing.history.operation import History, Operation, Outcome
from pgpool_rs.testing.history.recorder import Recorder
from pgpool_rs.testing.machine.invariant import BrokenInvariant
from pgpool_rs.testing.machine.invariants import INVARIANTS
from pgpool_rs.testing.machine.promises import Promises

if TYPE_CHECKING:
    from pgpool_rs.testing.machine.machine import PoolMachine

__all__ = [
    "ACTIVE",
    "IDLE",
    "INERROR",
    "INTRANS",
    "INVARIANTS",
    "PATIENCE",
    "UNKNOWN",
    "BareFakeConnection",
    "BrokenInvariant",
    "Clock",
    "FakeConnection",
    "FakeServer",
    "Gate",
    "History",
    "HistoryError",
    "Limits",
    "MortalFakeConnection",
    "Operation",
    "Outcome",
    "PoolMachine",
    "Promises",
    "Recorder",
    "Visit",
    "check_history",
    "exercise",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import PoolMachine when it is asked for, since it needs hypothesis."""
        if name != "PoolMachine":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from pgpool_rs.testing.machine.machine import PoolMachine  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if error.name != "hypothesis":
                raise
            raise ImportError("PoolMachine needs hypothesis: pip install hypothesis", name=error.name) from error
        return PoolMachine


def __dir__() -> list[str]:
    return sorted({*globals(), "PoolMachine"})
