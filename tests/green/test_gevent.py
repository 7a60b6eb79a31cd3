"""Greenlets under gevent's monkey-patching, with fake connections. See test_greenlets.py for all else.

Each program runs in a process of its own, since monkey-patching is for ever.
"""

from __future__ import annotations

import pytest

from tests.lib.programs import run_program

PROLOGUE = """
from gevent import monkey
monkey.patch_all()
import gevent
import psycopg2
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import counts
from pgpool_rs import PoolClosed, ThreadedConnectionPool

server = FakeServer()
psycopg2.connect = server.connect

def until(condition):
    with gevent.Timeout(90):
        while not condition():
            gevent.sleep(0)
"""


@pytest.mark.parametrize("made", ["before", "after"])
def test_a_pool_may_be_imported_before_or_after_the_patching(made: str) -> None:
    early = "import pgpool_rs\n" if made == "before" else ""
    run_program(f"""{early}{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
connection = pool.getconn()
waiter = gevent.spawn(pool.getconn, timeout=None)
until(lambda: counts(pool)["waiting"] == 1)
pool.putconn(connection)
assert waiter.get(timeout=90) is connection
""")


def test_connects_of_greenlets_run_at_the_same_time_and_keep_the_limit() -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(0, 4, timeout=None)
gate = server.hold("connect")
greenlets = [gevent.spawn(pool.getconn) for _ in range(6)]
until(lambda: gate.arrived == 4 and counts(pool)["waiting"] == 2)
gate.release()
until(lambda: counts(pool)["lent"] == 4)
for _ in range(6):
    done = next(greenlet for greenlet in greenlets if greenlet.ready())
    greenlets.remove(done)
    pool.putconn(done.value)
    gevent.sleep(0)
    gevent.sleep(0)
assert server.peak == 4
assert_whole(pool, timeout=0)
""")


def test_closeall_wakes_waiting_greenlets() -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
pool.getconn()
waiters = [gevent.spawn(pool.getconn, timeout=None) for _ in range(3)]
until(lambda: counts(pool)["waiting"] == 3)
pool.closeall()
for waiter in waiters:
    waiter.join(90)
    assert isinstance(waiter.exception, PoolClosed), waiter
""")
