"""Fixtures: the pools under test, the fake server, the real ones, and a housekeeper."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psycopg2.pool
import pytest

import pgpool_rs.pool
from pgpool_rs import _housekeeper
from pgpool_rs._housekeeper import Housekeeper
from pgpool_rs.testing import FakeServer

# So that their assertions, too, say what was compared.
pytest.register_assert_rewrite("tests.lib")

from tests.lib import profile  # noqa: E402, F401
from tests.lib.servers import (  # noqa: E402, F401
    _own_server,
    _own_tls_server,
    conn,
    dsn,
    own_server,
    own_tls_server,
    tls_dsn,
)

MODULES = {"psycopg2": psycopg2.pool, "pgpool_rs": pgpool_rs.pool}
CLASSES = ("SimpleConnectionPool", "ThreadedConnectionPool")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many operations were compared with psycopg2.pool's, in all workers together."""
    passed = terminalreporter.stats.get("passed", [])
    totals = Counter[str]()
    for name, number in itertools.chain.from_iterable(report.user_properties for report in passed):
        if name.startswith("operations "):
            totals[name] += number
    if totals:
        told = ", ".join(f"{number:,} {name}" for name, number in totals.items())
        terminalreporter.write_line(f"against psycopg2.pool: {told}")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Replace psycopg2.connect by a fake server's."""
    with FakeServer().installed() as server:
        yield server


@pytest.fixture(params=list(MODULES))
def pool_module(request: pytest.FixtureRequest) -> ModuleType:
    """Give psycopg2.pool, then pgpool_rs.pool."""
    return MODULES[request.param]


@pytest.fixture
def our_module() -> ModuleType:
    """Give pgpool_rs.pool."""
    return pgpool_rs.pool


@pytest.fixture(params=CLASSES, ids=["Simple", "Threaded"])
def class_name(request: pytest.FixtureRequest) -> str:
    """Give the name of each public class."""
    name: str = request.param
    return name


@pytest.fixture
def pool_class(pool_module: ModuleType, class_name: str) -> Any:
    """Give both classes of both modules: what is asserted here holds for psycopg2.pool and for pgpool_rs alike."""
    return getattr(pool_module, class_name)


@pytest.fixture
def our_class(class_name: str) -> Any:
    """Give both classes of pgpool_rs."""
    return getattr(pgpool_rs.pool, class_name)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect what could only be printed: errors in a __del__ or a weak reference's callback."""
    caught: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", caught.append)
    return caught


@pytest.fixture
def housekeeper() -> Iterator[Housekeeper]:
    """Give a housekeeper that no real pool knows."""
    housekeeper = Housekeeper()
    yield housekeeper
    housekeeper.end()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pool that failed be tried again soon."""
    monkeypatch.setattr(_housekeeper, "PAUSE", 0.03)
