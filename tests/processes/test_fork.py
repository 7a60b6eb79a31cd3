"""A forked child has an empty, working pool, whatever the parent was doing, and its parent's pool notices nothing.

Each program runs in processes of its own. A child puts a fake server of its own in the place of the one it inherited:
the parent's threads, which the child does not have, may have held its lock. What the inherited one has logged tells
whether a word was said on the parent's connections. See test_fork_sessions.py for real ones.
"""

from __future__ import annotations

import pytest

from tests.lib.programs import FORKS, PROLOGUE, run_forking_program

BOTH_CLASSES = pytest.mark.parametrize("pool", ["SimpleConnectionPool", "ThreadedConnectionPool"])
EVERY_FORK = pytest.mark.parametrize("how", FORKS)


@BOTH_CLASSES
@EVERY_FORK
def test_a_child_starts_with_an_empty_pool_and_says_nothing_to_its_parents_connections(pool: str, how: str) -> None:
    run_forking_program(f"""{PROLOGUE}
pool = {pool}(2, 3)
keyed, lent = pool.getconn("key"), pool.getconn()
keyed.status = INTRANS
pool.putconn(pool.getconn())
before, statistics = list(server.log), pool.get_stats()

def child():
    mine = other_server()
    assert_empty(pool)
    assert (pool.minconn, pool.maxconn, pool.closed) == (2, 3, False)
    connection = pool.getconn("key")
    assert connection is not keyed and connection.server is mine
    pool.putconn(connection)
    assert_whole(pool)
    pool.closeall()
    gc.collect()
    assert mine.open == 0
    assert server.log == before
    assert server.open == 3

in_a_child(child, how={how!r})
after = pool.get_stats()
# The two loans last.
for figure in ["usage_ms", "oldest_loan_ms"]:
    assert after.pop(figure, 0) >= statistics.pop(figure, 0)
assert after == statistics, (after, statistics)
assert dict(pool._used) == {{"key": keyed, pool._rused[id(lent)]: lent}}
assert server.log == before
pool.putconn(lent)
pool.putconn(keyed)
assert_whole(pool)
""")


FIRST_USES = {
    "a loan": "pool.putconn(pool.getconn())",
    "a loan with a key": "pool.putconn(pool.getconn('key'), 'key')",
    "a block": "with pool.connection(): pass",
    "a return": "pool.putconn(lent)",
    "a return by key": "pool.putconn(None, 'key')",
    "a return of nothing": "assert_refused(pool.putconn, None, 'nothing')",
    "repr": "repr(pool)",
    "the idle ones": "assert list(pool._pool) == []",
    "the lent ones": "assert len(pool._used) == 0 and id(lent) not in pool._rused",
    "an idle one put in by hand": "pool._pool.append(pool._connect('new')); pool._used.clear()",
    "a loan struck by hand": "pool._used.clear()",
    "statistics": "assert pool.get_stats()['connections_num'] == 0",
    "statistics taken": "assert pool.pop_stats()['requests_num'] == 0",
    "loans": "assert pool.loans() == []",
    "resize": "pool.resize(1, 5); assert pool.maxconn == 5; pool.resize(2, 4)",
    "a size": "pool.minconn = 1; pool.maxconn = 4",
    "drain": "pool.drain()",
    "check": "pool.check()",
    "maintain": "pool.maintain()",
    "collection": "gc.collect()",
    "closed": "assert not pool.closed",
}


def test_whatever_the_child_does_first_finds_the_pool_empty_and_working() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(2, 4)
keyed, lent = pool.getconn("key"), pool.getconn()
pool.putconn(pool.getconn())
before = list(server.log)

def child(first):
    mine = other_server()
    exec(first)
    assert counts(pool)["lent"] == 0
    for connection in pool._pool:
        assert connection.server is mine
    assert_whole(pool)
    assert mine.peak <= 4
    assert server.log == before

def close_first():
    pool.closeall()
    assert pool.closed
    assert server.log == before

for first in {list(FIRST_USES.values())!r}:
    for how in FORKS:
        print(first, how, flush=True)
        in_a_child(child, first, how=how)
in_a_child(close_first)
assert counts(pool)["lent"] == 2
""")


@pytest.mark.parametrize("arguments", ["lent", "lent, None, True", "keyed, 'key'", "keyed", "None, 'key'"])
def test_what_the_parent_had_lent_may_be_returned_in_the_child_once_and_nothing_happens(arguments: str) -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 3)
lent, keyed = pool.getconn(), pool.getconn("key")
lent.status = keyed.status = INTRANS
before = list(server.log)

def child(first):
    other_server()
    if first == "own":
        pool.putconn(pool.getconn())
    if first == "by a grandchild":
        in_a_child(child, "at once")
    pool.putconn({arguments})
    assert_refused(pool.putconn, {arguments})
    assert (server.log, server.open) == (before, 2)
    assert_whole(pool)

def mistaken():
    other_server()
    assert_refused(pool.putconn, lent, "key")
    assert_refused(pool.putconn, keyed, "another")
    assert_refused(pool.putconn, None, "another")
    own = pool.getconn("key")
    pool.putconn(None, "key")  # its own comes first
    assert_refused(pool.putconn, own)
    pool.putconn(None, "key")
    assert_refused(pool.putconn, keyed)
    pool.closeall()
    assert (server.log, server.open) == (before, 2)

for how in FORKS:
    for first in ("at once", "own", "by a grandchild"):
        in_a_child(child, first, how=how)
    in_a_child(mistaken, how=how)
pool.putconn({arguments})
""")


@BOTH_CLASSES
@EVERY_FORK
def test_a_block_that_was_entered_in_the_parent_does_nothing_when_the_child_leaves_it(pool: str, how: str) -> None:
    run_forking_program(f"""{PROLOGUE}
class GonePrimary(psycopg2.OperationalError):
    pgcode = "25006"

pool = {pool}(1, 2)
block = pool.connection()
connection = block.__enter__()
connection.cursor().execute("insert")
before = list(server.log)

def child(error, used):
    mine = other_server()
    if used:
        with pool.connection() as own:
            assert own is not connection
    if error is None:
        assert not block.__exit__(None, None, None)
    else:
        assert not block.__exit__(type(error), error, None)
    assert (server.log, connection.transaction_status, server.open) == (before, INTRANS, 1)
    assert_whole(pool)
    assert_refused(pool.putconn, connection)
    assert mine.peak <= 2

for error in (None, ValueError("odd"), GonePrimary("read-only"), KeyboardInterrupt()):
    for used in (False, True):
        in_a_child(child, error, used, how={how!r})
assert (server.log, connection.transaction_status) == (before, INTRANS)
block.__exit__(None, None, None)
assert server.log == [*before, ("commit", connection.serial)]
assert_whole(pool)
""")


def test_a_pool_in_full_use_by_other_threads_is_whole_in_the_child() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 5)
lent, returned, closed = pool.getconn(), pool.getconn(), pool.getconn()
returned.status = INTRANS
connecting, rolling_back, closing = (server.hold(call) for call in ("connect", "rollback", "close"))
tasks = [Task(pool.getconn, key) for key in "ab"]
others = [Task(pool.putconn, returned), Task(pool.putconn, closed, close=True)]
connecting.wait_for(2)
rolling_back.wait_for()
closing.wait_for()
waiters = [waiting_task(pool), waiting_task(pool), waiting_task(pool, key="a")]
before = list(server.log)

def child():
    other_server()
    assert_empty(pool)
    pool.putconn(pool.getconn("a"))
    assert_whole(pool)
    assert server.log == before

for how in FORKS:
    in_a_child(child, how=how)
for gate in (connecting, rolling_back, closing):
    gate.release()
for task in others:
    task.result()
for task in (waiters[0], waiters[1]):
    pool.putconn(task.result())
a = tasks[0].result()
assert waiters[2].result() is a
pool.putconn(a)
pool.putconn(tasks[1].result())
pool.putconn(lent)
assert_whole(pool)
""")


def test_a_pool_that_another_thread_was_closing_works_in_no_child_and_hangs_in_none() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(2, 2)
gate = server.hold("close")
closing = Task(pool.closeall)
gate.wait_for()

def child():
    other_server()
    assert pool.closed
    assert_refused(pool.getconn, error=PoolClosed)

in_a_child(child)
gate.release()
closing.result()
in_a_child(child)
assert server.open == 0
""")


TRAFFIC = """
stop = []
seen = dict.fromkeys(("lent", "opening", "returning", "waiting"), 0)

def work(number):
    chance = random.Random(number)
    while not stop:
        action = chance.randrange(8)
        try:
            if action < 4:
                connection = pool.getconn()
                connection.status = chance.choice([0, INTRANS])
                pool.putconn(connection, close=chance.random() < 0.3)
            elif action == 4:
                pool.putconn(pool.getconn(number), number)
            elif action == 5:
                with pool.connection() as connection:
                    connection.cursor().execute("insert")
            elif action == 6:
                repr(pool), list(pool._used), pool.get_stats(), pool.loans()
            else:
                pool.putconn(pool.getconn(timeout=0.0005))
        except PoolTimeout:
            pass
"""


@pytest.mark.parametrize("options", ["", ", max_idle=0.001, leak_after=0.001, background=True"])
def test_many_forks_under_traffic_never_find_a_pool_locked_or_lose_a_slot(options: str) -> None:
    """Threads are opening, returning, closing and waiting at nearly every fork, and the GIL changes hands often."""
    run_forking_program(f"""{PROLOGUE}
logging.getLogger("pgpool_rs").addHandler(logging.NullHandler())
logging.getLogger("pgpool_rs").propagate = False
sys.setswitchinterval(1e-5)
pool = ThreadedConnectionPool(2, 4, timeout=60{options})
{TRAFFIC}
for call in ("connect", "rollback", "commit", "close"):
    server.on(call, lambda _: time.sleep(0.0003))
threads = [Task(work, number) for number in range(8)]

def child():
    mine = other_server()
    assert counts(pool)["lent"] == 0
    keyed = pool.getconn("key")
    for _ in range(3):
        with pool.connection() as connection:
            assert connection.server is mine
    pool.putconn(keyed)
    wait_until(lambda: counts(pool)["returning"] == counts(pool)["opening"] == 0)
    assert_whole(pool, timeout=0)

def look():
    for name in seen:
        seen[name] += counts(pool)[name]
    return all(seen.values())

for _ in range(120):
    in_a_child(child)
    look()
wait_until(look, "all kinds of traffic")
stop.append(True)
for thread in threads:
    thread.result()
wait_until(lambda: counts(pool)["returning"] == counts(pool)["opening"] == 0)
assert_whole(pool, timeout=0)
""")


def test_a_fork_comes_upon_no_first_call_that_is_half_done() -> None:
    """What is set up once, at the first call, must not be left half set up in a child for ever.

    Threads that spin and a short switch interval take the GIL away from the one that makes the first calls wherever it
    lets go of it for a moment. Each round is made in a process that has not called anything yet.
    """
    run_forking_program(f"""{PROLOGUE}
import ctypes
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK: a thread that waits for the GIL asks for it at once
sys.setswitchinterval(1e-6)

def call_all(pool):
    connection = pool.getconn("key")
    connection.status = INTRANS
    pool.putconn(connection)
    pool.putconn(pool.getconn(), close=True)
    with pool.connection(timeout=90) as connection:
        connection.cursor().execute("insert")
    pool.check()
    pool.get_stats(), pool.loans(), repr(pool)
    pool.resize(0, 4)

def call_in_a_child(pool):
    other_server()
    call_all(pool)

def round():
    pool = ThreadedConnectionPool(1, 4, timeout=90, check_after=0, leak_after=60)
    go, done, children = threading.Lock(), [], []
    go.acquire()

    def spin():
        while not done:
            pass

    def call():
        with go:
            try:
                call_all(pool)
            finally:
                done.append(True)

    threads = [Task(spin), Task(spin), Task(call)]
    go.release()
    while not done and len(children) < 20:
        children.append(Child(call_in_a_child, pool))
    for child in children:
        child.wait()
    for thread in threads:
        thread.result()

for _ in range(60):
    in_a_child(round)
""")


def test_a_thread_may_fork_and_its_child_has_threads_of_its_own() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(1, 2, timeout=90)
held = [pool.getconn(), pool.getconn()]
waiter = waiting_task(pool)

def child():
    mine = other_server()
    pool.getconn()
    last = pool.getconn()
    waiters = [waiting_task(pool) for _ in range(3)]
    for waiter in waiters:
        pool.putconn(last)
        assert waiter.result() is last
    assert mine.peak == 2

Task(in_a_child, child).result()
pool.putconn(held[0])
assert waiter.result() is held[0]
""")


@EVERY_FORK
@pytest.mark.parametrize("used", [False, True])
def test_a_grandchild_has_a_pool_of_its_own_whether_or_not_the_child_used_its(used: bool, how: str) -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(2, 3)
lent = pool.getconn()

def grandchild(inherited):
    before = len(inherited.log), list(server.log)
    mine = other_server()
    assert_empty(pool)
    assert_whole(pool)
    pool.closeall()
    assert (len(inherited.log), server.log) == before
    assert mine.open == 0

def child():
    mine = other_server()
    if {used}:
        own = pool.getconn("own")
        pool.putconn(pool.getconn())
    for _ in range(2):
        in_a_child(grandchild, mine, how={how!r})
    if {used}:
        assert pool._used == {{"own": own}}
        pool.putconn(own)
    assert_whole(pool)
    pool.closeall()
    assert (mine.open, server.open) == (0, 2)

for _ in range(2):
    in_a_child(child, how={how!r})
pool.putconn(lent)
assert_whole(pool)
""")


def test_limits_options_and_a_subclasss_own_things_are_kept_in_the_child() -> None:
    run_forking_program(f"""{PROLOGUE}
made = []

class Pool(ThreadedConnectionPool):
    def __init__(self, *args, **kwargs):
        self.mark = "kept"
        super().__init__(*args, **kwargs)

    def _connect(self, key=None):
        made.append(key)
        return super()._connect(key)

configured, returned = [], []
hooks = dict(configure=configured.append, reset=returned.append)
pool = Pool(1, 2, "dsn", user="first", timeout=0.01, max_waiting=1, name="mine", **hooks)
pool.resize(2, 3)
pool._kwargs["user"] = "second"

def child():
    mine = other_server()
    del made[:], configured[:], returned[:]
    assert (pool.mark, pool.name, pool.minconn, pool.maxconn) == ("kept", "mine", 2, 3)
    lent = [pool.getconn(key) for key in "abc"]
    assert made == ["a", "b", "c"] and configured == lent
    assert mine.arguments == [(("dsn",), {{"user": "second"}})] * 3
    assert_refused(pool.getconn, error=PoolTimeout)
    waiter = waiting_task(pool)
    assert_refused(pool.getconn, error=PoolError)
    for connection in lent:
        pool.putconn(connection)
    pool.putconn(waiter.result())
    assert returned[:3] == lent
    assert_whole(pool)

in_a_child(child)
""")


CALLBACKS = {
    "connect": 'server.on("connect", fork_once); pool.getconn()',
    "connect option": "pool.getconn()",
    "configure": "pool.getconn()",
    "check": "pool.getconn()",
    "rollback": 'server.on("rollback", fork_once); pool.putconn(dirty)',
    "reset": "pool.putconn(dirty)",
    "close": 'server.on("close", fork_once); pool.putconn(dirty, close=True)',
    "closeall": 'server.on("close", fork_once); pool.closeall()',
    "commit": 'server.on("commit", fork_once)\nwith pool.connection(): pass',
    "info": 'server.on("info", fork_once); pool.putconn(dirty)',
    "key": "pool.getconn(Key())",
    "constructor": 'server.on("connect", fork_once); ThreadedConnectionPool(2, 3)',
}


@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_callback_may_fork_and_both_processes_go_on(callback: str) -> None:
    """The child comes out of the call that the parent was in, with a pool that knows nothing of it."""
    run_forking_program(f"""{PROLOGUE}
logging.getLogger("pgpool_rs").addHandler(logging.NullHandler())
logging.getLogger("pgpool_rs").propagate = False
armed, pids, mine = [], [], []

def fork_once(connection=None):
    if armed:
        armed.clear()
        pids.append(os.fork())
        if pids[0] == 0:
            mine.append(other_server())

class Key:
    def __hash__(self):
        fork_once()
        return 7

    def __eq__(self, other):
        fork_once()
        return self is other

options = {{}}
if {callback!r} in ("check", "configure", "reset"):
    options[{callback!r}] = fork_once
if {callback!r} == "connect option":
    def connect(*args, **kwargs):
        fork_once()
        return psycopg2.connect(*args, **kwargs)
    options["connect"] = connect
pool = ThreadedConnectionPool(2, 3, check_after=0, **options)
dirty = pool.getconn(Key() if {callback!r} == "key" else None)
dirty.status = INTRANS
if {callback!r} in ("connect", "connect option", "configure"):
    others = [pool.getconn()]
armed.append(True)
outcome = None
try:
    exec({CALLBACKS[callback]!r})
except PoolError as error:
    outcome = error
assert pids, "nothing forked"
if pids[0] == 0:
    with ending_the_child():
        server.calm()
        known = [*pool._used.values(), *pool._pool]
        # A connect that began in the parent has ended in the child, whose own that connection is then.
        assert "connect" in {callback!r} or all(connection.server is mine[0] for connection in known), known
        for connection in list(pool._used.values()):
            pool.putconn(connection)
        if not pool.closed:
            assert_whole(pool)
assert wait_for_end(pids[0]) == 0
assert outcome is None, outcome
if not pool.closed:
    for connection in list(pool._used.values()):
        pool.putconn(connection)
    assert_whole(pool)
""")


@pytest.mark.parametrize("used", [False, True])
def test_an_inherited_loan_that_is_forgotten_in_the_child_is_not_reclaimed_there(used: bool) -> None:
    run_forking_program(f"""{PROLOGUE}
records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger("pgpool_rs").addHandler(handler)
server.keep = False
pool = ThreadedConnectionPool(1, 2, reclaim=True)
lent = [pool.getconn(), pool.getconn()]
before = list(server.log)

def child():
    other_server().keep = False
    own = [pool.getconn(), pool.getconn()] if {used} else []
    lent.clear()
    gc.collect()
    assert counts(pool)["lent"] == len(own)
    assert pool.get_stats()["reclaimed"] == 0
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []
    assert server.log == before
    for connection in own:
        pool.putconn(connection)
    del own
    connection = None
    pool.getconn()  # the child's own is, as ever
    gc.collect()
    wait_until(lambda: pool.get_stats()["reclaimed"] == 1)
    assert_whole(pool)

in_a_child(child)
assert counts(pool)["lent"] == 2
for connection in lent:
    pool.putconn(connection)
""")


def test_a_pool_that_goes_unused_in_the_child_says_nothing() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(2, 3)
lent = pool.getconn()
before = list(server.log)

def child():
    global pool, lent
    pool = lent = None
    server.connections.clear()
    gc.collect()
    assert server.log == before

for how in FORKS:
    in_a_child(child, how=how)
""")


def test_a_pool_made_in_the_child_is_like_any_other() -> None:
    run_forking_program(f"""{PROLOGUE}
old = ThreadedConnectionPool(1, 1)

def child():
    other_server()
    new = ThreadedConnectionPool(1, 2)
    assert (counts(new)["idle"], counts(old)["idle"]) == (1, 0)
    in_a_child(lambda: assert_whole(new))
    assert counts(new)["idle"] == 1
    assert_whole(new)

in_a_child(child)
""")
