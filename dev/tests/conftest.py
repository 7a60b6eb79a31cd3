"""Fixtures: real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.lib")

from dev.servers import pgbouncer  # noqa: E402
from dev.servers.postgres import ThrowawayPostgres  # noqa: E402
from tests.lib.servers import _own_server, own_server  # noqa: E402, F401


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayPostgres]:
    """Give a server for PgBouncer to stand before, and see that there is a PgBouncer."""
    pgbouncer.install()
    with ThrowawayPostgres() as server:
        yield server
