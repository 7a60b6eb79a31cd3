"""A time limit that strikes our own Python code, at whichever instruction, is raised in the call that it struck.

Job queues raise theirs, plain exceptions of a class of their own, from a signal handler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import psycopg2
import pytest

import pgpool_rs
from pgpool_rs import PoolError, SharedLimit, ThreadedConnectionPool, _housekeeper
from pgpool_rs._core import advance_clock
from pgpool_rs._housekeeper import Housekeeper
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.log import listening
from tests.lib.pools import assert_sound
from tests.lib.waits import counts

FOLDER = Path(pgpool_rs.__file__).parent
OURS = {str(FOLDER), str(FOLDER / "_limits")}
# Short, as a run is made for each instruction. It is found in what libpq says.
SECRET = "p w"
DOWN = psycopg2.OperationalError(f'connection to server at "db", port 5432 failed: {SECRET}')
Act = Callable[[], object]


class TimeLimit(Exception):
    """What a job queue raises in a job that takes too long."""


class Striker:
    """Raises a time limit at the next instruction of our own Python code, in this thread, at which it never did."""

    def __init__(self) -> None:
        self.known: set[tuple[CodeType, int]] = set()
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> Striker | None:
        code = frame.f_code
        if code.co_filename.rpartition("/")[0] not in OURS:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.where and (code, frame.f_lasti) not in self.known:
            self.known.add((code, frame.f_lasti))
            self.where = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
            raise TimeLimit
        return self


def strike(striker: Striker, act: Act) -> None:
    """Act in a generator: only there CPython goes on handling an exception if another strikes where that ends."""
    striker.where = ""

    def struck() -> Iterator[object]:
        yield act()

    before = sys.gettrace()
    # CPython 3.12 traces instructions only if a frame has asked for it before.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(striker)
    try:
        next(struck())
    finally:
        sys.settrace(before)


def connect(pool: Any, server: FakeServer) -> Act:
    server.fail("connect", DOWN)
    return pool.getconn  # type: ignore[no-any-return]


def roll_back(pool: Any, server: FakeServer) -> Act:
    pool.minconn = 1
    connection = pool.getconn()
    connection.status = INTRANS
    server.fail("rollback", DOWN)
    return lambda: pool.putconn(connection)


def exhaust(pool: Any, _: FakeServer) -> Act:
    pool.maxconn = 0
    return pool.getconn  # type: ignore[no-any-return]


def exhaust_lent(pool: Any, _: FakeServer) -> Act:
    pool.getconn("key")
    return pool.getconn  # type: ignore[no-any-return]


def wait_in_vain(pool: Any, _: FakeServer) -> Act:
    pool.getconn("key")
    return lambda: pool.getconn(timeout=0.0001)


def return_wrongly(pool: Any, server: FakeServer) -> Act:
    stranger = server.connect()
    stranger.close()
    return lambda: pool.putconn(stranger)


def report_leak(pool: Any, _: FakeServer) -> Act:
    pool.getconn("key")
    advance_clock(101)
    return pool.maintain  # type: ignore[no-any-return]


def fail_to_return_a_block(pool: Any, _: FakeServer) -> Act:
    def putconn(connection: Any) -> None:
        pool._putconn(connection)
        raise DOWN

    def block() -> None:
        pool.putconn = putconn
        with pool.connection():
            raise ZeroDivisionError

    return block


def poke(pool: Any, _: FakeServer) -> Act:
    return lambda: setattr(pool, "minconn", 1)


def grow(pool: Any, _: FakeServer) -> Act:
    return pool.getconn  # type: ignore[no-any-return]


def connect_under_a_limit(pool: Any, _: FakeServer) -> Act:
    return pool.getconn  # type: ignore[no-any-return]


def give_a_place_back(pool: Any, _: FakeServer) -> Act:
    connection = pool.getconn()
    return lambda: pool.putconn(connection, close=True)


def be_refused_by_a_limit(pool: Any, _: FakeServer) -> Act:
    pool.getconn("key")
    pool.maxconn = 2
    return pool.getconn  # type: ignore[no-any-return]


# Each scene, and the functions of ours that it runs.
RUNS: dict[Callable[[Any, FakeServer], Act], str] = {
    connect: "is_heard write mask _of_dsn",
    roll_back: "is_heard write mask",
    exhaust: "annotate _note",
    exhaust_lent: "annotate _note thread_name",
    wait_in_vain: "annotate _note is_heard",
    return_wrongly: "annotate _misplaced",
    report_leak: "describe _shown mask",
    fail_to_return_a_block: "is_heard mask write",
    poke: "poke _start _begin start",
    grow: "start_worker _thread start",
    connect_under_a_limit: "_take take",
    give_a_place_back: "_give give",
    be_refused_by_a_limit: "_take annotate_limited _holders",
}
LIMITED = {connect_under_a_limit, give_a_place_back, be_refused_by_a_limit}


@pytest.mark.parametrize("scene", RUNS)
def test_a_time_limit_at_any_instruction_of_ours_is_raised_in_the_call_that_it_struck(
    server: FakeServer, scene: Callable[[Any, FakeServer], Act], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening("struck", 30) as log:
        striker, raised = Striker(), True
        while raised:
            housekeeper = Housekeeper()
            monkeypatch.setattr(_housekeeper.housekeeper, "poke", id)
            more: dict[Any, dict[str, Any]] = {poke: {"max_idle": 60}, grow: {"grow": "workers"}}
            more |= {limited: {"limit": SharedLimit(1)} for limited in LIMITED}
            options = more.get(scene, {"leak_after": 100})
            pool: Any = ThreadedConnectionPool(0, 1, "host=h", password=SECRET, name="struck", **options)
            act, raised = scene(pool, server), False
            if scene is poke:
                monkeypatch.setattr(_housekeeper.housekeeper, "poke", housekeeper.poke)
            with suppress(psycopg2.Error, ZeroDivisionError):
                try:
                    strike(striker, act)
                except TimeLimit:
                    raised = True
            housekeeper.end()
            assert raised == bool(striker.where), striker.where
            server.calm()
            for key in list(pool._used):
                pool.putconn(pool._used[key], key)
            pool.maxconn = 1
            assert counts(pool)["lent"] == 0
            pool.closeall()
        # Before 3.11 exceptions take no notes.
        unmade = {"_note", "_misplaced", "thread_name"} if sys.version_info < (3, 11) else set()
        assert {code.co_name for code, _ in striker.known} >= set(RUNS[scene].split()) - unmade
        assert not [text for text in log.texts if SECRET in text]
    with pytest.raises(PoolError):
        pool.getconn()
    pool = ThreadedConnectionPool(0, 1)
    assert_sound(pool, server)
