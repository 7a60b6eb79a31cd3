"""What is done to open a connection and to each new one: every outcome, by every way, and no slot is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolError, PoolTimeout, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.callbacks import SPOILS, STRONG_FAILURES, Callback, gated
from tests.lib.log import listening
from tests.lib.pools import (
    BORROWS,
    assert_balanced,
    assert_sound,
    assert_whole,
    borrow,
    closes,
    emptied,
    give_back,
    lend,
)
from tests.lib.waits import Task, counts, held, wait_for_waiters


@pytest.fixture
def configure() -> Callback:
    return Callback()


# --- configure -------------------------------------------------------------------------------------------------------


REFILLS: dict[str, Callable[[Any], object]] = {
    "maintain": lambda pool: pool.maintain(),
    "check": lambda pool: pool.check(),
    "drain": lambda pool: pool.drain(),
}


def test_configure_is_called_once_with_each_new_connection_before_anybody_has_it(
    server: FakeServer, our_class: Any, configure: Callback
) -> None:
    pool = our_class(2, 3, configure=configure)
    assert configure.calls == list(pool._pool)
    for _ in range(3):
        lent = lend(pool, 3)
        give_back(pool, lent)
    assert configure.calls == server.connections
    assert_sound(pool, server)


def test_what_configure_returns_is_ignored(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, configure=lambda _: object())
    assert pool.getconn().serial == 1


def test_configure_may_use_a_transaction_that_it_ends(server: FakeServer, our_class: Any) -> None:
    def configure(connection: Any) -> None:
        connection.cursor().execute("SET search_path TO shop")
        connection.commit()

    pool = our_class(1, 1, configure=configure)
    assert (pool._pool[0].queries, server.calls("commit")) == (["SET search_path TO shop"], [1])


@pytest.mark.parametrize("way", BORROWS)
@pytest.mark.parametrize("spoil", SPOILS)
def test_where_configure_fails_the_connect_has_failed(
    server: FakeServer, our_class: Any, configure: Callback, way: str, spoil: str
) -> None:
    act, error = SPOILS[spoil]
    pool = emptied(our_class(1, 2, configure=configure))
    before = pool.pop_stats()
    assert before["connections_errors"] == 0
    configure.then(act)
    text = None if error else "connection discarded: configure left it (in a transaction|broken|closed)"
    with pytest.raises(error or psycopg2.ProgrammingError, match=text):
        BORROWS[way](pool)
    assert (server.open, counts(pool)["lent"]) == (0, 0)
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["connections_errors"], stats["requests_errors"]) == (1, 1, 1)
    assert closes(pool) == {}, "it was never the pool's"
    assert_sound(pool, server)


@pytest.mark.parametrize("way", REFILLS)
@pytest.mark.parametrize("spoil", SPOILS)
def test_where_configure_fails_in_a_refill_that_is_logged(
    server: FakeServer, our_class: Any, configure: Callback, way: str, spoil: str
) -> None:
    act, _ = SPOILS[spoil]
    pool = emptied(our_class(1, 2, configure=configure, name="refilled"))
    configure.then(act)
    with listening("refilled") as log:
        REFILLS[way](pool)
    assert [text for text in log.texts if text.startswith("connect failed: ")]
    assert server.open == 0
    pool.maintain()
    assert_sound(pool, server)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("outcome", SPOILS)
def test_where_configure_fails_there_is_no_pool_and_no_connection(
    server: FakeServer, our_class: Any, configure: Callback, workers: int, outcome: str
) -> None:
    act, error = SPOILS[outcome]
    configure.then(lambda _: None)
    configure.then(act)
    with pytest.raises(error or psycopg2.ProgrammingError):
        our_class(3, 3, configure=configure, open_workers=workers)
    assert server.open == 0


@pytest.mark.parametrize("way", [*BORROWS, *REFILLS])
def test_configure_may_close_the_pool(server: FakeServer, our_class: Any, configure: Callback, way: str) -> None:
    pool = emptied(our_class(1, 2, configure=configure))
    configure.then(lambda _: pool.closeall())
    if way in BORROWS:
        with pytest.raises(PoolClosed):
            BORROWS[way](pool)
    else:
        REFILLS[way](pool)
    assert (server.open, closes(pool)) == (0, {"requested": 1, "unplaced": 1})
    assert_balanced(pool, server)


def test_configure_that_asks_for_its_own_key_is_refused_and_does_not_hang(
    server: FakeServer, our_class: Any, configure: Callback
) -> None:
    pool = our_class(0, 2, configure=configure)
    configure.then(lambda _: pool.getconn("key"))
    with pytest.raises(PoolError, match="opening"):
        pool.getconn("key")
    assert_sound(pool, server)


def test_others_borrow_while_configure_takes_its_time(server: FakeServer, our_class: Any, configure: Callback) -> None:
    pool = our_class(1, 3, configure=configure)
    first = pool.getconn()
    with held(gated(configure), pool.getconn) as opening:
        second = pool.getconn()
        with pytest.raises(PoolError, match="exhausted"):
            pool.getconn()
        pool.putconn(first)
    pool.putconn(second)
    pool.putconn(opening.result())
    assert_sound(pool, server)


@pytest.mark.parametrize("outcome", [*SPOILS, *STRONG_FAILURES])
@pytest.mark.parametrize("key", [None, "key"])
def test_a_waiter_gets_the_room_of_a_connection_whose_configure_failed(
    server: FakeServer, configure: Callback, outcome: str, key: object
) -> None:
    act, _ = {**SPOILS, **STRONG_FAILURES}[outcome]
    pool: Any = ThreadedConnectionPool(0, 1, configure=configure)
    with held(gated(configure, act), pool.getconn, key) as opening:
        waiter = Task(pool.getconn, key, timeout=None)
        wait_for_waiters(pool, 1)
    opening.wait()
    assert opening.error is not None
    pool.putconn(waiter.result(), key)
    assert_sound(pool, server)


def test_a_pool_that_is_closed_during_configure_closes_the_connection_too(
    server: FakeServer, our_class: Any, configure: Callback
) -> None:
    pool = our_class(0, 1, configure=configure)
    with held(gated(configure), pool.getconn) as opening:
        pool.closeall()
    with pytest.raises(PoolClosed):
        opening.result()
    assert (server.open, closes(pool)) == (0, {"unplaced": 1})
    assert_balanced(pool, server)


# --- connect ---------------------------------------------------------------------------------------------------------


class Connector:
    """Connects to the fake server; does something else first, if it was told to."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.before = Callback()
        self.arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.arguments.append((args, kwargs))
        self.before(None)
        return self.server.connect(*args, **kwargs)


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> Connector:
    """Give what connects in place of psycopg2.connect, which must not be called."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("psycopg2.connect was called")

    monkeypatch.setattr(psycopg2, "connect", refuse)
    return Connector(FakeServer())


def test_connect_is_called_with_the_arguments_that_were_meant_for_psycopg2(
    connector: Connector, our_class: Any
) -> None:
    pool = our_class(1, 2, "dsn", connect=connector, user="u", minsize=3)
    pool.getconn()
    pool.getconn()
    assert connector.arguments == [(("dsn",), {"user": "u", "minsize": 3})] * 2


def test_a_connect_that_fetches_fresh_credentials_gives_them_to_psycopg2(server: FakeServer, our_class: Any) -> None:
    tokens = iter(["t1", "t2"])

    def connect(*args: Any, **kwargs: Any) -> Any:
        return psycopg2.connect(*args, password=next(tokens), **kwargs)

    pool = our_class(1, 2, connect=connect, user="u")
    pool.getconn()
    pool.getconn()
    assert [kwargs for _, kwargs in server.arguments] == [
        {"user": "u", "password": "t1"},
        {"user": "u", "password": "t2"},
    ]


def test_connect_and_configure_work_together(connector: Connector, our_class: Any, configure: Callback) -> None:
    pool = our_class(1, 1, connect=connector, configure=configure)
    assert configure.calls == list(pool._pool)


def test_a_connect_that_takes_its_time_holds_up_nobody_else(connector: Connector) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, connect=connector)
    with gated(connector.before) as gate:
        first = pool.getconn()
        opening = Task(pool.getconn)
        gate.wait_for()
        pool.putconn(first)
        borrow(pool)
        first = pool.getconn()
        with pytest.raises(PoolTimeout, match="opening 1"):
            pool.getconn(timeout=0.01)
    pool.putconn(opening.result())
    pool.putconn(first)
    assert_sound(pool, connector.server)


# --- arguments that change -------------------------------------------------------------------------------------------


def test_arguments_that_change_between_connects_take_effect(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 4, "dsn", password="old")
    pool._kwargs["password"] = "new"
    lent = lend(pool, 2)
    pool._kwargs = {"user": "other"}
    lent.append(pool.getconn())
    pool._args = ("elsewhere",)
    lent.append(pool.getconn())
    assert server.arguments == [
        (("dsn",), {"password": "old"}),
        (("dsn",), {"password": "new"}),
        (("dsn",), {"user": "other"}),
        (("elsewhere",), {"user": "other"}),
    ]


def test_a_connect_gets_a_copy_of_the_arguments(server: FakeServer, our_class: Any) -> None:
    def connect(*_: Any, **kwargs: Any) -> Any:
        kwargs.clear()
        return server.connect()

    pool = our_class(1, 1, connect=connect, password="old")
    assert pool._kwargs == {"password": "old"}


def test_arguments_may_change_as_a_connect_is_made(server: FakeServer, our_class: Any) -> None:
    server.on("connect", lambda _: pool._kwargs.update(password="second"))
    pool = our_class(0, 2, password="first")
    pool.getconn()
    pool.getconn()
    assert [kwargs["password"] for _, kwargs in server.arguments] == ["first", "second"]


def test_after_drain_all_connections_have_the_new_arguments(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2, password="old")
    pool._kwargs["password"] = "new"
    pool.drain()
    assert [kwargs["password"] for _, kwargs in server.arguments] == ["old", "old", "new", "new"]
    assert_whole(pool)
