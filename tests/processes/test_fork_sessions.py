"""After a fork the parent's sessions at a real server live on, transactions included, and the child's are its own."""

from __future__ import annotations

import pytest

from tests.lib.programs import FORKS, run_forking_program

PROLOGUE = """
import collections
import gc
import multiprocessing
import os
import signal
import threading

import psycopg2

from tests.lib.statements import execute
from tests.lib.waits import Task, counts, wait_until
from tests.lib.pools import assert_whole
from pgpool_rs import PoolError, SimpleConnectionPool, ThreadedConnectionPool

def sessions(name):
    # The processes of the server that serve connections of this application_name, with their states.
    observer = psycopg2.connect(dsn)
    with observer.cursor() as cursor:
        cursor.execute("select pid, state from pg_stat_activity where application_name = %s", [name])
        found = dict(cursor.fetchall())
    observer.close()
    return found

def use_own(inherited, name):
    # For a child: its loans must be of sessions that it has opened itself, under a name of its own.
    pool._kwargs["application_name"] = name
    lent = [pool.getconn() for _ in range(pool.maxconn)]
    assert counts(pool)["lent"] == pool.maxconn
    pids = {execute(connection) for connection in lent}
    assert pids == set(sessions(name)) and len(pids) == pool.maxconn
    assert not pids & inherited, "the child was lent its parent's session"
    for connection in lent:
        pool.putconn(connection)
    wait_until(lambda: len(sessions(name)) == pool.minconn, "the close of the child's surplus")
"""


@pytest.fixture
def prologue(request: pytest.FixtureRequest) -> str:
    """Give the beginning of a program: names, the address of the server, and a name for its sessions."""
    address = request.getfixturevalue(getattr(request, "param", "dsn"))
    return f"{PROLOGUE}\ndsn = {address!r}\nname = {request.node.name[-50:]!r}\n"


ENDS = {
    "at once": "os._exit(0)",
    "as programs do": "sys.exit()",
    "after it closed its pool": "pool.closeall(); sys.exit()",
    "after it dropped what it inherited": "del pool, lent, held, in_transaction; gc.collect(); os._exit(0)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("prologue", ["dsn", "tls_dsn"], indirect=True)
@pytest.mark.parametrize(
    # An interpreter that was not told of the fork cannot end in order.
    ("how", "end"),
    [(how, end) for how in FORKS for end in ENDS if how == "os.fork" or "sys.exit" not in ENDS[end]],
)
def test_the_parents_sessions_survive_the_childs_end(prologue: str, how: str, end: str) -> None:
    run_forking_program(f"""{prologue}
pool = ThreadedConnectionPool(2, 3, dsn, application_name=name)
lent, held, in_transaction = pool.getconn(), pool.getconn("held"), pool.getconn()
execute(in_transaction, "create temp table work (n int)")
execute(in_transaction, "insert into work values (7)")
pids = [execute(connection) for connection in (lent, held, in_transaction)]
pool.putconn(lent)
child = FORKS[{how!r}]()
if child == 0:
    try:
        use_own(set(pids), name + "'s child")
    except BaseException:
        import traceback
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    {ENDS[end]}
status = wait_for_end(child)
assert status == {-9 if end == "killed" else 0}, status
wait_until(lambda: sessions(name + "'s child") == {{}}, "the end of the child's sessions")
assert set(sessions(name)) == set(pids)
# The transaction goes on where it was, and commits.
assert execute(in_transaction, "select sum(n) from work") == 7
in_transaction.commit()
assert [execute(connection) for connection in (held, in_transaction)] == pids[1:]
pool.putconn(held)
again = pool.getconn(), pool.getconn()
assert {{execute(connection) for connection in again}} == {{pids[0], pids[1]}}
for connection in (in_transaction, *again):
    pool.putconn(connection)
assert_whole(pool)
pool.closeall()
wait_until(lambda: sessions(name) == {{}}, "the end of the parent's sessions")
""")


@pytest.mark.parametrize("leave", ["pass", "raise ZeroDivisionError", "sys.exit()", "del connection; gc.collect()"])
def test_a_block_that_the_child_leaves_is_committed_by_the_parent_alone(prologue: str, leave: str) -> None:
    run_forking_program(f"""{prologue}
pool = ThreadedConnectionPool(1, 2, dsn, application_name=name)
with pool.connection() as connection:
    execute(connection, "create table if not exists forked (n text)")
child = parent = os.getpid()
try:
    with pool.connection() as connection:
        execute(connection, "insert into forked values ('" + name.replace("'", "''") + "')")
        pid = execute(connection)
        child = os.fork()
        if child == 0:
            {leave}
        else:
            assert wait_for_end(child) == 0
            assert sessions(name) == {{pid: "idle in transaction"}}
            count = f"select count(*) from forked where n = '" + name.replace("'", "''") + "'"
            observer = psycopg2.connect(dsn)
            assert execute(observer, count) == 0, "the child committed"
            observer.close()
            assert execute(connection, count) == 1, "the child rolled back"
except (ZeroDivisionError, SystemExit):
    if child:
        raise
if child == 0:
    use_own({{pid}}, name + "'s child")
    sys.exit()
connection = pool.getconn()
assert (execute(connection), execute(connection, count)) == (pid, 1)
pool.putconn(connection)
""")


def test_a_statement_that_another_thread_runs_at_the_fork_is_answered_in_the_parent(prologue: str) -> None:
    run_forking_program(f"""{prologue}
pool = ThreadedConnectionPool(2, 3, dsn, application_name=name)
observer = psycopg2.connect(dsn)
observer.autocommit = True
execute(observer, "select pg_advisory_lock(77)")
waiting, returned = pool.getconn(), pool.getconn()
pids = [execute(waiting), execute(returned)]
blocked = "select count(*) from pg_locks where not granted and pid = any(array[%d, %d])" % tuple(pids)

def locked(connection):
    execute(connection, "select pg_advisory_lock(77)")
    return execute(connection, "select pg_advisory_unlock(77)::text || 'ed'")

statement = Task(locked, waiting)
other = Task(locked, returned)
wait_until(lambda: execute(observer, blocked) == 2)
# Its rollback waits until the statement has ended.
giving_back = Task(pool.putconn, returned)
wait_until(lambda: counts(pool)["returning"] == 1)

def child():
    use_own(set(pids), name + "'s child")
    gc.collect()

for how in FORKS:
    in_a_child(child, how=how)
execute(observer, "select pg_advisory_unlock(77)")
assert statement.result() == "trueed"
other.wait()
giving_back.result()
assert execute(waiting) == pids[0]
pool.putconn(waiting)
assert_whole(pool)
""")


def test_many_forks_under_real_traffic(prologue: str) -> None:
    run_forking_program(f"""{prologue}
pool = ThreadedConnectionPool(2, 4, dsn, application_name=name, timeout=60)
steady = pool.getconn()
execute(steady, "create temp table work as select 1 as n")
stop, done = [], collections.Counter()

def work(close):
    while not stop:
        connection = pool.getconn()
        assert execute(connection, "select 5") == 5
        pool.putconn(connection, close=close)
        done[close] += 1

threads = [Task(work, close) for close in (True, True, False, False, False)]

def child(number):
    pool._kwargs["application_name"] = f"{{name}}'s {{number}}"
    for _ in range(2):
        lent = [pool.getconn() for _ in range(3)]
        for connection in lent:
            assert execute(connection, "show application_name") == f"{{name}}'s {{number}}"
            pool.putconn(connection)

for number in range(40):
    before = done.copy()
    in_a_child(child, number)
    wait_until(lambda: all(done[close] > before[close] for close in (True, False)), "the parent's traffic")
stop.append(True)
for thread in threads:
    thread.result()
assert execute(steady, "select n from work") == 1
pool.putconn(steady)
assert_whole(pool, timeout=0)
pool.closeall()
wait_until(lambda: sessions(name) == {{}})
""")


def test_multiprocessing_forks_processes_with_pools_of_their_own(prologue: str) -> None:
    run_forking_program(f"""{prologue}
pool = ThreadedConnectionPool(2, 3, dsn, application_name=name)
lent = pool.getconn()
pids = {{execute(lent), *sessions(name)}}
context = multiprocessing.get_context("fork")

def work(_):
    pool._kwargs["application_name"] = f"{{name}}'s {{os.getpid()}}"
    with pool.connection() as connection:
        execute(connection, "select pg_sleep(0.002)")
        return os.getpid(), execute(connection), execute(connection, "show application_name")

with context.Pool(3) as workers:
    answers = workers.map_async(work, range(60), chunksize=1).get(120)
    for process, backend, own in answers:
        assert own == f"{{name}}'s {{process}}"
        assert backend not in pids
    # One session for each process is enough, as it has one thread.
    assert len({{backend for _, backend, _ in answers}}) == len({{process for process, _, _ in answers}})
    workers.close()
    workers.join()
results = context.SimpleQueue()

def run():
    results.put(work(0))
    assert_whole(pool)

process = context.Process(target=run)
process.start()
assert results.get()[1] not in pids
process.join(90)
assert process.exitcode == 0
assert set(sessions(name)) == pids and execute(lent) in pids
pool.putconn(lent)
assert_whole(pool)
""")


def test_a_child_outlives_its_parent(prologue: str) -> None:
    """So programs make daemons of themselves: the parent ends, and closes what it has."""
    run_forking_program(f"""{prologue}
pool = ThreadedConnectionPool(2, 3, dsn, application_name=name)
pids = set(sessions(name))
ready, told = os.pipe()
first = os.fork()
if first == 0:
    os.close(told)
    if os.fork() == 0:
        assert os.read(ready, 1) == b""  # the parent has ended
        with ending_the_child():
            use_own(pids, name + "'s child")
            print("the child has ended well", flush=True)
    os._exit(0)
assert wait_for_end(first) == 0
""").index("the child has ended well")
