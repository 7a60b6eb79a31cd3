"""What a pool says in its log and how loud; and that a log which fails costs no slot."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolError, PoolExhausted, ThreadedConnectionPool, _housekeeper
from pgpool_rs._core import advance_clock, speak
from pgpool_rs.testing import INTRANS, FakeServer, Gate
from tests.lib.callbacks import Callback, Killed, raiser
from tests.lib.log import Lines, handled_by, listening
from tests.lib.pools import DOWN, assert_balanced, assert_sound, assert_whole, borrow, filled, wait_for_quiet
from tests.lib.waits import Task, counts, held, wait_until, waiting_task

DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING
NAME = "talkative"


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_pool_without_a_name_is_numbered(server: FakeServer, our_class: Any) -> None:
    first, second = our_class(0, 1), our_class(0, 1)
    number = int(first.name.removeprefix("pool-"))
    assert second.name == f"pool-{number + 1}"
    with listening(second.name) as log:
        first.getconn()
        assert log.texts == []
        second.getconn()
        assert log.texts == ["connection opened"]


@pytest.mark.parametrize("name", ["web", "a.b", "with spaces", "%s %d", "é"])
def test_a_pool_logs_on_the_logger_of_its_name(server: FakeServer, our_class: Any, name: str) -> None:
    pool = our_class(0, 1, name=name)
    assert pool.name == name
    with listening(name) as log:
        pool.getconn()
    assert log.lines == [(DEBUG, "connection opened")]


def test_a_percent_sign_in_an_error_is_no_format(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, name=NAME)
    connection = pool.getconn()
    connection.status = INTRANS
    server.fail("rollback", psycopg2.DatabaseError("100 %s %d"))
    with listening(NAME, WARNING) as log:
        pool.putconn(connection)
    assert log.texts[0].endswith("DatabaseError: 100 %s %d")


def test_records_name_the_caller_and_no_frame_of_ours(
    server: FakeServer, our_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(DEBUG)
    our_class(0, 1).getconn()
    assert [record.funcName for record in caplog.records] == ["test_records_name_the_caller_and_no_frame_of_ours"]


def test_pools_without_a_name_leave_no_loggers_behind(server: FakeServer, our_class: Any) -> None:
    known = logging.root.manager.loggerDict
    before = set(known)
    for _ in range(20):
        with our_class(1, 1) as pool:
            borrow(pool)
    assert set(known) == before


# --- quiet -----------------------------------------------------------------------------------------------------------


def test_a_loan_of_an_idle_connection_logs_nothing_at_all(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, name=NAME, check=lambda _: None, check_after=0, max_lifetime=1000, leak_after=100)
    with listening(NAME) as log:
        for key in (None, "key"):
            pool.putconn(pool.getconn(key), key)
        with pool.connection() as connection:
            connection.cursor().execute("SELECT 1")
        connection = pool.getconn()
        connection.status = INTRANS
        pool.putconn(connection)
        pool.maintain()
        pool.check()
        pool.wait()
    assert log.texts == []


@pytest.mark.parametrize("background", [False, True])
def test_plain_loans_log_nothing_at_info(server: FakeServer, our_class: Any, background: bool) -> None:
    pool = our_class(0, 2, name=NAME, background=background)
    with listening(NAME, INFO) as log:
        for _ in range(3):
            connection = pool.getconn()
            connection.status = INTRANS
            pool.putconn(connection)
        pool.putconn(pool.getconn(), close=True)
        wait_for_quiet(pool)
    assert log.texts == []


def test_a_refusal_logs_nothing(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 0, name=NAME)
    with listening(NAME) as log, pytest.raises(PoolError):
        pool.getconn()
    assert log.texts == []


def test_no_text_is_made_where_nobody_wants_it(server: FakeServer, our_class: Any) -> None:
    class Mute(psycopg2.DatabaseError):
        def __str__(self) -> str:
            raise AssertionError("asked for its text")

    pool = our_class(1, 1, name=NAME)
    connection = pool.getconn()
    connection.status = INTRANS
    server.fail("rollback", Mute())
    with listening(NAME, logging.CRITICAL):
        pool.putconn(connection)
    assert_sound(pool, server)


# --- every line ------------------------------------------------------------------------------------------------------


class Scene:
    """One thing that is logged: what happens, the lines that are expected, and the options that it takes."""

    def __init__(
        self,
        act: Callable[[Any, FakeServer], object],
        *lines: tuple[int, str],
        size: tuple[int, int] = (1, 2),
        **options: Any,
    ) -> None:
        self.act = act
        self.lines = list(lines)
        self.size = size
        self.options = options

    def pool(self, **more: Any) -> Any:
        return ThreadedConnectionPool(*self.size, name=NAME, **{**self.options, **more})


def fail_to_connect(pool: Any, server: FakeServer) -> None:
    pool.getconn()
    server.fail("connect", DOWN)
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()


def close_under_it(pool: Any, _: FakeServer) -> None:
    connection = pool.getconn()
    connection.close()
    pool.putconn(connection)


def break_one(pool: Any, _: FakeServer) -> None:
    connection = pool.getconn()
    connection.set_closed(2)
    pool.putconn(connection)


def break_one_unseen(pool: Any, _: FakeServer) -> None:
    connection = pool.getconn()
    connection.status = 4
    pool.putconn(connection)


def fail_to_roll_back(pool: Any, server: FakeServer) -> None:
    connection = pool.getconn()
    connection.status = INTRANS
    server.fail("rollback", psycopg2.DatabaseError("odd"))
    pool.putconn(connection)


def fail_to_close(pool: Any, server: FakeServer) -> None:
    server.fail("close", psycopg2.DatabaseError("odd"))
    pool.putconn(pool.getconn(), close=True)


def fail_a_check(pool: Any, _: FakeServer) -> None:
    pool._pool[0].set_closed(2)
    pool.getconn()


def age(pool: Any, _: FakeServer) -> None:
    advance_clock(1001)
    pool.maintain()


def age_and_borrow(pool: Any, _: FakeServer) -> None:
    advance_clock(1001)
    pool.getconn()


def idle_for_long(pool: Any, _: FakeServer) -> None:
    pool.putconn(pool.getconn())
    advance_clock(1001)
    pool.maintain()


def leak(pool: Any, _: FakeServer) -> None:
    connection = pool.getconn("key")
    advance_clock(61)
    pool.maintain()
    pool.putconn(connection, "key")


def wait_too_long(pool: Any, _: FakeServer) -> None:
    with pytest.raises(PoolError):
        pool.getconn(timeout=0.01)


def crowd(pool: Any, _: FakeServer) -> None:
    lent = pool.getconn()
    waiter = waiting_task(pool)
    with pytest.raises(PoolError):
        pool.getconn(timeout=5)
    pool.putconn(lent)
    pool.putconn(waiter.result())


def close_late(pool: Any, server: FakeServer) -> None:
    with held(server.hold("connect"), pool.getconn) as opening:
        pool.closeall()
    opening.wait()


OPENED = (DEBUG, "connection opened")
REPLACED = (INFO, "opened a connection to restore minconn")
CLOSED = (INFO, "pool closed, with 1 connections")


def closed(level: int, why: str) -> tuple[int, str]:
    return level, f"connection closed: {why}"


def ask(connection: Any) -> None:
    connection.cursor().execute("SELECT 1")


DROPPED = "failed; the connection was dropped and its slot is free: DatabaseError: odd"

SCENES = {
    "opened": Scene(lambda pool, _: pool._connect("key"), OPENED),
    "connect failed": Scene(fail_to_connect, (WARNING, "connect failed: OperationalError")),
    "requested": Scene(
        lambda pool, _: pool.putconn(pool.getconn(), close=True), closed(DEBUG, "its borrower asked for that")
    ),
    "surplus": Scene(lambda pool, _: borrow(pool), OPENED, closed(DEBUG, "the pool has no use for it"), size=(0, 1)),
    "by borrower": Scene(close_under_it, closed(DEBUG, "its borrower closed it")),
    "broken": Scene(break_one, closed(WARNING, "it was found dead")),
    "unknown": Scene(break_one_unseen, closed(WARNING, "it was found dead")),
    "rollback": Scene(fail_to_roll_back, (WARNING, f"rollback() {DROPPED}")),
    "close": Scene(fail_to_close, (WARNING, f"close() {DROPPED}")),
    "reset": Scene(
        lambda pool, _: borrow(pool), (WARNING, f"reset {DROPPED}"), reset=raiser(psycopg2.DatabaseError("odd"))
    ),
    "check": Scene(
        fail_a_check,
        (WARNING, "connection lost: its check failed: InterfaceError: connection already closed"),
        OPENED,
        check=ask,
        check_after=0,
    ),
    "lifetime": Scene(age, closed(DEBUG, "it was open for max_lifetime"), OPENED, REPLACED, max_lifetime=1000),
    "lifetime, borrowed": Scene(
        age_and_borrow, closed(DEBUG, "it was open for max_lifetime"), OPENED, max_lifetime=1000
    ),
    "idle": Scene(idle_for_long, OPENED, closed(DEBUG, "it was idle for max_idle"), size=(0, 1), max_idle=1000),
    "drain": Scene(lambda pool, _: pool.drain(), closed(INFO, "it is to be replaced"), OPENED, REPLACED),
    "resize": Scene(lambda pool, _: pool.resize(0, 0), closed(DEBUG, "the pool has no use for it")),
    "leak": Scene(
        leak,
        (WARNING, "connection not returned: lent for 61"),
        (WARNING, "connection returned late: it was lent for 61"),
        leak_after=60,
    ),
    "timeout": Scene(wait_too_long, (INFO, "request timed out: connection pool exhausted: waited "), size=(0, 0)),
    "crowd": Scene(
        crowd,
        (INFO, f"request refused: connection pool exhausted: 1 caller waits for a connection of pool '{NAME}', and "),
        size=(1, 1),
        max_waiting=1,
    ),
    "closeall": Scene(lambda pool, _: pool.closeall(), CLOSED),
    "unplaced": Scene(
        close_late,
        (INFO, "pool closed, with 0 connections"),
        OPENED,
        closed(DEBUG, "there is no place for it"),
        size=(0, 1),
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_each_line_has_its_level(server: FakeServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = SCENES[name]
    # The thread would log the same, at another time.
    monkeypatch.setattr(_housekeeper.housekeeper, "poke", lambda _: None)
    pool = scene.pool()
    with listening(NAME) as log:
        scene.act(pool, server)
    assert len(log.lines) == len(scene.lines), log.lines
    for (level, text), (expected, start) in zip(log.lines, scene.lines, strict=True):
        assert (level, text[: len(start)]) == (expected, start)


def test_the_error_of_a_block_goes_before_that_of_its_return(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, name=NAME)
    errors: list[BaseException] = []

    def act(_: Any) -> None:
        # The block asks, too, before it rolls back.
        if errors and ("rollback", 1) in server.log:
            raise errors.pop()

    server.on("closed", act)
    with listening(NAME, WARNING) as log, pytest.raises(ZeroDivisionError), pool.connection() as connection:
        connection.status = INTRANS
        server.fail("rollback", psycopg2.DatabaseError("first"))
        errors.append(psycopg2.DatabaseError("odd"))
        raise ZeroDivisionError
    assert log.texts == ["a connection could not be returned: DatabaseError: odd"]
    server.calm()
    assert_sound(pool, server)


# --- a log that fails ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the housekeeping go on soon after a failure."""
    monkeypatch.setattr(_housekeeper, "PAUSE", 0.01)


ERRORS = [ValueError("log"), KeyboardInterrupt("log"), SystemExit("log"), Killed("log")]


def act_where_each_line_raises(scene: Scene, pool: Any, server: FakeServer, log: Lines, error: BaseException) -> None:
    """Do what is logged, with a handler that raises from every line."""
    log.fail(error)
    try:
        scene.act(pool, server)
    except BaseException as found:
        raised = found
    else:
        return
    finally:
        log.error = None
    known = (psycopg2.Error, PoolError, AssertionError, pytest.fail.Exception)
    assert raised is error or isinstance(raised, known), repr(raised)


def return_all(pool: Any) -> None:
    """Return what is lent, and what the waiters are lent then."""
    while counts(pool)["lent"] or counts(pool)["waiting"]:
        for loan in pool.loans():
            with suppress(PoolError):
                pool.putconn(pool._used[loan.key], loan.key)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("name", SCENES)
def test_a_line_whose_handler_raises_costs_no_slot(
    server: FakeServer, name: str, error: BaseException, background: bool
) -> None:
    scene = SCENES[name]
    pool = scene.pool(background=background)
    with listening(NAME) as log:
        act_where_each_line_raises(scene, pool, server, log, error)
        assert log.lines or background
        server.calm()
        if not pool.closed:
            return_all(pool)
        wait_for_quiet(pool)
    if pool.closed:
        wait_until(lambda: server.open == 0)
        assert_balanced(pool, server)
    else:
        pool.resize(0, 2)
        server.peak = min(server.peak, 2)
        assert_sound(pool, server)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_line_whose_handler_raises_in_the_thread_stops_nothing(server: FakeServer, error: BaseException) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, name=NAME, background=True, leak_after=0.02)
    with listening(NAME) as log:
        log.fail(error)
        for way in ("dirty", "close"):
            connection = server.connections[-1]
            with suppress(type(error)):
                connection = pool.getconn()
            connection.status = INTRANS
            server.fail("rollback", DOWN)
            with suppress(type(error), PoolError):
                pool.putconn(connection, close=way == "close")
            wait_for_quiet(pool)
        log.error = None
        server.calm()
        _housekeeper.housekeeper.poke(pool)
        wait_until(lambda: counts(pool)["idle"] == 1, "the thread")
    assert_sound(pool, server)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_waiter_is_served_though_the_line_of_the_one_who_returns_raises(
    server: FakeServer, error: BaseException
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, name=NAME)
    connection = pool.getconn()
    connection.status = INTRANS
    waiter = waiting_task(pool)
    server.fail("rollback", DOWN)
    with listening(NAME) as log:
        log.fail(error, "rollback() failed")
        with pytest.raises(type(error)):
            pool.putconn(connection)
        pool.putconn(waiter.result())
    assert_sound(pool, server)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_constructor_whose_log_raises_leaves_nothing_open(
    server: FakeServer, our_class: Any, error: BaseException
) -> None:
    with listening(NAME) as log:
        log.fail(error)
        for workers in (1, 2):
            with pytest.raises(type(error)):
                our_class(2, 2, name=NAME, open_workers=workers)
            assert server.open == 0


def test_a_handler_may_call_the_pool_which_logs_nothing_meanwhile(server: FakeServer) -> None:
    check = Callback()
    pool = filled(ThreadedConnectionPool, 1, 3, name=NAME, check=check, check_after=0)
    inside: list[str] = []

    def call(record: logging.LogRecord) -> None:
        inside.append(record.getMessage())
        pool.putconn(pool.getconn(), close=True)
        pool.get_stats()

    with handled_by(call, f"pgpool_rs.{NAME}"):
        check.raises(psycopg2.DatabaseError("dead"))
        pool.putconn(pool.getconn())
    assert [text.partition(":")[0] for text in inside] == ["connection lost", "connection opened"]
    assert_whole(pool)


# --- a log that uses the pool ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 5, None])
@pytest.mark.parametrize("act", ["getconn", "connection", "key", "wait", "check", "maintain"])
def test_a_handler_that_uses_the_pool_opens_nothing_of_its_own_while_the_server_is_away(
    server: FakeServer, act: str, timeout: float | None
) -> None:
    pool: Any = ThreadedConnectionPool(0, 5, timeout=timeout)
    seen: list[Any] = []

    def write_to_the_database(record: logging.LogRecord) -> None:
        seen.append((record.getMessage(), counts(pool)["opening"], counts(pool)["waiting"]))
        with suppress(psycopg2.Error, PoolError):
            match act:
                case "connection":
                    with pool.connection():
                        pass
                case "key":
                    pool.getconn("key")
                case "wait":
                    pool.wait(timeout)
                case "getconn":
                    pool.putconn(pool.getconn())
                case _:
                    getattr(pool, act)()

    server.on("connect", raiser(DOWN))
    with handled_by(write_to_the_database), pytest.raises(psycopg2.OperationalError):
        pool.getconn("key")
    assert seen == [("connect failed: OperationalError", 0, 0)]
    server.calm()
    assert_whole(pool, timeout=0)


@pytest.mark.parametrize("timeout", [0, 5, None])
def test_a_handler_waits_for_nothing(server: FakeServer, timeout: float | None) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, timeout=timeout)
    other: Any = ThreadedConnectionPool(0, 1, timeout=timeout)
    other.getconn()
    found: list[str] = []

    def borrow(_: logging.LogRecord) -> None:
        for full in (pool, other):
            for key in (None, "key"):
                with pytest.raises(PoolExhausted) as caught:
                    full.getconn(key, timeout=timeout)
                found.append(type(caught.value).__name__)

    with handled_by(borrow):
        lent = pool.getconn()
    assert found == ["PoolExhausted"] * 4
    pool.putconn(lent)
    assert_whole(pool, timeout=0)


def test_a_handler_does_not_wait_for_a_key_that_another_thread_opens(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 3, timeout=None)
    found: list[BaseException] = []

    def borrow(_: logging.LogRecord) -> None:
        with pytest.raises(PoolExhausted) as caught:
            pool.getconn("key")
        found.append(caught.value)

    lent = pool.getconn()
    with held(server.hold("connect"), pool.getconn, "key") as opening:
        with handled_by(borrow):
            pool.putconn(lent, close=True)
        assert len(found) == 1
    pool.putconn(opening.result(), "key")
    assert_whole(pool, timeout=0)


def test_another_thread_is_served_as_ever_while_a_handler_runs(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, timeout=None)
    texts: list[str] = []

    def call(record: logging.LogRecord) -> None:
        texts.append(record.getMessage())
        if len(texts) == 1:
            Task(lambda: pool.putconn(pool.getconn(), close=True)).wait()

    with handled_by(call):
        pool.putconn(pool.getconn(), close=True)
    assert texts.count("connection closed: its borrower asked for that") == 2


def test_a_connect_that_succeeds_in_a_handler_leaves_the_end_of_an_outage_to_be_told(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2)
    texts: list[str] = []

    def write_to_the_database(record: logging.LogRecord) -> None:
        texts.append(record.getMessage())
        server.calm()
        pool.putconn(pool.getconn(), close=True)

    server.on("connect", raiser(DOWN))
    with handled_by(write_to_the_database):
        with pytest.raises(psycopg2.OperationalError):
            pool.getconn()
        pool.getconn()
    assert [text.partition(",")[0] for text in texts[:2]] == [
        "connect failed: OperationalError",
        "connect succeeds again",
    ]


@pytest.mark.parametrize("by", ["handler", "listener"])
def test_a_connect_that_fails_in_a_handler_leaves_its_outage_to_be_told(server: FakeServer, by: str) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, name=NAME)

    def fail(*_: object) -> None:
        with suppress(psycopg2.OperationalError):
            pool.getconn()

    other: Any = ThreadedConnectionPool(0, 2, listener=SimpleNamespace(connected=fail) if by == "listener" else None)
    server.fail("connect", None, DOWN, DOWN)
    with listening(NAME) as log:
        if by == "handler":
            with handled_by(fail, f"pgpool_rs.{other.name}"):
                other.getconn()
        else:
            other.getconn()
        assert log.texts == []
        fail()
        assert log.texts == ["connect failed: OperationalError"]


def test_a_handler_that_maintains_the_pool_leaves_a_leak_to_be_told(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The thread would tell it.
    monkeypatch.setattr(_housekeeper.housekeeper, "poke", lambda _: None)
    pool: Any = ThreadedConnectionPool(1, 2, leak_after=60)
    texts: list[str] = []

    def maintain(record: logging.LogRecord) -> None:
        texts.append(record.getMessage().partition(":")[0])
        pool.maintain()

    pool.getconn()
    advance_clock(61)
    with handled_by(maintain):
        pool.getconn()
        assert texts == ["connection opened"]
        pool.maintain()
    assert texts[1:] == ["connection not returned"]


def test_a_line_that_a_handler_writes_leaves_the_handler_within_its_own(server: FakeServer) -> None:
    """As the watcher of a limit does."""
    pool: Any = ThreadedConnectionPool(0, 1, timeout=0.01)
    found: list[BaseException] = []

    def write(record: Any) -> None:
        if record.event == "opened":
            speak(lambda: None)
            with pytest.raises(PoolExhausted) as caught:
                pool.getconn()
            found.append(caught.value)

    with handled_by(write):
        pool.putconn(pool.getconn())
    assert [type(error) for error in found] == [PoolExhausted]


# --- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_each_line_has_a_constant_template_and_fields_for_programs(
    server: FakeServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_housekeeper.housekeeper, "poke", lambda _: None)
    runs: list[list[logging.LogRecord]] = []
    for _ in range(2):
        records: list[logging.LogRecord] = []
        pool = SCENES[name].pool()
        with handled_by(records.append):
            SCENES[name].act(pool, server)
        runs.append(records)
    first, second = ([(record.msg, record.event, record.reason) for record in records] for records in runs)  # type: ignore[attr-defined]
    assert first == second
    for record in runs[0]:
        assert re.sub(r"%[.\d]*\w", "", record.msg).strip(), "it says nothing by itself"
        assert record.pool == NAME  # type: ignore[attr-defined]
        assert str(record.event).isidentifier()  # type: ignore[attr-defined]
        assert record.name == f"pgpool_rs.{NAME}"


def test_a_record_factory_that_has_fields_of_these_names_does_no_harm(
    server: FakeServer, our_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Record(logging.LogRecord):
        pool = event = reason = "mine"

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.event = "mine"

    monkeypatch.setattr(logging, "_logRecordFactory", Record)
    records: list[Any] = []
    with handled_by(records.append):
        our_class(1, 1, name=NAME)
    assert [(record.event, record.pool) for record in records] == [("opened", NAME)]


# --- a server that is away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["getconn", "key", "maintain", "check", "_connect"])
def test_connects_that_fail_are_told_of_once_in_ten_seconds(server: FakeServer, way: str) -> None:
    pool: Any = ThreadedConnectionPool(0, 4, name=NAME)
    pool.minconn = 1
    server.on("connect", raiser(DOWN))

    def fail(times: int) -> None:
        for _ in range(times):
            with suppress(psycopg2.OperationalError):
                pool.getconn("key") if way == "key" else getattr(pool, way)()

    with listening(NAME, INFO) as log:
        fail(500)
        assert log.lines == [(WARNING, "connect failed: OperationalError")]
        advance_clock(10)
        fail(500)
        assert len(log.lines) == 2
        assert re.fullmatch(r"connect failed 500 times in 1\d s; the last time: OperationalError", log.texts[1])
        server.calm()
        advance_clock(20)
        pool.getconn()
        assert re.fullmatch(r"connect succeeds again, after 3\d\.\d s", log.texts[2])
        pool.getconn()
        assert len([text for text in log.texts if text.startswith("connect")]) == 3


def test_threads_that_fail_together_tell_of_it_once(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 20, name=NAME)
    server.on("connect", raiser(DOWN))

    def fail() -> None:
        for _ in range(20):
            with suppress(psycopg2.OperationalError, PoolError):
                pool.getconn()

    with listening(NAME, INFO) as log:
        for task in [Task(fail) for _ in range(8)]:
            task.wait()
    assert log.texts == ["connect failed: OperationalError"]


# --- logging's own lock ----------------------------------------------------------------------------------------------


def test_a_lock_of_the_module_logging_that_was_left_held_holds_up_no_line(server: FakeServer, our_class: Any) -> None:
    lock: Any = logging._lock  # type: ignore[attr-defined]
    with listening(NAME) as log:
        gate = Gate()

        def hold() -> None:
            with lock:
                gate.pass_through()

        with held(gate, hold) as holder:
            for name in (NAME, None, "never heard of"):
                Task(our_class, 1, 1, name=name).wait()
        holder.wait()
    assert log.texts == ["connection opened"]


def test_a_level_that_is_set_later_is_obeyed(server: FakeServer, our_class: Any) -> None:
    records: list[logging.LogRecord] = []
    with handled_by(records.append):
        pool = our_class(0, 9, name="set.later")
        pool.getconn()
        logger = logging.getLogger("pgpool_rs.set.later")
        logger.setLevel(WARNING)
        pool.getconn()
        logger.setLevel(logging.NOTSET)
        logging.getLogger("pgpool_rs.set").setLevel(WARNING)
        pool.getconn()
        logging.getLogger("pgpool_rs.set").setLevel(logging.NOTSET)
        logging.disable(DEBUG)
        pool.getconn()
        logging.disable(logging.NOTSET)
        pool.getconn()
    assert len(records) == 2


# --- what is no Unicode ----------------------------------------------------------------------------------------------


class Surrogate:
    def __repr__(self) -> str:
        return "key \udc80"


def test_a_leak_is_reported_whose_key_thread_or_path_is_no_unicode(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2, name=NAME, leak_after=60, password="secret")
    code = compile("borrow = lambda pool, key: pool.getconn(key)", "/tmp/path\udc81.py", "exec")
    scope: dict[str, Any] = {}
    exec(code, scope)
    key = Surrogate()
    thread = threading.current_thread()
    before, thread.name = thread.name, "thread\udc82"
    try:
        scope["borrow"](pool, key)
        advance_clock(61)
        with listening(NAME) as log:
            pool.maintain()
    finally:
        thread.name = before
    for part in ("key \\udc80", "path\\udc81.py", "thread\\udc82"):
        assert part in log.texts[0]


def test_an_error_whose_text_is_no_unicode_is_logged(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, name=NAME, password="secret")
    connection = pool.getconn()
    connection.status = INTRANS
    server.fail("rollback", psycopg2.Error("text \udc81"))
    with listening(NAME, WARNING) as log:
        pool.putconn(connection)
    assert log.texts[0].endswith(": Error: text \\udc81")


def test_errors_and_names_of_a_pool_show_what_is_no_unicode(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, name="pool\udc80")
    assert pool.name == "pool\\udc80"
    with listening(pool.name) as log:
        pool.putconn(pool.getconn("key"), "key", close=True)
        assert len(log.texts) == 1
    connection = pool.getconn("key")
    # A key may be a secret, so it is not shown.
    with pytest.raises(PoolError, match="lent under another key") as raised:
        pool.putconn(connection, Surrogate())
    assert "udc80" not in str(raised.value)
    with pytest.raises(PoolError, match="nothing is lent under this key") as raised:
        pool.putconn(None, Surrogate())
    assert "udc80" not in str(raised.value)
    with pytest.raises(TypeError, match=r"key \\udc80"):
        ThreadedConnectionPool(0, 1).getconn(timeout=Surrogate())  # type: ignore[arg-type]
