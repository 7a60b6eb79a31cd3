"""Test a pool: a server in memory, and what must hold of any pool over it.

Install it with `pip install "pgpool-rs[testing]"`.
"""

from pgpool_rs.testing._connection import (
    ACTIVE,
    IDLE,
    INERROR,
    INTRANS,
    UNKNOWN,
    BareFakeConnection,
    FakeConnection,
    MortalFakeConnection,
)
from pgpool_rs.testing._gate import PATIENCE, Gate
from pgpool_rs.testing._server import FakeServer

__all__ = [
    "ACTIVE",
    "IDLE",
    "INERROR",
    "INTRANS",
    "PATIENCE",
    "UNKNOWN",
    "BareFakeConnection",
    "FakeConnection",
    "FakeServer",
    "Gate",
    "MortalFakeConnection",
]
