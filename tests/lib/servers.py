"""Fixtures: real servers, which live as long as the test run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from dev.servers.postgres import ThrowawayPostgres


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
