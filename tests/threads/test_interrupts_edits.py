"""An interrupt that strikes while a waiter is woken is raised by the call that wakes, whichever it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pgpool_rs import PoolError, ThreadedConnectionPool, _housekeeper
from pgpool_rs.testing import FakeServer
from tests.lib.waits import Task, wait_for_waiters, wait_until


class StruckLock:
    """A lock whose release works, and is struck by an interrupt; only in the thread that made it."""

    strikes: threading.Thread | None = None

    def __init__(self) -> None:
        self._lock = threading._allocate_lock()  # type: ignore[attr-defined]

    def acquire(self, *args: Any) -> bool:
        return bool(self._lock.acquire(*args))

    def release(self) -> None:
        self._lock.release()
        if StruckLock.strikes is threading.current_thread():
            raise KeyboardInterrupt


Edit = Callable[[Any, Any], object]


def set_attribute(name: str, value: object) -> Edit:
    return lambda pool, _: setattr(pool, name, value)


# Each frees a slot, or ends a wait, while somebody waits for one of a pool's two connections, both of which are lent.
EDITS: dict[str, Edit] = {
    "maxconn": set_attribute("maxconn", 3),
    "resize": lambda pool, _: pool.resize(0, 3),
    "closed": set_attribute("closed", True),
    "closeall": lambda pool, _: pool.closeall(),
    "putconn": lambda pool, lent: pool.putconn(lent),
    "putconn, closing": lambda pool, lent: pool.putconn(lent, close=True),
    "del _used[k]": lambda pool, _: pool._used.__delitem__("key"),
    "_used.pop": lambda pool, _: pool._used.pop("key"),
    "_used.clear": lambda pool, _: pool._used.clear(),
    "del _rused[i]": lambda pool, lent: pool._rused.__delitem__(id(lent)),
    "_used = {}": set_attribute("_used", {}),
    "__init__": lambda pool, _: pool.__init__(0, 2),
    "__exit__": lambda pool, _: pool.__exit__(None, None, None),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_interrupt_is_raised_by_the_edit_that_wakes(
    server: FakeServer, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: Any = ThreadedConnectionPool(0, 2, timeout=None)
    other: Any = ThreadedConnectionPool(1, 1)
    lent = pool.getconn("key")
    pool.getconn()
    real_lock = threading.Lock

    def wait() -> Any:
        monkeypatch.setattr(threading, "Lock", StruckLock)
        return pool.getconn("another")

    waiter = Task(wait)
    wait_for_waiters(pool, 1)
    monkeypatch.setattr(threading, "Lock", real_lock)
    StruckLock.strikes = threading.current_thread()
    try:
        with pytest.raises(KeyboardInterrupt):
            EDITS[edit](pool, lent)
    finally:
        StruckLock.strikes = None
    # Nothing is left for a later call, of this pool or of another.
    other.putconn(other.getconn("key"), "key")
    assert pool.maxconn in (2, 3)
    pool.get_stats()
    if not waiter.done:
        pool.maxconn = 9
    waiter.wait()
    assert waiter.error is None or isinstance(waiter.error, PoolError)


POKING: dict[str, Edit] = {
    "minconn": set_attribute("minconn", 2),
    "del _pool[0]": lambda pool, _: pool._pool.__delitem__(0),
    "_pool.pop": lambda pool, _: pool._pool.pop(),
    "_pool.clear": lambda pool, _: pool._pool.clear(),
    "_pool = []": set_attribute("_pool", []),
    "_used[k] = c": lambda pool, server: pool._used.__setitem__("key", server.connect()),
    "drain": lambda pool, _: pool.drain(),
    "resize": lambda pool, _: pool.resize(2, 3),
    "maxconn": set_attribute("maxconn", 0),
}


@pytest.mark.parametrize("edit", POKING)
def test_an_interrupt_is_raised_by_the_edit_that_wakes_the_housekeeping(
    server: FakeServer, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: Any = ThreadedConnectionPool(1, 3, max_lifetime=1000, leak_after=0.5 if "k" in edit else None)
    pool.maintain()
    struck: list[object] = []

    def poke(poked: object) -> None:
        struck.append(poked)
        raise KeyboardInterrupt

    monkeypatch.setattr(_housekeeper.housekeeper, "poke", poke)
    raised = False
    try:
        EDIT = POKING[edit]  # noqa: N806
        EDIT(pool, server)
    except KeyboardInterrupt:
        raised = True
    assert raised == bool(struck)
    assert edit != "minconn" or pool.minconn == 2
    monkeypatch.undo()
    pool.get_stats()
    pool.putconn(pool.getconn()) if pool.maxconn else None


def test_an_interrupt_in_one_greenlet_is_not_raised_in_another() -> None:
    pytest.importorskip("gevent")
    from tests.lib.programs import run_program

    run_program("""
from gevent import monkey
monkey.patch_all()
import threading
import gevent
import psycopg2
from pgpool_rs import ThreadedConnectionPool
from pgpool_rs.testing import FakeServer

server = FakeServer()
psycopg2.connect = server.connect
pool = ThreadedConnectionPool(0, 1, timeout=None)
found = []

class Struck:
    Lock = threading.Lock
    def __init__(self):
        self.lock = Struck.Lock()
    def acquire(self, *args):
        return self.lock.acquire(*args)
    def release(self):
        self.lock.release()
        raise KeyboardInterrupt

def wait():
    threading.Lock = Struck
    try:
        pool.getconn("waiter")
    except BaseException as error:
        found.append(("waiter", type(error).__name__))

lent = pool.getconn("key")
waiter = gevent.spawn(wait)
gevent.sleep(0)

def free():
    try:
        pool.putconn(lent, "key", close=True)
    except BaseException as error:
        found.append(("free", type(error).__name__))
    found.append(("later", len(pool.get_stats()) > 0))

def close(connection):
    # Another greenlet's call begins and ends in the midst of this one.
    inner = gevent.spawn(lambda: found.append(("inner", pool.maxconn)))
    inner.join()

server.on("close", close)
freeing = gevent.spawn(free)
freeing.join()
assert ("free", "KeyboardInterrupt") in found and ("inner", 1) in found, found
""")


def test_an_interrupt_of_a_call_is_not_raised_by_a_call_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Measured:
        closed = 0

        def close(self) -> None:
            self.closed = 1

        def __del__(self) -> None:
            within.append(pool.closed)

    def strike(poked: Any) -> None:
        poke(poked)
        if not struck:
            struck.append(None)
            raise KeyboardInterrupt

    struck: list[None] = []
    within: list[bool] = []
    poke = _housekeeper.housekeeper.poke
    connect: Any = Measured
    pool = ThreadedConnectionPool(1, 3, max_idle=60, connect=connect)
    wait_until(lambda: not _housekeeper.housekeeper._house().pokes, "the first visit")
    monkeypatch.setattr(_housekeeper.housekeeper, "poke", strike)
    with pytest.raises(KeyboardInterrupt):
        pool.drain()
    assert False in within
    pool.closeall()
