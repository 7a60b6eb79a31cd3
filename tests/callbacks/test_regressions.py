"""Mistakes that the proofs have found."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import psycopg2
import psycopg2.pool
import pytest

import pgpool_rs
from pgpool_rs.testing import FakeServer


def test_an_interrupt_of_a_connect_is_not_hidden_by_a_log_handler_that_fails(server: FakeServer) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError(record.getMessage())

    pool = pgpool_rs.ThreadedConnectionPool(1, 1, name="failing-handler")
    pool.putconn(pool.getconn(), close=True)
    handler = Failing()
    logging.getLogger("pgpool_rs.failing-handler").addHandler(handler)
    server.fail("connect", KeyboardInterrupt(), KeyboardInterrupt())
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.maintain()
        with pytest.raises(KeyboardInterrupt):
            pool.getconn()
    finally:
        logging.getLogger("pgpool_rs.failing-handler").removeHandler(handler)


def test_a_constructor_that_fails_leaves_nothing_open_that_a_call_from_a_close_has_opened(server: FakeServer) -> None:
    class Pool(pgpool_rs.ThreadedConnectionPool):
        def __init__(self, *args: Any) -> None:
            server.on("close", self.maintain_once)
            super().__init__(*args)

        def maintain_once(self, _: object) -> None:
            server.on("close", lambda _: None)
            self.maintain()

    server.fail("connect", None, ValueError("the second connect"))
    with pytest.raises(ValueError, match="the second connect"):
        Pool(2, 4)
    assert server.open == 0


class Deaf(psycopg2.OperationalError):
    def __str__(self) -> str:
        raise KeyboardInterrupt("in a text")


@pytest.mark.parametrize("act", ["drain", "check", "maintain", "resize"])
def test_an_interrupt_that_was_kept_back_is_not_raised_in_a_later_call_of_another_pool(
    server: FakeServer, act: str
) -> None:
    pool = pgpool_rs.ThreadedConnectionPool(2, 2, check=server.check)
    for call in ("check", "close"):
        server.fail(call, Deaf(), KeyboardInterrupt("direct"))
    with pytest.raises(KeyboardInterrupt) if act != "maintain" else nullcontext():
        pool.resize(0, 0) if act == "resize" else getattr(pool, act)()
    server.calm()
    other = pgpool_rs.ThreadedConnectionPool(1, 1)
    other.putconn(other.getconn())
    assert other.get_stats()["requests_errors"] == 0
