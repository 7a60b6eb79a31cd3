"""Loans that last too long are reported, with where they began; all loans can be listed."""

from __future__ import annotations

import inspect
import re
import threading
import weakref
from typing import Any

import pytest

from pgpool_rs import LoanInfo, ThreadedConnectionPool, _housekeeper
from pgpool_rs._core import advance_clock
from pgpool_rs._housekeeper import Housekeeper
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.log import listening
from tests.lib.pools import assert_sound, closes, give_back, lend, wait_for_quiet
from tests.lib.waits import Task, held, wait_until, waiting_task


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the housekeeping to the tests: the thread does the same, at another time."""
    monkeypatch.setattr(_housekeeper.housekeeper, "poke", lambda _: None)


def here() -> int:
    """Tell the number of the line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def borrow(pool: Any, key: object = None) -> Any:
    return pool.getconn(key)


BORROW_LINE = inspect.getsourcelines(borrow)[1] + 1


def lines(stack: Any) -> list[tuple[str, int | None]]:
    return [(frame.name, frame.lineno) for frame in stack]


# --- loans() ---------------------------------------------------------------------------------------------------------


def test_loans_lists_what_is_lent_the_oldest_first(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 4)
    assert pool.loans() == []
    first = pool.getconn()
    advance_clock(100)
    pool.getconn("key")
    advance_clock(10)
    third = pool.getconn(("a", 1))
    advance_clock(1)
    loans = pool.loans()
    assert [type(loan) for loan in loans] == [LoanInfo] * 3
    assert [loan.key for loan in loans] == [pool._rused[id(first)], "key", ("a", 1)]
    assert [round(loan.age) for loan in loans] == [111, 11, 1]
    assert {loan.thread for loan in loans} == {threading.get_ident()}
    assert {loan.stack for loan in loans} == {None}
    pool.putconn(first)
    pool.putconn(third)
    assert [loan.key for loan in pool.loans()] == ["key"]


def test_a_loan_names_the_thread_that_borrowed(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 3)
    task = Task(pool.getconn)
    task.result()
    assert pool.loans()[0].thread == task.ident


def test_a_loan_that_was_waited_for_begins_when_it_is_lent(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiter = waiting_task(pool)
    advance_clock(100)
    pool.putconn(connection)
    waiter.result()
    (loan,) = pool.loans()
    assert (loan.thread, loan.age < 50) == (waiter.ident, True)


def test_what_is_on_its_way_is_no_loan(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1)
    with held(server.hold("connect"), pool.getconn) as opening:
        assert pool.loans() == []
    connection = opening.result()
    with held(server.hold("close"), pool.putconn, connection) as closing:
        assert pool.loans() == []
    closing.result()


# --- the stack -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "key"])
def test_the_stack_ends_at_the_line_that_borrowed(server: FakeServer, our_class: Any, key: object) -> None:
    pool = our_class(1, 2, leak_after=60)
    borrow(pool, key); line = here()  # fmt: skip  # noqa: E702
    (loan,) = pool.loans()
    assert lines(loan.stack)[-2:] == [(inspect.stack()[0].function, line), ("borrow", BORROW_LINE)]
    assert loan.stack[-1].filename == __file__
    assert loan.stack[-1].line == "return pool.getconn(key)"


def test_the_stack_of_a_block_ends_at_its_first_line(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 2, leak_after=60)
    with pool.connection():
        (loan,) = pool.loans()
    assert loan.stack[-1].line == "with pool.connection():"


def test_the_stack_of_a_new_connection_ends_at_the_line_that_borrowed(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, leak_after=60)
    borrow(pool)
    assert lines(pool.loans()[0].stack)[-1] == ("borrow", BORROW_LINE)


def test_the_stack_of_one_who_waited_is_his_own(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, leak_after=60, timeout=None)
    connection = pool.getconn()
    waiter = Task(borrow, pool)
    wait_until(lambda: pool.get_stats()["requests_waiting"] == 1)
    pool.putconn(connection)
    waiter.result()
    assert lines(pool.loans()[0].stack)[-1] == ("borrow", BORROW_LINE)


def test_the_stack_shows_a_subclass_that_lends_in_its_own_way(server: FakeServer, our_class: Any) -> None:
    class Pool(our_class):  # type: ignore[misc]
        def getconn(self, key: Any = None) -> Any:
            return super().getconn(key)

    pool = Pool(1, 1, leak_after=60)
    borrow(pool)
    assert [name for name, _ in lines(pool.loans()[0].stack)[-2:]] == ["borrow", "getconn"]


def test_the_stack_of_a_key_is_that_of_the_first_who_borrowed_it(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, leak_after=60)
    borrow(pool, "key")
    pool.getconn("key")
    assert lines(pool.loans()[0].stack)[-1] == ("borrow", BORROW_LINE)


def test_the_next_loan_of_a_connection_has_a_stack_of_its_own(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, leak_after=60)
    pool.putconn(pool.getconn())
    borrow(pool)
    assert lines(pool.loans()[0].stack)[-1] == ("borrow", BORROW_LINE)


def test_a_deep_stack_is_cut_at_its_outer_end(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, leak_after=60)

    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            borrow(pool)

    dive(100)
    found = lines(pool.loans()[0].stack)
    assert found[-1] == ("borrow", BORROW_LINE)
    assert {name for name, _ in found[:-1]} == {"dive"}
    assert len(found) == 10


def test_the_stack_keeps_no_variable_alive(server: FakeServer, our_class: Any) -> None:
    class Thing:
        pass

    pool = our_class(1, 1, leak_after=60)

    def work() -> weakref.ref[Thing]:
        thing = Thing()
        borrow(pool)
        return weakref.ref(thing)

    gone = work()
    assert gone() is None
    assert pool.loans()[0].stack is not None


# --- reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "key"])
def test_a_loan_that_lasts_too_long_is_reported_once_and_when_it_comes_back(
    server: FakeServer, our_class: Any, key: object
) -> None:
    pool = our_class(1, 2, leak_after=60, name="leaky")
    connection = borrow(pool, key)
    shown = pool.loans()[0].key
    with listening("leaky", level=30) as log:
        advance_clock(59)
        pool.maintain()
        assert log.texts == []
        advance_clock(2)
        for _ in range(3):
            pool.maintain()
        (line,) = log.texts
        head, *stack = line.splitlines()
        thread = threading.current_thread()
        borrower = f"thread {thread.ident} ({thread.name})"
        assert head == f"connection not returned: lent for 61.0 s under key {shown!r}, borrowed by {borrower} at"
        assert stack[-2:] == [f'  File "{__file__}", line {BORROW_LINE}, in borrow', "    return pool.getconn(key)"]
        assert pool.get_stats()["leaks"] == 1
        advance_clock(40)
        pool.putconn(connection, key)
        (late,) = log.texts[1:]
        assert re.fullmatch(r"connection returned late: it was lent for 1\d\d\.\d s", late)
    assert_sound(pool, server)


def test_the_thread_reports_by_itself(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, leak_after=0.03, name="leaky")
    with listening("leaky", level=30) as log:
        connection = pool.getconn()
        Housekeeper.poke(_housekeeper.housekeeper, pool)
        log.wait_for(1)
        pool.putconn(connection)
        assert len(log.texts) == 2
    assert pool.get_stats()["leaks"] == 1


def test_a_loan_that_comes_back_in_time_is_not_reported(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, leak_after=60, name="leaky", check=None)
    with listening("leaky") as log:
        for _ in range(3):
            connection = pool.getconn()
            advance_clock(50)
            pool.maintain()
            pool.putconn(connection)
    assert log.texts == []
    assert pool.get_stats()["leaks"] == 0


def test_a_loan_that_nobody_saw_to_be_late_is_not_reported_when_it_comes_back(
    server: FakeServer, our_class: Any
) -> None:
    pool = our_class(1, 1, leak_after=60, name="leaky")
    with listening("leaky", level=30) as log:
        connection = pool.getconn()
        advance_clock(61)
        pool.putconn(connection)
        pool.maintain()
    assert log.texts == []


def test_each_loan_that_lasts_too_long_is_reported(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 3, leak_after=60, name="leaky")
    with listening("leaky", level=30) as log:
        for expected in (3, 6):
            lent = lend(pool, 3)
            advance_clock(61)
            pool.maintain()
            assert len([text for text in log.texts if text.startswith("connection not returned")]) == expected
            give_back(pool, lent)
    assert pool.get_stats()["leaks"] == 6
    assert_sound(pool, server)


@pytest.mark.parametrize("end", ["dirty", "close", "broken", "closed", "block"])
@pytest.mark.parametrize("background", [False, True])
def test_a_late_return_is_logged_whatever_becomes_of_the_connection(
    server: FakeServer, our_class: Any, end: str, background: bool
) -> None:
    pool = our_class(1, 1, leak_after=60, background=background, name="leaky")
    with listening("leaky", level=30) as log:
        if end == "block":
            with pool.connection():
                advance_clock(61)
                pool.maintain()
        else:
            connection = pool.getconn()
            advance_clock(61)
            pool.maintain()
            if end == "dirty":
                connection.status = INTRANS
            elif end != "close":
                connection.set_closed(2 if end == "broken" else 1)
            pool.putconn(connection, close=end == "close")
        pool.maintain()
        assert_sound(pool, server)
    late = [text for text in log.texts if text.startswith("connection returned late: it was lent for 61.")]
    assert len(late) == 1


def test_a_report_says_when_the_borrowing_thread_is_gone(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, leak_after=60, name="leaky")
    task = Task(pool.getconn)
    task.result()
    advance_clock(61)
    with listening("leaky", level=30) as log:
        pool.maintain()
    assert f"borrowed by thread {task.ident} (gone) at" in log.texts[0]


class Shy:
    """A key that does not say what it is."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


def test_a_key_that_cannot_be_shown_keeps_nobody_from_being_reported(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, leak_after=60, name="leaky")
    lent = [(pool.getconn(key), key) for key in (Shy(), None)]
    advance_clock(61)
    with listening("leaky", level=30) as log:
        pool.maintain()
    assert len(log.texts) == 2
    for connection, key in lent:
        pool.putconn(connection, key)
    assert_sound(pool, server)


def test_a_leak_is_not_taken_away(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, leak_after=60)
    connection = pool.getconn()
    advance_clock(1000)
    pool.maintain()
    assert server.sees(connection)
    assert closes(pool) == {}
    pool.putconn(connection)
    assert_sound(pool, server)


def test_without_leak_after_nothing_is_reported(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, name="leaky", max_idle=10)
    with listening("leaky") as log:
        connection = pool.getconn()
        advance_clock(1_000_000)
        pool.maintain()
        pool.putconn(connection)
    assert (log.texts, pool.get_stats()["leaks"]) == ([], 0)


def test_a_report_that_fails_leaves_the_others_to_be_made(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, leak_after=60, name="leaky")
    lent = lend(pool, 2)
    with listening("leaky", level=30) as log:
        log.fail(ValueError("broken handler"))
        advance_clock(61)
        for expected in (1, 2):
            with pytest.raises(ValueError, match="broken handler"):
                pool.maintain()
            assert pool.get_stats()["leaks"] == expected
        log.lines.clear()
        log.error = None
        give_back(pool, lent)
        assert len(log.texts) == 2, "both are late"
    wait_for_quiet(pool)
    assert_sound(pool, server)
