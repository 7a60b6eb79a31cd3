"""A real Ctrl-C reaches a main thread that waits, and a process ends although threads wait.

Each program runs in a process of its own: should the signal not get through, that process hangs and not these tests.
"""

from __future__ import annotations

import pytest

from tests.lib.programs import run_program

PROLOGUE = """
import signal, threading, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
import psycopg2
from pgpool_rs.testing import FakeServer
from tests.lib.waits import Task, counts, wait_for_waiters, wait_until
from tests.lib.pools import assert_whole
from pgpool_rs import PoolTimeout, ThreadedConnectionPool

server = FakeServer()
psycopg2.connect = server.connect
main = threading.main_thread().ident

def interrupt_once_it_waits(pool):
    wait_for_waiters(pool, 1)
    # CPython's lock does not see a signal that comes after it has released the GIL and before it sleeps.
    stat = Path(f"/proc/self/task/{threading.main_thread().native_id}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", "sleep")
    signal.pthread_kill(main, signal.SIGINT)
"""


@pytest.mark.parametrize("timeout", ["None", "1000"])
@pytest.mark.parametrize("key", ["None", "'key'"])
def test_ctrl_c_reaches_a_waiting_main_thread_at_once(timeout: str, key: str) -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
connection = pool.getconn()
task = Task(interrupt_once_it_waits, pool)
try:
    pool.getconn({key}, timeout={timeout})
except KeyboardInterrupt:
    pass
else:
    raise SystemExit("not interrupted")
task.result()
assert counts(pool)["waiting"] == 0
pool.putconn(connection)
assert_whole(pool)
""")


def test_ctrl_c_reaches_a_main_thread_that_waits_for_its_key_to_be_opened_by_another() -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(0, 2)
gate = server.hold("connect")
opener = Task(pool.getconn, "key")
gate.wait_for()
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
try:
    pool.getconn("key")
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0)
else:
    raise SystemExit("not interrupted")
gate.release()
pool.putconn(opener.result())
assert_whole(pool)
""")


def test_a_signal_whose_handler_returns_does_not_end_the_wait() -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
connection = pool.getconn()
handled = threading.Event()
signal.signal(signal.SIGINT, lambda *_: handled.set())

def disturb():
    interrupt_once_it_waits(pool)
    assert handled.wait(10)
    assert counts(pool)["waiting"] == 1
    pool.putconn(connection)

task = Task(disturb)
assert pool.getconn(timeout=None) is connection
task.result()
pool.putconn(connection)
assert_whole(pool)
""")


def test_a_signal_handler_may_use_the_pool_that_is_waited_for() -> None:
    run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
connection = pool.getconn()
signal.signal(signal.SIGINT, lambda *_: pool.putconn(connection))
task = Task(interrupt_once_it_waits, pool)
assert pool.getconn(timeout=None) is connection
task.result()
pool.putconn(connection)
assert_whole(pool)
""")


def test_a_storm_of_interrupts_loses_no_slot() -> None:
    run_program(f"""{PROLOGUE}
class Interrupt(BaseException):
    pass

def interrupt(*_):
    raise Interrupt

pool = ThreadedConnectionPool(1, 2)
signal.signal(signal.SIGALRM, interrupt)
helpers_go = threading.Event()

def traffic():
    while not helpers_go.is_set():
        try:
            pool.putconn(pool.getconn(timeout=0.001))
        except PoolTimeout:
            pass

helpers = [Task(traffic) for _ in range(3)]
interrupts = 0
deadline = time.monotonic() + 90
while interrupts < 300 and time.monotonic() < deadline:
    # An interrupt may come when getconn has lent and before its result has a name, so the loan is looked up by key.
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00001 * (interrupts % 50))
        while True:
            connection = pool.getconn("mine", timeout=None)
            connection.status = 2
            pool.putconn(connection)
    except Interrupt:
        interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    held = pool._used.get("mine")
    if held is not None:
        pool.putconn(held)
assert interrupts == 300, interrupts
helpers_go.set()
for helper in helpers:
    helper.result()
assert_whole(pool)
""")


def test_a_process_ends_and_prints_nothing_although_daemon_threads_wait_for_connections() -> None:
    output = run_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
pool.getconn()
tasks = [Task(pool.getconn, timeout=None) for _ in range(5)]
wait_for_waiters(pool, 5)
""")
    assert output == ""
