"""check_history says yes to what an honest pool may do, and no to anything else; Recorder writes down what was done."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgpool_rs import SharedLimit, ThreadedConnectionPool
from pgpool_rs.testing import (
    FakeServer,
    History,
    HistoryError,
    Limits,
    MortalFakeConnection,
    Operation,
    Recorder,
    check_history,
)
from pgpool_rs.testing.history.exercise import exercise
from tests.lib.histories import (
    CLOSED,
    DONE,
    FAILED,
    LENT,
    PENDING,
    REFUSED,
    TIMED_OUT,
    Honest,
    explained_by_brute_force,
    spoilt,
)
from tests.lib.waits import Task, wait_for_waiters

DOWN = psycopg2.OperationalError("down")


def get(called: int, returned: int | None, got: Any = None, key: Any = None, thread: int = 1) -> Operation:
    """Write down a getconn that got a connection, or came to another end."""
    if isinstance(got, int):
        return Operation(thread, "getconn", called, returned, LENT, got, key)
    return Operation(thread, "getconn", called, returned, got or PENDING, None, key)


def put(called: int, returned: int | None, connection: int | None, outcome: Any = DONE, **options: Any) -> Operation:
    """Write down a putconn."""
    return Operation(1, "putconn", called, returned, outcome, connection, **options)


def close(called: int, returned: int | None, outcome: Any = DONE) -> Operation:
    """Write down a closeall."""
    return Operation(1, "closeall", called, returned, outcome)


def resize(called: int, returned: int, maxconn: int, outcome: Any = DONE) -> Operation:
    """Write down a resize."""
    return Operation(1, "resize", called, returned, outcome, maxconn=maxconn)


def leave(called: int, returned: int, connection: int, outcome: Any = DONE) -> Operation:
    """Write down the end of a `connection()` block."""
    return Operation(1, "exit", called, returned, outcome, connection)


def failure_of(history: Any, limits: Limits) -> HistoryError | None:
    try:
        check_history(history, limits)
    except HistoryError as error:
        return error
    return None


def is_explained(history: Any, limits: Limits) -> bool:
    return failure_of(history, limits) is None


# --- histories written by hand: maxconn is 2, and each rule has some that keep it and some that break it --------------

RIGHT: dict[str, list[Operation]] = {
    "nothing": [],
    "one after the other": [get(0, 1, 1), put(2, 3, 1), get(4, 5, 1)],
    "lent while the return is under way": [get(0, 1, 1), put(2, 9, 1), get(3, 4, 1)],
    "as many as may": [get(0, 1, 1), get(2, 3, 2), get(4, 5, REFUSED)],
    "refused while the last is being opened": [get(0, 1, 1), get(2, 9, 2), get(3, 4, REFUSED)],
    "refused while one is being returned": [get(0, 1, 1), get(2, 3, 2), put(4, 9, 2), get(5, 6, REFUSED)],
    "refused while a connect fails": [get(0, 1, 1), get(2, 9, FAILED), get(3, 4, REFUSED)],
    "refused while a connect has not ended": [get(0, 1, 1), get(2, None), get(3, 4, REFUSED)],
    "refused, by what was kept for a caller that came too late": [
        get(0, 1, 1),
        get(2, 3, 2),
        get(4, 20, TIMED_OUT),
        put(5, 6, 1),
        get(7, 8, REFUSED),
    ],
    "timed out, and room came at the end": [get(0, 1, 1), get(2, 3, 2), get(4, 9, TIMED_OUT), put(5, 6, 1)],
    "the same key, the same connection": [get(0, 1, 1, "a"), get(2, 3, 1, "a"), put(4, 5, 1, key="a")],
    "one return is enough for all": [get(0, 1, 1, "a"), get(2, 3, 1, "a"), put(4, 5, 1), put(6, 7, 1, REFUSED)],
    "a key needs no room if it is lent": [get(0, 1, 1, "a"), get(2, 3, 2), get(4, 5, 1, "a")],
    "a key is opened and returned twice at once": [
        get(0, 9, 1, "a"),
        get(1, 8, 1, "a"),
        put(2, 7, 1, key="a"),
        put(3, 10, 1, key="a"),
    ],
    "returned by its key": [get(0, 1, 1, "a"), put(2, 3, None, key="a"), get(4, 5, 2, "a")],
    "timed out waiting for a key": [get(0, 9, 1, "a"), get(1, 2, TIMED_OUT, "a")],
    "the wrong key is refused": [get(0, 1, 1, "a"), put(2, 3, 1, REFUSED, key="b")],
    "closed on return": [get(0, 1, 1), put(2, 3, 1, close=True), get(4, 5, 2)],
    "closed": [get(0, 1, 1), close(2, 3), get(4, 5, CLOSED), put(6, 7, 1, CLOSED), close(8, 9, CLOSED)],
    "lent while it is being closed": [close(0, 9), get(1, 8, 1), get(2, 7, CLOSED)],
    "refused while closing has not ended": [close(0, None), get(1, 8, 1), get(2, 7, CLOSED)],
    "refused after closing has failed": [close(0, 1, FAILED), get(2, 3, CLOSED)],
    "a failed return that freed the slot": [get(0, 1, 1), get(2, 3, 2), put(4, 5, 2, FAILED), get(6, 7, 3)],
    "a failed return that did not": [get(0, 1, 1), get(2, 3, 2), put(4, 5, 2, FAILED), get(6, 7, REFUSED)],
    "a failed return, once more": [get(0, 1, 1), put(2, 3, 1, FAILED), put(4, 5, 1)],
    "a return that never ended": [get(0, 1, 1), put(2, None, 1), get(3, 4, 1)],
    "more room": [get(0, 1, 1), get(2, 3, 2), resize(4, 5, 3), get(6, 7, 3)],
    "more room while it is being made": [get(0, 1, 1), get(2, 3, 2), resize(4, 9, 3), get(5, 6, 3)],
    "less room": [get(0, 1, 1), resize(2, 3, 1), get(4, 5, REFUSED)],
    "a resize that failed": [get(0, 1, 1), resize(2, 3, 1, FAILED), get(4, 5, REFUSED), get(6, 7, 2)],
    "two resizes at once": [resize(0, 9, 1), resize(1, 8, 3), get(10, 11, 1), get(12, 13, REFUSED), get(14, 15, 2)],
    "refused while the pool is being looked after": [Operation(1, "drain", 0, 9, DONE), get(1, 2, REFUSED)],
    "a block": [get(0, 1, 1), leave(2, 3, 1), get(4, 5, 1)],
    "a block that ends after closing": [get(0, 1, 1), close(2, 3), leave(4, 5, 1)],
    "a block whose end failed": [get(0, 1, 1), leave(2, 3, 1, FAILED), get(4, 5, 1)],
    "a key refused in the short time between its return and another's end": [
        get(0, 1, 1, "b"),
        get(2, 12, REFUSED, "b"),
        get(3, 4, 2),
        put(9, 13, 1),
        put(10, 11, 2),
    ],
    "a loan and a return by others, for which there is room only before the last": [
        get(0, 1, 9),
        get(2, 3, 1, "b"),
        put(4, 20, 1, key="b"),
        get(5, 30, 1),
        put(6, 25, 1),
        get(7, 8, 2, "b"),
    ],
    "a loan and a return that has not ended, for which there is room only before the last": [
        get(0, 1, 1),
        get(2, 10, 3),
        get(3, 20, 2),
        put(4, None, 2),
    ],
    "a loan and a return of what may have come back, for which there is room only before the last": [
        get(0, 1, 1),
        get(2, 3, 2),
        put(4, 5, 2, FAILED),
        get(6, 9, 3),
        put(7, 11, 2),
        get(8, 10, 2),
    ],
    "shared before a return that failed, and gave it back": [
        get(0, 1, 1, "a"),
        get(2, 9, 1, "a"),
        put(3, 4, 1, FAILED),
        put(10, 11, 1, REFUSED),
    ],
    "returned on behalf of a call that has not ended": [get(0, 1, 1), put(2, 3, 1), get(4, None), put(5, 6, 1)],
    "shared with a call that found more room": [get(0, 20, 1, "a"), resize(1, 2, 0), get(3, 4, 1, "a")],
    "a hook that lends nothing": [Operation(1, "getconn", 0, 1, LENT), get(2, 3, 1)],
    "a key without a hash": [get(0, 1, FAILED, []), get(2, 3, 1)],
}

WRONG: dict[str, tuple[list[Operation], str]] = {
    "two holders": ([get(0, 1, 1), get(2, 3, 1)], "was lent to thread 1 and had not come back"),
    "two holders at once": ([get(0, 3, 1), get(1, 2, 1)], "was lent to thread 1 and had not come back"),
    "lent before the return began": ([get(0, 1, 1), get(2, 3, 1), put(4, 5, 1)], "had not come back"),
    "one too many": ([get(0, 1, 1), get(2, 3, 2), get(4, 5, 3)], "lent already: 2 of 2"),
    "one too many at once": ([get(0, 9, 1), get(1, 8, 2), get(2, 7, 3)], "already: 2 of 2"),
    "refused though there is room": ([get(0, 1, 1), get(2, 3, REFUSED)], "there was room: .* 1 of 2 connections"),
    "both refused": ([get(0, 3, REFUSED), get(1, 2, REFUSED)], "there was room: .* 0 of 2"),
    "timed out though there is room": ([get(0, 1, 1), get(2, 9, TIMED_OUT)], "there was room"),
    "refused though it was returned": ([get(0, 1, 1), get(2, 3, 2), put(4, 5, 1), get(6, 7, REFUSED)], "was room"),
    "a lost slot": ([get(0, 1, FAILED), get(2, 3, 1), get(4, 5, REFUSED)], "there was room"),
    "a key opened twice": ([get(0, 1, 1, "a"), get(2, 3, 2, "a")], "key 'a' was lent already, as connection 1"),
    "a key opened twice at once": ([get(0, 9, 1, "a"), get(1, 8, 2, "a")], "key 'a' was lent already"),
    "another's key": ([get(0, 1, 1, "a"), get(2, 3, 1, "b")], "to thread 1 under key 'a' and had not come back"),
    "a key that is lent is refused": ([get(0, 1, 1, "a"), get(2, 3, 2), get(4, 5, REFUSED, "a")], "is the answer"),
    "timed out waiting for a key that nobody opens": ([get(0, 1, 1, "b"), get(2, 3, TIMED_OUT, "a")], "was room"),
    "lent though closed on return": ([get(0, 1, 1), put(2, 3, 1, close=True), get(4, 5, 1)], "had been closed"),
    "returned twice": ([get(0, 1, 1), put(2, 3, 1), put(4, 5, 1)], "connection 1 was not lent"),
    "returned, never lent": ([put(0, 1, 1)], "connection 1 was not lent"),
    "returned under another's key": ([get(0, 1, 1, "a"), put(2, 3, 1, key="b")], "not lent under key 'b'"),
    "nothing under this key": ([get(0, 1, 1, "a"), put(2, 3, None, key="b")], "nothing was lent under key 'b'"),
    "a return refused": ([get(0, 1, 1), put(2, 3, 1, REFUSED)], "was lent, and could have been taken back"),
    "a return by key refused": ([get(0, 1, 1, "a"), put(2, 3, None, REFUSED, key="a")], "key 'a' was lent, and"),
    "lent though closed": ([close(0, 1), get(2, 3, 1)], "the pool had been closed, and yet connection 1 was lent"),
    "lent after a call found it closed": ([close(0, 9), get(1, 2, CLOSED), get(3, 4, 1)], "had been closed, and yet"),
    "taken back though closed": ([get(0, 1, 1), close(2, 3), put(4, 5, 1)], "takes nothing back"),
    "lent after a call found it closed by one that has not ended": (
        [close(0, None), get(1, 2, CLOSED), get(3, 4, 1)],
        "the pool had been closed, and yet",
    ),
    "closed and not closed by a call that failed": (
        [close(0, 1, FAILED), get(2, 3, CLOSED), get(4, 5, 1)],
        "the pool had been closed, and yet",
    ),
    "closed twice": ([close(0, 1), close(2, 3)], "had been closed already"),
    "closed by nobody": ([get(0, 1, CLOSED)], "nobody had closed the pool"),
    "refused though closed": ([get(0, 1, 1), get(2, 3, 2), close(4, 5), get(6, 7, REFUSED)], "another answer"),
    "less room": ([get(0, 1, 1), resize(2, 3, 1), get(4, 5, 2)], "lent already: 1 of 1"),
    "more room": ([get(0, 1, 1), get(2, 3, 2), resize(4, 5, 3), get(6, 7, REFUSED)], "there was room"),
    "a block gives back no more than its own": ([get(0, 1, 1), get(2, 3, 2), leave(4, 5, 1), get(6, 7, 2)], "had not"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_an_honest_pool_may_do_is_explained(name: str) -> None:
    check_history(RIGHT[name], Limits(2))


@pytest.mark.parametrize("name", WRONG)
def test_what_no_honest_pool_does_is_not_explained_and_the_reason_is_said(name: str) -> None:
    history, reason = WRONG[name]
    with pytest.raises(HistoryError, match=reason) as caught:
        check_history(history, Limits(2))
    assert set(caught.value.part) <= set(history)
    assert caught.value.operation in caught.value.part
    assert caught.value.reason in str(caught.value)
    assert not is_explained(caught.value.part, Limits(2))


def test_what_the_pool_does_unseen_excuses_a_refusal() -> None:
    history = [get(0, 1, 1), get(2, 3, REFUSED)]
    assert not is_explained(history, Limits(2))
    assert is_explained(history, Limits(2, unseen=1))


def test_a_forgiving_pool_takes_back_and_closes_again() -> None:
    history = [get(0, 1, 1), close(2, 3), put(4, 5, 1), close(6, 7)]
    assert not is_explained(history, Limits(2))
    assert is_explained(history, Limits(2, forgiving=True))


def test_an_operation_that_returned_before_it_was_called_is_no_history() -> None:
    with pytest.raises(ValueError, match="returned before it was called"):
        check_history([get(2, 1, 1)], Limits(1))


def test_the_part_that_is_shown_is_the_two_loans_among_two_thousand_operations() -> None:
    before = [step for n in range(0, 2000, 4) for step in (get(n, n + 1, n % 5), put(n + 2, n + 3, n % 5))]
    wrong = [get(2000, 2003, 7, thread=3), get(2001, 2004, 8, thread=1), get(2002, 2005, 7, thread=2)]
    with pytest.raises(HistoryError) as caught:
        check_history(before + wrong, Limits(3))
    assert caught.value.part == (wrong[0], wrong[2])
    assert str(caught.value) == (
        "no order of single steps explains what the pool did: connection 7 was lent to thread 3 and had not come back\n"
        "  thread 3: getconn() -> connection 7  [2000..2003]\n"
        "  thread 2: getconn() -> connection 7  [2002..2005]  <- this\n"
        "  (1001 other operations do not change this)"
    )


def test_of_a_refusal_the_fullest_moment_is_shown() -> None:
    history = [get(0, 1, 1), get(2, 20, REFUSED), get(3, 4, 2), put(5, 6, 1), put(7, 8, 2), get(9, 10, 3)]
    with pytest.raises(HistoryError) as caught:
        check_history(history, Limits(4))
    assert caught.value.part == (history[0], history[1], history[2])


# --- any history -----------------------------------------------------------------------------------------------------

chances = st.integers(0, 2**32).map(random.Random)


def simulated(chance: random.Random, moments: int, threads: int, **options: Any) -> tuple[History, Limits]:
    maxconn = chance.randint(1, 3)
    return Honest(chance, maxconn, threads=threads, **options).run(moments), Limits(maxconn)


@given(chances, st.integers(2, 6))
def test_whatever_an_honest_pool_does_is_explained(chance: random.Random, threads: int) -> None:
    options = {"closing": chance.choice([0, 0.01]), "failing": 0.2, "resizing": 0.02}
    check_history(*simulated(chance, 200, threads, **options))


@given(chances, st.integers(2, 4), st.integers(5, 30))
def test_a_spoilt_history_is_explained_if_trying_everything_finds_an_explanation(
    chance: random.Random, threads: int, moments: int
) -> None:
    options = {"closing": chance.choice([0, 0.1]), "failing": chance.choice([0, 0.3])}
    history, limits = simulated(chance, moments, threads, **options)
    history = spoilt(history, chance)
    explained = is_explained(history, limits)
    # Where it is not known what a call did, the checker may believe two things of it at once.
    unclear = any(op.outcome in {FAILED, PENDING} and op.name != "getconn" for op in history)
    if explained_by_brute_force(history, limits):
        assert explained
    elif not unclear:
        assert not explained


@given(chances, st.sampled_from([0, 0.05]))
@example(random.Random(742), 0)
def test_the_part_that_is_shown_is_not_explained_either(chance: random.Random, resizing: float) -> None:
    history, limits = simulated(chance, 60, 4, resizing=resizing)
    history = spoilt(history, chance)
    error = failure_of(history, limits)
    assert error is None or (set(error.part) <= set(history) and not is_explained(error.part, limits))


# --- the recorder ----------------------------------------------------------------------------------------------------


def test_a_recorder_writes_down_what_was_called_and_what_came_of_it(server: FakeServer) -> None:
    recorder = Recorder(ThreadedConnectionPool(0, 1))
    connection = recorder.getconn()
    with pytest.raises(psycopg2.pool.PoolError):
        recorder.getconn("key", timeout=0)
    recorder.putconn(connection, close=True)
    with recorder.connection() as other:
        assert other is not connection
    recorder.resize(0, 2)
    recorder.closeall()
    assert recorder.closed
    assert str(recorder.history) == (
        "thread 1: getconn()                         -> connection 1             [0..1]\n"
        "thread 1: getconn('key')                    -> refused (PoolExhausted)  [2..3]\n"
        "thread 1: putconn(connection 1, close=True) -> done                     [4..5]\n"
        "thread 1: getconn()                         -> connection 2             [6..7]\n"
        "thread 1: exit(connection 2)                -> done                     [8..9]\n"
        "thread 1: resize(maxconn=2)                 -> done                     [10..11]\n"
        "thread 1: closeall()                        -> done                     [12..13]"
    )
    check_history(recorder.history, Limits(1))


@pytest.mark.parametrize("module", [psycopg2.pool, ThreadedConnectionPool], ids=["psycopg2", "pgpool_rs"])
def test_every_end_of_a_call_has_its_outcome(server: FakeServer, module: Any) -> None:
    pool: Any = getattr(module, "ThreadedConnectionPool", module)(0, 1)
    recorder = Recorder(pool)
    server.fail("connect", DOWN)
    calls: list[Callable[[], object]] = [
        recorder.getconn,
        recorder.getconn,
        recorder.getconn,
        lambda: recorder.putconn(object()),
        recorder.closeall,
        recorder.getconn,
        recorder.closeall,
    ]
    for call in calls:
        with contextlib.suppress(psycopg2.Error):
            call()
    outcomes = [operation.outcome for operation in recorder.history]
    assert outcomes == [FAILED, LENT, REFUSED, REFUSED, DONE, CLOSED, CLOSED]
    check_history(recorder.history, Limits(1))


def test_a_block_over_a_pool_that_has_none_is_a_loan_and_a_return(server: FakeServer) -> None:
    recorder = Recorder(psycopg2.pool.ThreadedConnectionPool(0, 1))
    with recorder.connection() as connection:
        assert connection.server is server
    assert [operation.name for operation in recorder.history] == ["getconn", "putconn"]


def test_calls_under_way_are_pending_and_waiters_time_out(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 1)
    recorder = Recorder(pool)
    connection = recorder.getconn()
    with pytest.raises(psycopg2.pool.PoolError):
        recorder.getconn(timeout=0.001)
    waiter = Task(recorder.getconn, timeout=None)
    wait_for_waiters(pool, 1)
    assert [operation.outcome for operation in recorder.history] == [LENT, TIMED_OUT, PENDING]
    recorder.putconn(connection)
    waiter.wait()
    assert recorder.history[2].outcome is LENT
    check_history(recorder.history, Limits(1))


def test_a_connection_at_the_address_of_one_that_is_gone_has_another_number() -> None:
    server = FakeServer(MortalFakeConnection, keep=False)
    with server.installed():
        recorder = Recorder(ThreadedConnectionPool(0, 1))
        addresses = set()
        for _ in range(50):
            connection = recorder.getconn()
            addresses.add(id(connection))
            recorder.putconn(connection, close=True)
            # A recorder that kept it alive would keep its session alive.
            del connection
            assert server.open == 0
    numbers = [operation.connection for operation in recorder.history if operation.name == "getconn"]
    assert len(addresses) < 50
    assert numbers == list(range(1, 51))


def test_a_pool_that_lends_wrappers_is_looked_through(server: FakeServer) -> None:
    class Wrapper:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

    class Wrapping(ThreadedConnectionPool):
        def getconn(self, *args: Any, **kwargs: Any) -> Any:
            return Wrapper(super().getconn(*args, **kwargs))

        def putconn(self, conn: Any = None, *args: Any, **kwargs: Any) -> None:
            super().putconn(conn.inner, *args, **kwargs)

    recorder = Recorder(Wrapping(1, 1), identify=lambda wrapper: wrapper.inner)
    for _ in range(2):
        recorder.putconn(recorder.getconn())
    assert {operation.connection for operation in recorder.history} == {1}


def test_a_history_is_a_tuple_and_can_be_written_by_hand() -> None:
    history = History([get(0, 1, 1)])
    assert history == (Operation(1, "getconn", 0, 1, LENT, 1),)
    assert repr(history) == "<history of 1 operations>\nthread 1: getconn() -> connection 1  [0..1]"
    assert repr(History()) == "<empty history>"


# --- what real pools do ----------------------------------------------------------------------------------------------


def recorded(
    pool: Any, server: FakeServer, *, meanwhile: Callable[[Recorder], object] | None = None, **options: Any
) -> History:
    """Record 2,000 operations of 8 threads over a server that is slow at times, and whose calls fail at times."""
    chance = random.Random(0)

    def trouble(_connection: object) -> None:
        if chance.random() < 0.1:
            time.sleep(0.0005)
        if chance.random() < 0.05:
            raise psycopg2.OperationalError("down")

    server.on("connect", trouble)
    server.on("rollback", trouble)
    recorder = Recorder(pool)
    other = Task(meanwhile or (lambda _: None), recorder)
    exercise(recorder, threads=8, operations=250, **options)
    other.result()
    return recorder.history


@pytest.mark.parametrize("minconn", [0, 2])
@pytest.mark.parametrize("keys", [(), ("a", "b")], ids=["no keys", "keys"])
# With workers, a time that is up ends the wait for a connect too, and so while there is room.
@pytest.mark.parametrize(
    ("timeout", "grow"), [(0, "caller"), (0.001, "caller"), (None, "caller"), (0, "workers"), (None, "workers")]
)
def test_what_pgpool_rs_does_under_threads_is_explained(
    server: FakeServer, minconn: int, keys: tuple[str, ...], timeout: float | None, grow: Any
) -> None:
    pool = ThreadedConnectionPool(minconn, 3, name="quiet", grow=grow)
    # A shared key is returned once for all, and the second caller has nothing to return: no caller waits for ever.
    history = recorded(pool, server, keys=keys, hold=0.0003, getconn={"timeout": timeout}, capacity=3)
    assert len(history) >= 2000
    check_history(history, Limits(3))


class Together:
    """Pools with one limit, each asked in turn: together they are one pool of that size."""

    def __init__(self, limit: SharedLimit) -> None:
        self._pools = [ThreadedConnectionPool(0, 3, name=f"pool {number}", limit=limit) for number in range(3)]
        self._turns = itertools.cycle(self._pools)
        self._owners: dict[int, ThreadedConnectionPool] = {}

    def getconn(self, **kwargs: Any) -> Any:
        pool = next(self._turns)
        conn = pool.getconn(**kwargs)
        self._owners[id(conn)] = pool
        return conn

    def putconn(self, conn: Any, **kwargs: Any) -> None:
        self._owners[id(conn)].putconn(conn, **kwargs)


@pytest.mark.parametrize("timeout", [0, 0.001, 60])
def test_what_pools_with_one_limit_do_under_threads_is_explained(server: FakeServer, timeout: float) -> None:
    # A refused caller may have found what was idle in another pool.
    history = recorded(Together(SharedLimit(4)), server, hold=0.0003, getconn={"timeout": timeout})
    assert len(history) >= 2000
    check_history(history, Limits(4, unseen=4))


def test_a_limit_that_gives_one_place_too_many_is_found_out(server: FakeServer) -> None:
    history = recorded(Together(SharedLimit(5)), server, hold=0.0003, getconn={"timeout": 60}, capacity=5)
    with pytest.raises(HistoryError, match="lent"):
        check_history(history, Limits(4, unseen=4))


@pytest.mark.parametrize("keys", [(), ("a", "b")], ids=["no keys", "keys"])
def test_what_psycopg2_pool_does_under_threads_is_explained(server: FakeServer, keys: tuple[str, ...]) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 3)
    check_history(recorded(pool, server, keys=keys, hold=0.0003), Limits(3))


@pytest.mark.parametrize("timeout", [0, 0.001, None])
def test_closing_in_the_midst_of_it_is_explained(server: FakeServer, timeout: float | None) -> None:
    def close_it(recorder: Recorder) -> None:
        while len(recorder.history) < 500:
            time.sleep(0.001)
        recorder.closeall()

    pool = ThreadedConnectionPool(1, 3)
    history = recorded(pool, server, meanwhile=close_it, hold=0.0003, keys=("a",), getconn={"timeout": timeout})
    assert {operation.outcome for operation in history} >= {LENT, DONE, CLOSED}
    check_history(history, Limits(3))


def test_resizing_in_the_midst_of_it_is_explained(server: FakeServer) -> None:
    def resize_it(recorder: Recorder) -> None:
        for turn in range(30):
            recorder.resize(0, 1 + turn % 4)
            time.sleep(0.001)
            recorder.drain()

    pool = ThreadedConnectionPool(0, 3)
    history = recorded(pool, server, meanwhile=resize_it, hold=0.0003, keys=("a",), getconn={"timeout": 0.001})
    check_history(history, Limits(3))


def test_blocks_in_threads_are_explained(server: FakeServer) -> None:
    recorder = Recorder(ThreadedConnectionPool(1, 2, timeout=None))

    def work() -> None:
        for _ in range(50):
            with recorder.connection() as connection:
                connection.cursor().execute("SELECT 1")

    for task in [Task(work) for _ in range(4)]:
        task.result()
    assert len(recorder.history) == 400
    check_history(recorder.history, Limits(2))


def test_a_recorder_may_be_used_by_threads_that_come_and_go(server: FakeServer) -> None:
    recorder = Recorder(ThreadedConnectionPool(1, 2))
    for _ in range(3):
        thread = threading.Thread(target=lambda: recorder.putconn(recorder.getconn()))
        thread.start()
        thread.join()
    check_history(recorder.history, Limits(2))
