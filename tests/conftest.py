"""Fixtures: the pools under test, the fake server, the real ones, and a housekeeper."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import hypothesis
import psycopg2.pool
import pytest

import pgpool_rs.pool
from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs import _housekeeping
from pgpool_rs._housekeeping import Housekeeper
from pgpool_rs.testing import FakeServer

# So that their assertions, too, say what was compared.
pytest.register_assert_rewrite("keepers", "side_by_side", "support")

MODULES = {"psycopg2": psycopg2.pool, "pgpool_rs": pgpool_rs.pool}
CLASSES = ("SimpleConnectionPool", "ThreadedConnectionPool")

# `make prove` takes the profile `nightly`, which runs the random tests 20 times as long.
# CI runs the same ones each time, so that a change is judged by what it changed.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=100, derandomize="CI" in os.environ)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("PGPOOL_PROFILE", "quick"))


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


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """Give the address of a real PostgreSQL server that lives as long as the test run."""
    with ThrowawayPostgres() as server:
        yield server.dsn


@pytest.fixture(scope="session")
def tls_dsn() -> Iterator[str]:
    """Give the address of another one, that is spoken to over TLS only."""
    with ThrowawayPostgres(tls=True) as server:
        yield server.dsn


@pytest.fixture
def conn(dsn: str) -> Iterator[Any]:
    """Give a connection of the test's own."""
    connection = psycopg2.connect(dsn)
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def _own_server() -> Iterator[ThrowawayPostgres]:
    with ThrowawayPostgres() as server:
        yield server


@pytest.fixture(scope="session")
def _own_tls_server() -> Iterator[ThrowawayPostgres]:
    with ThrowawayPostgres(tls=True) as server:
        yield server


@pytest.fixture
def own_server(_own_server: ThrowawayPostgres) -> Iterator[ThrowawayPostgres]:
    """Give a real server that the test has for itself: it may kill, restart, pause and stop it, but not close it."""
    yield _own_server
    _own_server.resume()
    _own_server.start()


@pytest.fixture
def own_tls_server(_own_tls_server: ThrowawayPostgres) -> Iterator[ThrowawayPostgres]:
    """Give the same with TLS."""
    yield _own_tls_server
    _own_tls_server.resume()
    _own_tls_server.start()


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
def keeper() -> Iterator[Housekeeper]:
    """Give a housekeeper that no real pool knows."""
    keeper = Housekeeper()
    yield keeper
    keeper.end()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pool that failed be tried again soon."""
    monkeypatch.setattr(_housekeeping, "PAUSE", 0.03)
