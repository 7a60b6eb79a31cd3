"""Under gevent the housekeeping is a greenlet, which lets others run, has successors, and ends like the thread."""

from __future__ import annotations

import pytest

from tests.lib.housekeepers import AT_THE_END, FORK, IMPATIENCE, PROLOGUE
from tests.lib.programs import run_program

GEVENT = """
import warnings
from gevent import monkey
monkey.patch_all()
import gevent
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_under_gevent_it_is_a_greenlet(imported: str) -> None:
    early = "from pgpool_rs import _housekeeper\n" if imported == "before" else ""
    run_program(f"""{early}{GEVENT}{PROLOGUE}
ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)

def maintain():
    assert isinstance(gevent.getcurrent(), gevent.Greenlet)
    seen.append(monkey.get_original("_thread", "get_ident")())
    before = ticks
    time.sleep(0.005)
    until(lambda: ticks > before)

seen = []
ticker = gevent.spawn(tick)
pool = Pool(0.01, maintain)
poke_and_wait(pool)
until(lambda: pool.calls > 3)
assert set(seen) == {{monkey.get_original("_thread", "get_ident")()}}, "a thread of the system's"
number = pool.calls
pool.answer = None
gevent.sleep(0.1)
for _ in range(20):
    poke_and_wait(pool)
""")


def test_under_gevent_a_pool_that_always_pokes_or_has_something_to_do_lets_others_run() -> None:
    run_program(f"""{GEVENT}{PROLOGUE}
pools = [Pool(0) for _ in range(3)]
pools[0].does = lambda: _housekeeper.housekeeper.poke(pools[0])
for pool in pools:
    _housekeeper.housekeeper.poke(pool)
until(lambda: all(pool.calls > 5 for pool in pools))
""")


def test_under_gevent_a_killed_greenlet_has_a_successor() -> None:
    run_program(f"""{GEVENT}{PROLOGUE}
import gc
import logging

logging.disable()
_housekeeper.PAUSE = 0.02

def house():
    return _housekeeper.housekeeper._houses[os.getpid()]

def greenlets():
    return [it for it in gc.get_objects() if isinstance(it, gevent.Greenlet) and not it.dead]

pool, sleepy = Pool(0.01), Pool()
poke_and_wait(pool)
for _ in range(5):
    before = house().thread
    gevent.killall(greenlets(), timeout=90)  # asleep
    number = pool.calls
    until(lambda: pool.calls > number + 2)
    assert house().thread is not before
    sleepy.does = lambda: gevent.sleep(60)
    poke_and_wait(sleepy)
    sleepy.does = lambda: None
    before = house().thread
    gevent.killall(greenlets(), timeout=90)  # in a call
    number = pool.calls
    until(lambda: pool.calls > number + 2)
    assert house().thread is not before
""")


@pytest.mark.parametrize("state", AT_THE_END)
def test_under_gevent_a_process_ends_quietly_and_soon(state: str) -> None:
    assert run_program(f"{GEVENT}{PROLOGUE}\n{AT_THE_END[state]}\npoke_and_wait(pool)", timeout=IMPATIENCE) == ""


def test_under_gevent_the_parents_greenlet_does_nothing_in_a_child() -> None:
    run_program(f"""{GEVENT}{FORK}
pool, busy = Pool(0.01), Pool(0.01, lambda: time.sleep(0.01))
poke_and_wait(pool)
poke_and_wait(busy)

def work():
    number = pool.calls
    time.sleep(0.2)
    assert pool.calls == number, "the parent's greenlet goes on"
    mine = Pool(0.01)
    poke_and_wait(mine)
    until(lambda: mine.calls > 3)
    assert pool.calls == number
    poke_and_wait(pool)
    until(lambda: pool.calls > number + 3)

in_a_child(work)
number = pool.calls
until(lambda: pool.calls > number + 3)
""")


def test_under_gevent_a_thread_of_the_system_may_poke() -> None:
    run_program(f"""{GEVENT}{PROLOGUE}
pool = Pool()
poke_and_wait(pool)
for _ in range(50):
    number = pool.calls
    gevent.get_hub().threadpool.apply(_housekeeper.housekeeper.poke, (pool,))
    until(lambda: pool.calls > number)
""")
