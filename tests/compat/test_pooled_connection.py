"""The Protocol of what `connect=` may return: a pool works with exactly that, and type checkers are told the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgpool_rs import PooledConnection
from pgpool_rs._protocol import TransactionInfo
from tests.lib.pools import closes
from tests.lib.waits import Task, counts

IDLE, INTRANS = 0, 2


class Strict:
    """Has the members of a Protocol and nothing else: any other look-up is noted."""

    def __init__(self, protocol: type, members: dict[str, Any], others: set[str]) -> None:
        self.__dict__.update(members, _others=others)
        assert {name for name in vars(protocol) if not name.startswith("_")} == set(members)

    def __getattr__(self, name: str) -> Any:
        self._others.add(name)
        raise AttributeError(name)


# What the pool may ask in addition, and does without.
OPTIONAL = {"async_", "autocommit", "cursor", "fileno", "parameter_status", "poll", "status"}


class Opened:
    """Opens connections that are as small as may be."""

    def __init__(self) -> None:
        self.others: set[str] = set()
        self.calls: list[str] = []
        self.connections: list[Any] = []

    def __call__(self) -> Any:
        def act(name: str, **change: int) -> Any:
            def do() -> None:
                self.calls.append(name)
                info.__dict__.update(transaction_status=IDLE)
                connection.__dict__.update(change)

            return do

        info = Strict(TransactionInfo, {"transaction_status": IDLE}, self.others)
        members = {"commit": act("commit"), "rollback": act("rollback"), "close": act("close", closed=1)}
        connection = Strict(PooledConnection, {**members, "closed": 0, "info": info}, self.others)
        self.connections.append(connection)
        return connection


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"background": True, "leak_after": 60, "max_idle": 60, "max_lifetime": 600},
        {"check_after": 0, "reclaim": True, "configure": lambda _: None, "reset": lambda _: None},
        {"check": lambda _: None, "check_after": 0, "open": False},
    ],
)
def test_a_pool_asks_nothing_else_and_works(our_class: Any, options: Any) -> None:
    opened = Opened()
    pool = our_class(1, 2, connect=opened, **options)
    pool.open()
    for key in (None, "key"):
        connection = pool.getconn(key)
        connection.info.__dict__["transaction_status"] = INTRANS
        pool.putconn(connection, key)
        pool.check()
        assert (opened.calls.pop(), counts(pool)["lent"]) == ("rollback", 0)
    with pool.connection() as connection:
        connection.info.__dict__["transaction_status"] = INTRANS
    assert opened.calls == ["commit"]
    with pytest.raises(ZeroDivisionError), pool.connection() as connection:
        raise ZeroDivisionError
    assert opened.calls == ["commit", "rollback"]
    lent = [pool.getconn(), pool.getconn()]
    pool.putconn(lent.pop(), close=True)
    pool.drain()
    pool.loans()
    pool.maintain()
    closer = Task(pool.close, 60)
    pool.putconn(lent.pop())
    assert closer.result() == 0
    assert all(connection.closed == 1 for connection in opened.connections)
    assert opened.others <= OPTIONAL


def test_what_it_finds_broken_or_closed_it_drops(our_class: Any) -> None:
    opened = Opened()
    pool = our_class(0, 1, connect=opened, max_idle=None)
    for change in ({"closed": 2}, {"closed": 1}):
        connection = pool.getconn()
        connection.__dict__.update(change)
        pool.putconn(connection)
    connection = pool.getconn()
    connection.info.__dict__["transaction_status"] = 4
    pool.putconn(connection)
    assert (counts(pool)["idle"], closes(pool)) == (0, {"lost": 2, "by_borrower": 1})


PROGRAM = """
from dataclasses import dataclass, field

import psycopg2
from pgpool_rs import PooledConnection, ThreadedConnectionPool, pools
from pgpool_rs.testing import FakeServer

@dataclass
class Info:
    transaction_status: int = 0

@dataclass
class Minimal:
    closed: int = 0
    info: Info = field(default_factory=Info)

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...

class Unable:
    closed = 0

def own() -> PooledConnection:
    return Minimal()

def psycopg2s(dsn: str) -> PooledConnection:
    return psycopg2.connect(dsn)

def unable() -> Unable:
    return Unable()

pool = ThreadedConnectionPool(0, 2, connect=own, open=False)
pool.open()
left: int = pool.close(timeout=5)
name: str = pool.options["name"]
print([pool.closed for pool in pools()], pool.options)
ThreadedConnectionPool(0, 1, connect=Minimal)
ThreadedConnectionPool(0, 1, connect=psycopg2s)
ThreadedConnectionPool(0, 1, connect=psycopg2.connect)
ThreadedConnectionPool(0, 1, connect=FakeServer().connect)
ThreadedConnectionPool(0, 1, connect=unable)
"""


def test_a_type_checker_takes_what_the_pool_takes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(program)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    errors = [line for line in ran.stdout.splitlines() if "error:" in line]
    last = PROGRAM.count("\n")
    assert len(errors) == 1, ran.stdout + ran.stderr
    assert f"program.py:{last}: error: " in errors[0]
    assert '"connect"' in errors[0]
