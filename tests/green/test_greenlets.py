"""Greenlets of gevent and eventlet on a real server, with and without psycogreen, interrupted at every moment.

With psycogreen's wait callback all that waits for the server lets the other greenlets run: connecting, asking,
checking, committing, rolling back. Without it only waiting for a connection does. Each program runs in a process of
its own, since monkey-patching is for ever. See test_gevent.py for fake connections and gevent alone.
"""

from __future__ import annotations

import pytest

from tests.lib.programs import run_forking_program, run_program

PROLOGUE = """
from tests.lib import green
loop = green.patch({library!r}, psycogreen={psycogreen})
import gc
import logging
import os
import signal

import psycopg2

import pgpool_rs
from pgpool_rs.testing import INTRANS, PATIENCE, FakeServer
from tests.lib.green import Green
from pgpool_rs import PoolError, PoolTimeout, ThreadedConnectionPool
from tests.lib.pools import assert_whole
from tests.lib.statements import execute
from tests.lib.waits import counts

dsn, name = {dsn!r}, {name!r}
logging.getLogger("pgpool_rs").addHandler(logging.NullHandler())
logging.getLogger("pgpool_rs").propagate = False

observer = psycopg2.connect(dsn)
observer.autocommit = True

def sessions():
    return execute(observer, f"select count(*) from pg_stat_activity where application_name = '{{name}}'")

def busy(pool):
    return [counts(pool)[what] for what in ("lent", "opening", "returning", "waiting")]

def assert_balanced(pool):
    # Nothing is out, every connection that was opened is there or was closed, and the server agrees.
    loop.until(lambda: busy(pool) == [0, 0, 0, 0], f"rest: {{pool}}")
    numbers = pool.get_stats()
    closed = sum(number for reason, number in numbers.items() if reason.startswith("closed_"))
    assert numbers["connections_num"] - numbers["connections_errors"] == numbers["pool_size"] + closed, numbers
    assert numbers["pool_size"] == counts(pool)["idle"] <= pool.maxconn
    if sessions() != counts(pool)["idle"]:
        gc.collect()
        loop.until(lambda: sessions() == counts(pool)["idle"], f"the end of all sessions but those of {{pool}}")

def assert_whole_again(pool):
    # What is missing is opened, and what the housekeeping is at is done.
    pool.wait(90)
    loop.until(lambda: busy(pool) == [0, 0, 0, 0], f"rest: {{pool}}")
    assert_whole(pool, timeout=0)
"""
LIBRARIES = ("gevent", "eventlet")


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    """Give each library."""
    name: str = request.param
    return name


@pytest.fixture
def green(request: pytest.FixtureRequest, library: str, dsn: str) -> str:
    """Give the beginning of a program: a library, with psycogreen."""
    return PROLOGUE.format(library=library, psycogreen=True, dsn=dsn, name=request.node.name[-60:])


@pytest.fixture
def blocking(request: pytest.FixtureRequest, library: str, dsn: str) -> str:
    """Give the beginning of a program: a library, and a driver that blocks."""
    return PROLOGUE.format(library=library, psycogreen=False, dsn=dsn, name=request.node.name[-60:])


@pytest.fixture(params=["green", "blocking"])
def either(request: pytest.FixtureRequest, green: str, blocking: str) -> str:
    """Give both."""
    return {"green": green, "blocking": blocking}[request.param]


# --- What yields ------------------------------------------------------------------------------------------------------


def test_a_close_that_waits_lets_the_others_run_and_may_be_interrupted(either: str) -> None:
    run_program(f"""{either}
pool = ThreadedConnectionPool(1, 2, dsn, application_name=name, timeout=PATIENCE)

def work():
    with pool.connection() as connection:
        loop.until(lambda: pool.closed, "the close")
        return execute(connection, "select 1")

for how in green.INTERRUPTIONS:
    pool = ThreadedConnectionPool(1, 2, dsn, application_name=name, timeout=PATIENCE)
    held = pool.getconn()
    closer = Green(loop, lambda: pool.close(timeout=PATIENCE))
    loop.until(lambda: pool.closed, "the close")
    loop.interrupt(closer, how)
    loop.until(lambda: closer.done, "the end of the wait")
    assert pool.closed and counts(pool)["lent"] == 1
    workers = [Green(loop, lambda: pool.close(timeout=PATIENCE)) for _ in range(3)]
    loop.sleep(0.01)
    assert not any(worker.done for worker in workers)
    pool.putconn(held)
    assert [worker.result() for worker in workers] == [0] * 3

pool = ThreadedConnectionPool(1, 2, dsn, application_name=name, timeout=PATIENCE)
workers = [Green(loop, work) for _ in range(2)]
loop.until(lambda: counts(pool)["lent"] == 2, "the loans")
assert pool.close(timeout=PATIENCE) == 0
assert [worker.result() for worker in workers] == [1, 1]
loop.until(lambda: sessions() == 0, "the end of all sessions")
""")


def test_greenlets_that_wait_let_the_others_run_though_the_driver_blocks(blocking: str) -> None:
    run_program(f"""{blocking}
pool = ThreadedConnectionPool(0, 2, dsn, application_name=name, timeout=PATIENCE)
most = 0

def work():
    global most
    total = 0
    for _ in range(5):
        with pool.connection() as connection:
            most = max(most, counts(pool)["waiting"])
            total += execute(connection, "select 1")
            loop.sleep(0.0002)
    return total

workers = [Green(loop, work) for _ in range(12)]
assert [worker.result() for worker in workers] == [5] * 12
assert most == 10
assert_whole(pool, timeout=0)
""")


def test_a_waiting_greenlet_times_out_while_the_others_run(either: str) -> None:
    run_program(f"""{either}
pool = ThreadedConnectionPool(1, 1, dsn, application_name=name)
connection = pool.getconn()
waiters = [Green(loop, lambda: pool.getconn(timeout=0.02)) for _ in range(5)]
loop.until(lambda: counts(pool)["waiting"] == 5)
loop.until(lambda: all(waiter.done for waiter in waiters))
assert all(isinstance(waiter.error, PoolTimeout) for waiter in waiters)
patient = Green(loop, lambda: pool.getconn(timeout=None))
loop.until(lambda: counts(pool)["waiting"] == 1)
pool.putconn(connection)
assert patient.result() is connection
pool.putconn(connection)
assert_whole(pool)
""")


def test_a_connect_lets_the_others_run(green: str) -> None:
    run_program(f"""{green}
pool = ThreadedConnectionPool(1, 3, dsn, application_name=name)
pool._kwargs["options"] = "-c post_auth_delay=1"
pool.putconn(first := pool.getconn())
lent = pool.getconn()
slow = [Green(loop, pool.getconn) for _ in range(2)]
loop.until(lambda: counts(pool)["opening"] == 2 or any(other.done for other in slow))
pool.putconn(lent)
rounds = 0
while not any(other.done for other in slow):
    with pool.connection() as connection:
        assert connection is first
        execute(connection)
    rounds += 1
    loop.sleep(0)
assert rounds > 10
for other in slow:
    pool.putconn(other.result())
assert_whole(pool)
""")


HELD_UP = {
    "rollback": ("", "pool.putconn(held)"),
    "rollback in a block": ("", "with pool.connection() as held:\n  hold(held); raise ZeroDivisionError"),
    "commit": ("", "with pool.connection() as held:\n  hold(held)"),
    "reset": ("reset=lambda connection: execute(connection)", "pool.putconn(held)"),
    "check": ("check=pgpool_rs.check_query, check_after=0", "pool.putconn(pool.getconn())"),
    "check of all": ("check=pgpool_rs.check_query, check_after=0", "pool.check()"),
    "configure": ("configure=configure", "pool.putconn(pool.getconn())"),
}


@pytest.mark.parametrize("call", HELD_UP)
def test_a_call_that_waits_for_the_server_lets_the_others_run(green: str, call: str) -> None:
    """The server's process for that one connection is stopped, and goes on when the others have had their turn."""
    options, action = HELD_UP[call]
    run_program(f"""{green}
stopped = []

def hold(connection):
    # Begins a transaction and stops the server's process.
    stopped.append(execute(connection))
    os.kill(stopped[0], signal.SIGSTOP)

def configure(connection):
    if armed:
        armed.clear()
        hold(connection)
        connection.rollback()

armed = []
pool = ThreadedConnectionPool(0, 3, dsn, application_name=name, max_idle=None, {options})
others = ThreadedConnectionPool(0, 1, dsn, application_name=name, max_idle=None)
try:
    if {call!r} in ("rollback", "reset"):
        held = pool.getconn()
        hold(held)
    elif {call!r} in ("check", "check of all"):
        idle = pool.getconn()
        pid = execute(idle)
        pool.putconn(idle)
        stopped.append(pid)
        os.kill(pid, signal.SIGSTOP)
    armed.append(True)

    def act():
        exec({action!r}, globals())

    acting = Green(loop, act)
    loop.until(lambda: stopped or acting.done)
    for _ in range(20):
        with others.connection() as connection:
            execute(connection)
        if {call!r} == "rollback":
            pool.putconn(pool.getconn())
        loop.sleep(0.0005)
    assert not acting.done, acting.error
    assert sum(busy(pool)) == {0 if call == "check of all" else 1} or {call!r} == "check of all"
finally:
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
try:
    acting.result()
except ZeroDivisionError:
    assert {call!r} == "rollback in a block"
assert_whole(pool)
""")


# --- Interrupted at every moment ------------------------------------------------------------------------------------

CALLS = {
    "a block": "with pool.connection() as connection:\n  execute(connection)",
    "a block that fails": """
try:
    with pool.connection() as connection:
        execute(connection)
        execute(connection, 'select 1 / 0')
except psycopg2.Error:
    pass
""",
    "a loan returned in a transaction": """
connection = pool.getconn()
try:
    execute(connection)
finally:
    pool.putconn(connection)
""",
    "a loan with a key": """
connection = pool.getconn("key")
try:
    execute(connection)
finally:
    pool.putconn(connection, "key")
""",
    "a loan closed on return": """
connection = pool.getconn()
try:
    execute(connection)
finally:
    pool.putconn(connection, close=True)
""",
    "two loans": """
with pool.connection() as one, pool.connection() as other:
    execute(one)
    execute(other)
""",
    "a check of all": "pool.check()",
    "maintenance": "pool.maintain()",
    "a wait for the first connections": "pool.wait(90)",
    "a resize and a drain": "pool.resize(0, 2); pool.drain(); pool.resize(2, 3)",
}
# What a pool must do in a call, so that there is something to interrupt.
SETTINGS = {
    "with all that can be asked for": (
        "check=pgpool_rs.check_query, check_after=0, max_idle=None, configure=prepare, reset=prepare"
    ),
    "in the background": "max_idle=0.001, max_lifetime=0.05, background=True, leak_after=0.001, reclaim=True",
    "with no option": "",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_greenlet_interrupted_at_any_moment_of_a_call_loses_no_slot(green: str, setting: str) -> None:
    """It is killed, then ended by a Timeout, the first time it waits for anything, the second, and so on to the end."""
    run_program(
        f"""{green}
def prepare(connection):
    execute(connection, "select 1")
    connection.rollback()

pool = ThreadedConnectionPool(2, 3, dsn, application_name=name, timeout=90, {SETTINGS[setting]})

for what, call in {CALLS!r}.items():
    print(what, flush=True)
    begun = ended = 0

    def act():
        global begun, ended
        begun += 1
        exec(call, globals(), {{}})
        ended += 1

    def check():
        assert_balanced(pool)
        # Every other time there is nothing idle, so that the call has to connect.
        if begun % 2:
            while counts(pool)["idle"]:
                pool.putconn(pool.getconn(), close=True)

    hits = loop.sweep(act, check) + loop.sprinkle(act, check, 30, 0.004)
    print(hits, "interruptions", flush=True)
    assert ended and begun - ended <= hits, (begun, ended, hits)
    assert_whole_again(pool)
    assert_balanced(pool)
""",
    )


def test_a_waiting_greenlet_interrupted_at_any_moment_hands_on_what_it_was_promised(either: str) -> None:
    """Others wait behind it and must be served: with a connection, or with room to open one."""
    # With a driver that blocks it can be interrupted while it waits, and at no later moment.
    least = 12 if "psycogreen=True" in either else 4
    run_program(f"""{either}
pool = ThreadedConnectionPool(1, 1, dsn, application_name=name, timeout=90, max_idle=None)
rounds = served = 0

def wait():
    connection = pool.getconn()
    try:
        execute(connection)
    finally:
        pool.putconn(connection)

for how in green.INTERRUPTIONS:
    for close in (False, True):
        for moment in range(8):
            connection = pool.getconn()
            victim = Green(loop, wait)
            loop.until(lambda: counts(pool)["waiting"] == 1)
            patient = [Green(loop, wait) for _ in range(2)]
            loop.until(lambda: counts(pool)["waiting"] == 3)
            # Before the return, at once after it, or some turns of the loop later.
            if moment == 0:
                loop.interrupt(victim, how)
                loop.until(lambda: victim.done)
            pool.putconn(connection, close=close)
            for _ in range(moment - 1):
                loop.sleep(0.0001 if moment % 2 else 0)
            loop.interrupt(victim, how)
            loop.until(lambda: victim.done)
            for other in patient:
                other.result()
            rounds += victim.was_interrupted
            served += not victim.was_interrupted
            assert victim.was_interrupted or victim.error is None
            assert_balanced(pool)
assert rounds >= {least}, rounds
assert_whole(pool, timeout=0)
""")


def test_a_crowd_of_greenlets_that_are_killed_and_timed_out_loses_no_slot(green: str) -> None:
    run_program(f"""{green}
import random
chance = random.Random(11)
pool = ThreadedConnectionPool(
    1, 3, dsn, application_name=name, timeout=None, max_idle=0.01, background=True,
    check=pgpool_rs.check_query, check_after=0.001,
)
done = hit = 0

def work():
    global done, hit
    while not stop:
        try:
            with loop.limit(chance.choice([0.001, 0.003, 0.01, 5])):
                with pool.connection() as connection:
                    assert execute(connection, "select 5") == 5
                    if chance.random() < 0.3:
                        execute(connection, "select pg_sleep(0.001)")
            done += 1
        except loop.interruptions[1]:
            hit += 1

stop = []
greenlets = [Green(loop, work) for _ in range(8)]
for _ in range(300):
    loop.sleep(0.0005)
    victim = chance.randrange(8)
    loop.interrupt(greenlets[victim], "kill")
    loop.until(lambda: greenlets[victim].done)
    assert greenlets[victim].was_interrupted, greenlets[victim].error
    greenlets[victim] = Green(loop, work)
stop.append(True)
for greenlet in greenlets:
    greenlet.result()
assert done and hit, (done, hit)
assert_balanced(pool)
assert_whole_again(pool)
""")


YIELDING = ["check", "configure", "reset", "connect option", "connect", "rollback", "commit", "close", "status"]


@pytest.mark.parametrize("call", ["a block", "a block that fails", "a loan closed on return", "a check of all"])
def test_a_callback_that_yields_may_be_interrupted_without_psycogreen(blocking: str, call: str) -> None:
    """Somebody's own callable sleeps or asks another service, which yields whatever the driver does."""
    run_program(f"""{blocking}
sessions = lambda: server.open
execute = lambda connection, query="": connection.cursor().execute(query)

def pause(connection=None):
    loop.sleep(0.0001)

def connect(*args, **kwargs):
    pause()
    return server.connect()

def act():
    global begun
    begun += 1
    exec({CALLS[call]!r}, globals(), {{}})

def check():
    assert_balanced(pool)
    assert server.peak <= 2
    if begun % 2:
        while counts(pool)["idle"]:
            pool.putconn(pool.getconn(), close=True)

hits = 0
for yields in {YIELDING!r}:
    print(yields, flush=True)
    server = FakeServer()
    psycopg2.connect = server.connect
    options = {{}}
    if yields == "connect option":
        options["connect"] = connect
    elif yields in ("check", "configure", "reset"):
        options[yields] = pause
    else:
        server.on(yields, pause)
    pool = ThreadedConnectionPool(1, 2, timeout=90, check_after=0, **options)
    for begun in (0, 1):
        hits += loop.sweep(act, check)
    assert_whole(pool, timeout=0)
assert hits > 0
""")


# --- Housekeeping, forks --------------------------------------------------------------------------------------------


def test_the_housekeeping_runs_beside_the_greenlets(either: str) -> None:
    run_program(f"""{either}
import threading
pool = ThreadedConnectionPool(1, 4, dsn, application_name=name, max_idle=0.02, background=True)
for _ in range(3):
    lent = [pool.getconn() for _ in range(4)]
    for connection in lent:
        execute(connection)
    for connection in lent:
        pool.putconn(connection)
    loop.until(lambda: counts(pool)["idle"] == 1 and sessions() == 1, "the housekeeping")
    assert_balanced(pool)
assert_whole(pool)
""")


@pytest.mark.parametrize("psycogreen", [False, True], ids=["blocking", "green"])
def test_a_fork_copies_greenlets_that_wait_and_that_hold_and_harms_neither_process(psycogreen: bool, dsn: str) -> None:
    """The copies in the child know only the parent's pool: they are given nothing, and take nothing away."""
    prologue = PROLOGUE.format(library="gevent", psycogreen=psycogreen, dsn=dsn, name="gevent fork")
    run_forking_program(f"""{prologue}
parent = os.getpid()
pool = ThreadedConnectionPool(1, 2, dsn, application_name=name, max_idle=None, background=True)
holding, leave = [], []

def hold():
    with pool.connection() as connection:
        pid = execute(connection)
        holding.append(pid)
        loop.until(lambda: leave)
        return execute(connection) == pid if os.getpid() == parent else None

def wait(timeout):
    connection = pool.getconn(timeout=timeout)
    assert os.getpid() == parent or execute(connection, "show application_name") == "the child"
    pool.putconn(connection)
    return True

holders = [Green(loop, hold) for _ in range(2)]
# A copy of a greenlet that is asking the server would read its answer from the parent's socket.
loop.until(lambda: len(holding) == 2)
waiters = [Green(loop, wait, timeout) for timeout in (None, 0.3, None, 0.3)]
loop.until(lambda: counts(pool)["waiting"] == 4)
child = os.fork()
if child == 0:
    status = 1
    try:
        pool._kwargs["application_name"] = "the child"
        for _ in range(3):
            lent = [pool.getconn(timeout=90), pool.getconn(timeout=90)]
            assert [execute(connection, "show application_name") for connection in lent] == ["the child"] * 2
            for connection in lent:
                pool.putconn(connection)
            loop.sleep(0.01)
        leave.append(True)
        loop.until(lambda: all(holder.done for holder in holders))
        loop.until(lambda: waiters[1].done and waiters[3].done)
        for waiter in waiters:
            assert waiter.error is None or isinstance(waiter.error, PoolError), waiter.error
        assert_whole_again(pool)
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
assert wait_for_end(child) == 0
leave.append(True)
assert [holder.result() for holder in holders] == [True, True]
assert waiters[0].result() and waiters[2].result()
assert_balanced(pool)
assert_whole_again(pool)
""")
