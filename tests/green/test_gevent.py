"""Greenlets under gevent's monkey-patching: they wait without stopping the loop, and a killed one loses no slot.

Each program runs in a process of its own, since monkey-patching is for ever.
"""

from __future__ import annotations

import pytest

from tests.lib.programs import run_program

PROLOGUE = """
import warnings
from gevent import monkey
monkey.patch_all()
import gevent
import gevent.event
import psycopg2
from pgpool_rs.testing import FakeServer, INTRANS
from tests.lib.pools import assert_whole
from tests.lib.waits import counts
from pgpool_rs import PoolClosed, PoolTimeout, ThreadedConnectionPool

server = FakeServer()
psycopg2.connect = server.connect

def until(condition):
    with gevent.Timeout(90):
        while not condition():
            gevent.sleep(0)
"""


def test_a_waiting_greenlet_lets_the_others_run() -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1, timeout=None)
connection = pool.getconn()
waiters = [gevent.spawn(pool.getconn) for _ in range(3)]
until(lambda: counts(pool)["waiting"] == 3)
ticks = 0
for _ in range(100):
    gevent.sleep(0)
    ticks += 1
assert not any(waiter.ready() for waiter in waiters)
for waiter in waiters:
    pool.putconn(connection)
    assert waiter.get(timeout=90) is connection
pool.putconn(connection)
assert_whole(pool, timeout=0)
""")


def test_a_waiting_greenlets_timeout_ends() -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1, timeout=0.05)
connection = pool.getconn()
waiter = gevent.spawn(pool.getconn)
try:
    waiter.get(timeout=90)
except PoolTimeout:
    pass
else:
    raise SystemExit("lent twice")
pool.putconn(connection)
assert_whole(pool, timeout=0)
""")


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


@pytest.mark.parametrize("end", ["kill", "timeout", "promised"])
def test_a_greenlet_that_is_killed_while_it_waits_loses_no_slot(end: str) -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
connection = pool.getconn()

def wait():
    if "{end}" != "timeout":
        return pool.getconn(timeout=None)
    with gevent.Timeout(0.05, False):
        return pool.getconn(timeout=None)

waiter = gevent.spawn(wait)
until(lambda: counts(pool)["waiting"] == 1)
patient = gevent.spawn(pool.getconn, timeout=None)
until(lambda: counts(pool)["waiting"] == 2)
if "{end}" == "promised":
    # Promised and killed in one go, before the greenlet can run.
    pool.putconn(connection)
    waiter.kill(block=False)
    waiter.join(90)
elif "{end}" == "kill":
    waiter.kill(timeout=90)
    assert counts(pool)["waiting"] == 1
    pool.putconn(connection)
else:
    waiter.join(90)
    assert counts(pool)["waiting"] == 1
    pool.putconn(connection)
lent = waiter.value
if lent is not None and not isinstance(lent, gevent.GreenletExit):
    pool.putconn(lent)
pool.putconn(patient.get(timeout=90))
assert_whole(pool)
""")


@pytest.mark.parametrize("call", ["connect", "rollback", "close"])
def test_a_greenlet_that_is_killed_in_a_call_loses_no_slot(call: str) -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 2)
connection = pool.getconn()
connection.status = INTRANS
gate = server.hold("{call}")
if "{call}" == "connect":
    greenlet = gevent.spawn(pool.getconn)
else:
    greenlet = gevent.spawn(pool.putconn, connection, None, "{call}" == "close")
until(lambda: gate.arrived == 1)
# The others go on meanwhile.
assert counts(pool)["{"opening" if call == "connect" else "returning"}"] == 1
greenlet.kill(timeout=90)
server.calm()
for left in list(pool._used.values()):
    pool.putconn(left)
assert_whole(pool)
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


def test_a_storm_of_killed_greenlets_loses_no_slot() -> None:
    run_program(f"""{PROLOGUE}
import random
chance = random.Random(7)
pool = ThreadedConnectionPool(1, 2)
for call in ("connect", "rollback", "close"):
    server.on(call, lambda _: gevent.sleep(0))

def work():
    while True:
        connection = None
        try:
            connection = pool.getconn(timeout=None)
            gevent.sleep(0)
            connection.status = chance.choice([0, 2])
        finally:
            if connection is not None:
                pool.putconn(connection, close=chance.random() < 0.2)

greenlets = [gevent.spawn(work) for _ in range(6)]
for _ in range(300):
    gevent.sleep(0)
    victim = chance.randrange(6)
    greenlets[victim].kill(timeout=90)
    greenlets[victim] = gevent.spawn(work)
gevent.killall(greenlets, timeout=90)
assert server.peak <= 2, server.peak
assert_whole(pool)
""")
