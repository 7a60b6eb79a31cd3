"""A listener is told what happens, once, by the call in which it happened, and harms nobody."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from pgpool_rs import Listener, PoolTimeout, ThreadedConnectionPool
from pgpool_rs._core import advance_clock
from pgpool_rs._listener import EVENTS
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.callbacks import Killed, raiser
from tests.lib.pools import assert_sound, give_back, lend
from tests.lib.waits import held, waiting_task

DOWN = psycopg2.OperationalError("down")


class Ear:
    """Notes all that it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.pools: set[int] = set()
        self.threads: set[int] = set()

    def __getattr__(self, event: str) -> Any:
        if event not in EVENTS:
            raise AttributeError(event)

        def note(pool: Any, value: Any) -> None:
            self.heard.append((event, value))
            self.pools.add(id(pool))
            self.threads.add(threading.get_ident())

        return note

    def take(self) -> list[str]:
        """Name what was heard since it was asked last; a reason with its event."""
        heard, self.heard = self.heard, []
        return [f"{event} {value}" if event == "closed" else event for event, value in heard]

    def counts(self) -> Counter[str]:
        """Count what was heard, each close under its reason."""
        heard = Counter(f"closed_{value}" if event == "closed" else event for event, value in self.heard)
        return +heard


@pytest.fixture
def ear() -> Ear:
    return Ear()


def test_a_listener_is_told_each_step_in_order(server: FakeServer, our_class: Any, ear: Ear) -> None:
    pool = our_class(1, 2, listener=ear)
    assert ear.take() == ["connected"]
    connection = pool.getconn()
    assert ear.take() == ["borrowed"]
    pool.putconn(connection)
    assert ear.take() == ["returned"]
    lent = lend(pool, 2)
    assert ear.take() == ["borrowed", "connected", "borrowed"]
    lent[0].status = INTRANS
    give_back(pool, lent)
    assert ear.take() == ["returned", "returned", "closed surplus"]
    with pool.connection():
        assert ear.take() == ["borrowed"]
    assert ear.take() == ["returned"]
    connection = pool.getconn()
    connection.set_closed(2)
    pool.putconn(connection)
    assert ear.take() == ["borrowed", "returned", "closed lost"]
    server.fail("connect", DOWN)
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    assert ear.heard == [("connect_failed", DOWN)]
    ear.take()
    pool.getconn()
    pool.closeall()
    assert ear.take() == ["connected", "borrowed", "closed with_pool"]
    assert ear.pools == {id(pool)}
    assert ear.threads == {threading.get_ident()}


def test_times_are_told_in_seconds(server: FakeServer, ear: Ear) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, listener=ear)
    with held(server.hold("connect"), pool.getconn) as opening:
        pass
    connection = opening.result()
    advance_clock(100)
    waiter = waiting_task(pool)
    pool.putconn(connection)
    assert waiter.result() is connection
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.001)
    heard = ear.heard
    assert [event for event, _ in heard[:3]] == ["connected", "borrowed", "returned"]
    connected, borrowed, returned, waited, timed_out = (value for _, value in heard)
    assert 0 < connected <= borrowed < 100 <= returned < 1000
    assert waited > 0
    assert timed_out >= 0.001


def test_an_idle_connection_takes_no_time(server: FakeServer, our_class: Any, ear: Ear) -> None:
    pool = our_class(1, 1, listener=ear)
    ear.take()
    pool.getconn()
    assert ear.heard == [("borrowed", 0.0)]


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checks": {"check": lambda _: None, "check_after": 0},
    "resets": {"reset": "discard"},
    "reports leaks": {"leak_after": 1e6},
    "reclaims": {"reclaim": True},
    "keeps all": {"max_idle": None},
    "background": {"background": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_told_is_what_is_counted(server: FakeServer, our_class: Any, ear: Ear, way: str) -> None:
    pool = our_class(1, 3, listener=ear, **WAYS[way])
    for number in range(20):
        lent = lend(pool, 2)
        lent[0].status = INTRANS if number % 3 else 0
        if number % 5 == 0:
            lent[1].set_closed(1 + number % 2)
        pool.putconn(lent[0], close=number % 7 == 0)
        pool.putconn(lent[1])
        with pool.connection("key"):
            pass
        if number % 4 == 0:
            pool.drain()
            lent = [pool.getconn()]
            server.fail("connect", DOWN)
            with pytest.raises(psycopg2.OperationalError):
                pool.getconn()
            give_back(pool, lent)
        if number == 10:
            pool.drain()
    pool.maintain()
    pool.closeall()
    stats, counts = pool.get_stats(), ear.counts()
    assert counts.pop("connected") == stats["connections_num"] - stats["connections_errors"]
    assert counts.pop("connect_failed", 0) == stats["connections_errors"]
    assert counts.pop("borrowed") == stats["requests_num"] - stats["requests_errors"]
    assert counts.pop("returned") == pool.get_histograms()["use"].count
    assert counts == {name: number for name, number in stats.items() if name.startswith("closed_") and number}


@pytest.mark.parametrize("way", WAYS)
def test_so_is_it_with_connections_that_come_back_clean_without_a_look_in_python(
    dsn: str, our_class: Any, ear: Ear, way: str
) -> None:
    pool = our_class(1, 2, dsn, listener=ear, **WAYS[way])
    for _ in range(3):
        pool.putconn(pool.getconn())
        pool.putconn(pool.getconn("key"), "key")
        with pool.connection():
            pass
        with pool.connection("key") as connection:
            connection.cursor().execute("select 1")
    pool.closeall()
    counts, histograms = ear.counts(), pool.get_histograms()
    assert counts["borrowed"] == histograms["wait"].count == 12
    assert counts["returned"] == histograms["use"].count == 12


def test_a_forgotten_connection_is_told_by_the_next_call(server: FakeServer, ear: Ear) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, listener=ear, reclaim=True)
    server.keep = False
    del server.connections[:]
    pool.getconn()
    ear.take()
    gc.collect()
    assert ear.take() == []
    connection = pool.getconn()
    assert ear.take()[:1] == ["closed reclaimed"]
    pool.putconn(connection)


def test_a_listener_may_have_some_of_the_methods(server: FakeServer, our_class: Any) -> None:
    uses: list[float] = []
    pool = our_class(1, 1, listener=SimpleNamespace(returned=lambda _, use: uses.append(use)))
    for _ in range(3):
        pool.putconn(pool.getconn())
    assert len(uses) == 3


def test_what_a_subclass_of_listener_leaves_out_is_not_called(server: FakeServer, our_class: Any) -> None:
    class Closes(Listener):
        def __init__(self) -> None:
            self.reasons: list[str] = []

        def closed(self, _pool: object, reason: str, /) -> None:
            self.reasons.append(reason)

    listener = Closes()
    pool = our_class(0, 1, listener=listener)
    pool.putconn(pool.getconn())
    assert listener.reasons == ["surplus"]


@pytest.mark.parametrize("event", EVENTS)
def test_one_that_raises_is_logged_and_harms_nobody(
    server: FakeServer, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = SimpleNamespace(**{event: raiser(ValueError("odd"))})
    pool: Any = ThreadedConnectionPool(0, 1, name="ear", listener=listener)
    server.fail("connect", DOWN, None)
    with pytest.raises(psycopg2.OperationalError, match="down"):
        pool.getconn()
    connection = pool.getconn()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.001)
    pool.putconn(connection)
    (line,) = (vars(line) for line in caplog.records if vars(line).get("event") == "listener_failed")
    assert "ValueError: odd" in line["message"]
    assert (line["name"], line["reason"], line["levelname"]) == ("pgpool_rs.ear", "ValueError", "WARNING")
    assert_sound(pool, server)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), Killed()], ids=lambda error: type(error).__name__)
def test_an_interrupt_of_a_listener_is_raised_and_the_loan_that_it_struck_is_taken_back(
    server: FakeServer, our_class: Any, error: BaseException
) -> None:
    acts = [raiser(error)]
    pool = our_class(1, 1, listener=SimpleNamespace(borrowed=lambda *_: acts.pop()() if acts else None))
    with pytest.raises(type(error)):
        pool.getconn()
    assert pool.get_stats()["pool_lent"] == 0
    pool.putconn(pool.getconn())
    assert_sound(pool, server)


def test_a_listener_may_call_the_pool_and_cannot_hang(server: FakeServer) -> None:
    heard: list[str] = []
    pool: Any

    def borrowed(pool: Any, _wait: float) -> None:
        # All are lent: a call that waited would wait for its own thread.
        with pytest.raises(psycopg2.pool.PoolError):
            pool.getconn(timeout=60)
        heard.append(f"lent {pool.get_stats()['pool_lent']}")

    def returned(pool: Any, _use: float) -> None:
        with pool.connection():
            heard.append("lent again")

    pool = ThreadedConnectionPool(1, 1, listener=SimpleNamespace(borrowed=borrowed, returned=returned))
    pool.putconn(pool.getconn())
    assert heard == ["lent 1", "lent again"]
    assert_sound(pool, server)


def test_a_waiter_has_told_what_it_did_before_it_waits(server: FakeServer, ear: Ear) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, listener=ear, check=raiser(DOWN), check_after=0)
    ear.take()
    with held(server.hold("connect"), pool.getconn) as first:
        waiter = waiting_task(pool)
    pool.putconn(first.result())
    pool.putconn(waiter.result())
    assert sorted(set(ear.take())) == ["borrowed", "closed lost", "connected", "returned"]


def test_a_pool_does_not_keep_itself_alive_by_its_listener(server: FakeServer) -> None:
    class Keeper(Listener):
        pool: Any = None

        def borrowed(self, pool: Any, _wait: float, /) -> None:
            self.pool = pool

    pool: Any = ThreadedConnectionPool(1, 1, listener=Keeper())
    pool.putconn(pool.getconn())
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("value", [1, "host=db password=secret", object(), Listener, Ear, SimpleNamespace(closed=1)])
def test_what_hears_nothing_is_refused(our_class: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=r"^listener must be an object with some of the methods connected, ") as raised:
        our_class(0, 1, listener=value)
    assert "secret" not in str(raised.value)
