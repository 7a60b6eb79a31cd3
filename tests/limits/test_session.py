from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgpool_rs._limits import session
from tests.lib.postgres import admin
from tests.lib.statements import execute


def test_a_closed_session_is_gone_from_the_server(dsn: str, request: pytest.FixtureRequest) -> None:
    name = request.node.name[:60]
    with admin(dsn) as observer:
        for _ in range(30):
            session.close(psycopg2.connect(dsn, application_name=name))
            question = "select count(*) from pg_stat_activity where application_name = %s"
            assert execute(observer, question, [name]) == 0


class Odd:
    def __init__(self, answer: Any) -> None:
        self.answer, self.closed = answer, 0

    def fileno(self) -> Any:
        return self.answer

    def close(self) -> None:
        self.closed += 1


def test_what_has_no_socket_is_closed_all_the_same() -> None:
    with Path(os.devnull).open() as file:
        for answer in (-1, None, "1", file.fileno()):
            session.close(odd := Odd(answer))
            assert odd.closed == 1
    session.close(double := type("Double", (), {"close": lambda self: None})())
    assert double


def test_an_error_of_the_close_is_raised_and_leaves_no_descriptor(dsn: str) -> None:
    class Failing(psycopg2.extensions.connection):
        def close(self) -> None:
            super().close()
            raise KeyboardInterrupt

    connection = psycopg2.connect(dsn, connection_factory=Failing)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(KeyboardInterrupt):
        session.close(connection)
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
