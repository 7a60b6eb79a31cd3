"""After a fork the housekeeping goes on in the parent, and is begun anew in the child."""

from __future__ import annotations

import pytest

from tests.lib import programs
from tests.lib.programs import FORKS, run_forking_program

PROLOGUE = f"""{programs.PROLOGUE}
def lend_all(pool, status=0):
    # Lends all there may be, and takes them back.
    lent = [pool.getconn() for _ in range(pool.maxconn)]
    for connection in lent:
        connection.status = status
        pool.putconn(connection)

def wait_until_kept(pool, idle):
    # The housekeeping has been there: the surplus is closed, what was dirty is clean.
    wait_until(lambda: pool.get_stats()["pool_size"] == idle and counts(pool)["idle"] == idle, "the housekeeping")
"""
# A fork in C must not come upon a thread that is just waking up: such a fork is CPython's to lose. With this option
# alone the housekeeping sleeps until something comes back.
SLEEPING = "background=True"
EVERY_FORK = pytest.mark.parametrize("how", FORKS)


@EVERY_FORK
@pytest.mark.parametrize("pool", ["SimpleConnectionPool", "ThreadedConnectionPool"])
def test_the_surplus_is_closed_in_parent_child_and_grandchild(pool: str, how: str) -> None:
    """A fork in C leaves Python believing that the parent's threads run in the child too."""
    option = "max_idle=0.02" if how == "os.fork" else SLEEPING
    run_forking_program(f"""{PROLOGUE}
pool = {pool}(1, 4, {option})
lend_all(pool)
wait_until_kept(pool, 1)

def child(depth):
    mine = other_server()
    lend_all(pool)
    wait_until_kept(pool, 1)
    assert mine.open == 1
    if depth:
        in_a_child(child, depth - 1, how={how!r})
        lend_all(pool)
        wait_until_kept(pool, 1)
        assert mine.open == 1

for _ in range(3):
    lend_all(pool)  # so that the housekeeping is awake, or soon will be
    in_a_child(child, 2, how={how!r})
    wait_until_kept(pool, 1)
    assert server.open == 1
""")


@EVERY_FORK
def test_a_background_rollback_is_finished_by_the_parent_and_never_begun_by_the_child(how: str) -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 3, timeout=90, background=True)
dirty = [pool.getconn() for _ in range(3)]
gate = server.hold("rollback")
for connection in dirty:
    connection.status = INTRANS
    pool.putconn(connection)
gate.wait_for()  # one is being rolled back, the others stand behind it
before = list(server.log)

def child():
    mine = other_server()
    assert counts(pool)["returning"] == 0
    lend_all(pool, INTRANS)
    wait_until_kept(pool, 1)
    assert len(mine.calls("rollback")) >= 1
    assert mine.open == 1
    assert_whole(pool, timeout=0)
    assert server.log == before and all(connection.transaction_status == INTRANS for connection in dirty)

in_a_child(child, how={how!r})
gate.release()
wait_until_kept(pool, 1)
assert len(server.calls("rollback")) >= 1
assert server.open == 1
lend_all(pool, INTRANS)
wait_until_kept(pool, 1)
assert_whole(pool, timeout=0)
""")


@EVERY_FORK
def test_pools_that_the_child_does_not_use_are_left_alone_there(how: str) -> None:
    option = "max_idle=0.01" if how == "os.fork" else SLEEPING
    run_forking_program(f"""{PROLOGUE}
pools = [ThreadedConnectionPool(1, 3, timeout=90, {option}) for _ in range(3)]
lent = [pool.getconn() for pool in pools]
before = list(server.log)

def child():
    mine = other_server()
    lend_all(pools[0])
    wait_until_kept(pools[0], 1)
    new = ThreadedConnectionPool(0, 3, {option})
    lend_all(new)
    wait_until_kept(new, 0)
    assert [counts(pool)["idle"] for pool in pools] == [1, 0, 0]
    assert mine.open == 1
    assert server.log == before

in_a_child(child, how={how!r})
for pool, connection in zip(pools, lent):
    pool.putconn(connection)
    lend_all(pool)
    wait_until_kept(pool, 1)
""")


def test_a_refill_that_the_parent_waits_for_is_not_the_childs() -> None:
    """The parent's housekeeping is connecting at the fork."""
    run_forking_program(f"""{PROLOGUE}
logging.getLogger("pgpool_rs").setLevel(logging.CRITICAL)
pool = ThreadedConnectionPool(2, 3, timeout=90, max_idle=None)
gate = server.hold("connect")
connection = pool.getconn()
pool.putconn(connection, close=True)
gate.wait_for()
before = list(server.log)

def child():
    mine = other_server()
    wait_until(lambda: counts(pool)["opening"] == 0)  # The child's own housekeeping may be opening one.
    assert_whole(pool, timeout=0)
    assert mine.peak == 3
    assert server.log == before

for how in FORKS:
    in_a_child(child, how=how)
gate.release()
wait_until(lambda: counts(pool)["idle"] == 2)
assert_whole(pool, timeout=0)
""")


def test_a_loan_of_the_parent_is_no_leak_of_the_child() -> None:
    run_forking_program(f"""{PROLOGUE}
records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger("pgpool_rs").addHandler(handler)
pool = ThreadedConnectionPool(1, 3, leak_after=0.05)
lent = pool.getconn()

def child():
    del records[:]
    other_server()
    own = pool.getconn()
    wait_until(lambda: pool.get_stats()["leaks"] == 1, "the leak")
    assert [loan.key for loan in pool.loans()] == list(pool._used)
    pool.putconn(own)
    assert pool.get_stats()["leaks"] == 1
    assert pool.loans() == []

in_a_child(child)
wait_until(lambda: pool.get_stats()["leaks"] == 1, "the leak")
pool.putconn(lent)
""")


def test_a_child_with_housekeeping_ends_as_programs_do_and_says_nothing() -> None:
    output = run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 4, timeout=90, max_idle=0.01, background=True)
lend_all(pool, INTRANS)
for _ in range(3):
    child = os.fork()
    if child == 0:
        other_server()
        lend_all(pool, INTRANS)
        break
    assert wait_for_end(child) == 0
""")
    assert output == ""


def test_forks_while_the_housekeeping_is_busy() -> None:
    run_forking_program(f"""{PROLOGUE}
sys.setswitchinterval(1e-5)
logging.getLogger("pgpool_rs").setLevel(logging.CRITICAL)
pools = [ThreadedConnectionPool(1, 4, timeout=90, max_idle=0.0005, background=True) for _ in range(4)]
stop = []

def work(pool):
    while not stop:
        lend_all(pool, INTRANS)

threads = [Task(work, pool) for pool in pools]

def child():
    mine = other_server()
    for pool in pools:
        lend_all(pool, INTRANS)
    for pool in pools:
        wait_until_kept(pool, 1)
    assert mine.open == 4

for _ in range(60):
    in_a_child(child)
stop.append(True)
for thread in threads:
    thread.result()
for pool in pools:
    wait_until_kept(pool, 1)
assert server.open == 4
""")
