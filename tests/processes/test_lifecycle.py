"""`close()` and `open()` beside a fork, and at the end of a process."""

from __future__ import annotations

import pytest

from tests.lib.programs import FORKS, PROLOGUE, run_forking_program, run_program

EVERY_FORK = pytest.mark.parametrize("how", FORKS)
THREAD = "any(thread.name == 'pgpool_rs housekeeping' for thread in threading.enumerate())"


@EVERY_FORK
def test_a_pool_that_is_not_open_is_opened_by_the_child_alone(how: str) -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(2, 3, open=False, max_idle=60, background=True)
assert threading.active_count() == 1

def child():
    mine = other_server()
    assert_refused(pool.getconn, error=PoolClosed)
    pool.open()
    assert mine.open == 2
    assert_whole(pool)
    pool.close()
    assert mine.open == 0

for _ in range(2):
    in_a_child(child, how={how!r})
assert_refused(pool.getconn, error=PoolClosed)
assert (server.open, threading.active_count()) == (0, 1)
""")


@EVERY_FORK
def test_the_child_of_a_closed_pool_accepts_what_the_parent_lent_and_touches_nothing(how: str) -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(2, 4, max_idle=60)
lent, keyed, other = pool.getconn(), pool.getconn("key"), pool.getconn()
block = pool.connection()
block.__enter__()
assert pool.close() == 4
before = list(server.log)

def child():
    mine = other_server()
    assert pool.closed and (pool.close(), pool.close(timeout=60)) == (0, 0)
    assert_refused(pool.getconn, error=PoolClosed)
    assert_refused(pool.open, error=PoolClosed)
    pool.putconn(lent)
    pool.putconn(None, "key")
    block.__exit__(None, None, None)
    assert_refused(pool.putconn, lent, error=PoolClosed)
    gc.collect()
    assert (mine.opened, server.log) == (0, before)

in_a_child(child, how={how!r})
assert (pool.close(), server.open, server.log) == (4, 4, before)
for connection in (lent, keyed, other):
    pool.putconn(connection)
block.__exit__(None, None, None)
assert (pool.close(timeout=60), server.open) == (0, 0)
""")


def test_a_child_that_closes_its_pool_leaves_its_parents_open() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(2, 3, max_idle=60)
lent = pool.getconn()

def child():
    mine = other_server()
    pool.putconn(pool.getconn())
    assert pool.close(timeout=60) == 0
    assert (mine.open, server.open) == (0, 2)

in_a_child(child)
pool.putconn(lent)
assert_whole(pool)
""")


def test_a_fork_while_another_thread_waits_in_close_leaves_the_child_a_closed_pool() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 1)
lent = pool.getconn()
closer = Task(pool.close, 60)
wait_until(lambda: pool.closed)

def child():
    assert (pool.closed, pool.close(timeout=60)) == (True, 0)
    pool.putconn(lent)

in_a_child(child)
pool.putconn(lent)
assert closer.result() == 0
""")


@pytest.mark.parametrize("end", ["pool.close", "functools.partial(pool.close, timeout=0.01)"])
def test_close_at_the_end_of_a_process_closes_what_is_idle_and_keeps_nothing_waiting(end: str) -> None:
    output = run_program(f"""{PROLOGUE}
import atexit
import functools

pool = ThreadedConnectionPool(3, 4, background=True, max_idle=60, leak_after=60)
lent = pool.getconn()
atexit.register(lambda: print("open", server.open, flush=True))
atexit.register({end})
threading.Thread(target=pool.getconn, daemon=True, kwargs={{"timeout": None}}).start()
""")
    # The connection that the thread has may come before the close, or not.
    assert output in {"open 1\n", "open 2\n"}


def test_a_pool_that_is_never_opened_or_never_closed_ends_with_its_process() -> None:
    assert (
        run_program(f"""{PROLOGUE}
unopened = ThreadedConnectionPool(3, 4, open=False, background=True)
unclosed = ThreadedConnectionPool(3, 4, open=False, background=True)
unclosed.open()
lent = unclosed.getconn()
""")
        == ""
    )


def test_the_housekeeping_thread_ends_with_the_last_pool_that_needs_it_and_begins_anew() -> None:
    run_program(f"""{PROLOGUE}
for close in ("close", "closeall"):
    pools = [ThreadedConnectionPool(1, 2, max_idle=60) for _ in range(2)]
    assert {THREAD}
    getattr(pools[0], close)()
    pools[1].maintain()
    pools[1].putconn(pools[1].getconn())
    assert {THREAD}
    getattr(pools[1], close)()
    wait_until(lambda: not {THREAD}, "the end of the thread")
    getattr(ThreadedConnectionPool(1, 2), close)()
    assert not {THREAD}
pool = ThreadedConnectionPool(1, 2, background=True)
connection = pool.getconn()
connection.status = INTRANS
pool.putconn(connection)
wait_until(lambda: counts(pool)["idle"] == 1)
pool.close()
wait_until(lambda: not {THREAD}, "the end of the thread")
pool.closed = False
connection = pool.getconn()
connection.status = INTRANS
pool.putconn(connection)
wait_until(lambda: counts(pool)["returning"] == 0)
""")
