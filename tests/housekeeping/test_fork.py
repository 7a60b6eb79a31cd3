"""After a fork a child has a housekeeping thread of its own from its first poke on, whatever the parent was doing."""

from __future__ import annotations

import pytest

from tests.lib.housekeepers import FORK
from tests.lib.programs import run_program


# Python's hooks free the interpreter's own lock, which a thread may hold at the fork. Without them, the thread sleeps.
@pytest.mark.parametrize(("how", "answer"), [("os.fork", 0.01), ("os.fork", None), ("fork in C", None)])
def test_in_a_child_everything_begins_anew(how: str, answer: float | None) -> None:
    run_program(f"""{FORK}
pool, mine = Pool({answer}), Pool({answer})
poke_and_wait(pool)

def work():
    number = pool.calls
    time.sleep(0.1)
    assert pool.calls == number, "the parent's pools are called on"
    for _ in range(3):
        poke_and_wait(mine)
    assert pool.calls == number, "the parent's pools are called on"
    for _ in range(3):
        poke_and_wait(pool)  # until they poke here
    time.sleep(0.1)
    in_a_child(work_of_grandchild, how={how!r})

def work_of_grandchild():
    for _ in range(3):
        poke_and_wait(mine)

for _ in range(3):
    time.sleep(0.1)
    in_a_child(work, how={how!r})
for _ in range(3):
    poke_and_wait(pool)
""")


def test_in_a_child_only_a_poke_starts_the_thread() -> None:
    run_program(f"""{FORK}
pool = Pool(0.01)
poke_and_wait(pool)

def work():
    assert threading.active_count() == 1
    _housekeeper.housekeeper.poke_quietly(pool)
    assert threading.active_count() == 1
    number = pool.calls
    _housekeeper.housekeeper.poke(Pool())
    until(lambda: pool.calls > number)
    assert threading.active_count() == 2

in_a_child(work)
""")


def test_a_fork_while_the_thread_is_being_started_leaves_the_child_no_lock() -> None:
    run_program(f"""{FORK}
start = threading.Thread.start
inside, on = threading.Event(), threading.Event()

def held_start(thread):
    if thread.name == "pgpool_rs housekeeping":
        inside.set()
        on.wait(90)
    start(thread)

pool = Pool(0.01)
threading.Thread.start = held_start
poker = threading.Thread(target=_housekeeper.housekeeper.poke, args=(pool,))
poker.start()
assert inside.wait(90)
assert _housekeeper.housekeeper._houses[os.getpid()].starting.locked()

def work():
    threading.Thread.start = start
    mine = Pool(0.01)
    poke_and_wait(mine)

in_a_child(work)
on.set()
poker.join(90)
until(lambda: pool.calls > 3)
""")


def test_a_fork_while_a_pool_is_called_on_leaves_the_child_free() -> None:
    run_program(f"""{FORK}
inside, on = threading.Event(), threading.Event()
pool = Pool(does=lambda: (inside.set(), on.wait(90)))
poke_and_wait(pool)

def work():
    mine = Pool(0.01)
    poke_and_wait(mine)
    until(lambda: mine.calls > 3)

in_a_child(work)
on.set()
""")


def test_forks_among_threads_that_poke_leave_no_hung_child() -> None:
    run_program(f"""{FORK}
pools = [Pool(0) for _ in range(3)]
ended = False

def poke_on():
    while not ended:
        for pool in pools:
            _housekeeper.housekeeper.poke(pool)

pokers = [threading.Thread(target=poke_on) for _ in range(3)]
for poker in pokers:
    poker.start()

def work():
    mine = [Pool(0.01) for _ in range(3)]
    # The first pokes come from several threads.
    tasks = [threading.Thread(target=poke_and_wait, args=(pool,)) for pool in mine]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join(90)
    until(lambda: all(pool.calls > 2 for pool in mine))
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("pgpool_rs housekeeping") == 1, names

for _ in range(20):
    in_a_child(work)
ended = True
""")


def test_a_child_that_ends_like_any_program_ends_soon_and_quietly() -> None:
    output = run_program(f"""{FORK}
pool = Pool(0.01, does=lambda: time.sleep(0.001))
poke_and_wait(pool)
child = os.fork()
if child == 0:
    signal.alarm(90)
    poke_and_wait(pool)
    sys.exit(0)
until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
child = os.fork()
if child == 0:
    signal.alarm(90)
    sys.exit(0)
until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
""")
    assert output == ""
