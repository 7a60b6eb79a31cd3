"""What is counted is what has happened, and in a quiet pool the figures add up."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolError, PoolTimeout, ThreadedConnectionPool, TooManyRequests
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import ACTIVE, INTRANS, FakeServer
from tests.lib.callbacks import Callback, Killed
from tests.lib.pools import assert_balanced, assert_sound, closes, filled, give_back, lend, wait_for_quiet
from tests.lib.waits import Task, counts, held, waiting_task

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
TABLE = PAGE.read_text().partition("\n## Statistics\n")[2].partition("\n## ")[0]
NAMES = [name for cell in re.findall(r"^\| (`.+?) \|", TABLE, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)]
NOW, EVENTS = NAMES[:10], NAMES[10:]
DOWN = psycopg2.OperationalError("down")


def events(pool: Any) -> dict[str, int]:
    """Tell what was counted, without times and zeros."""
    stats = pool.get_stats()
    return {name: stats[name] for name in EVENTS if stats[name] and not name.endswith("_ms")}


# --- the dict --------------------------------------------------------------------------------------------------------


def test_all_names_are_always_there_and_whole_numbers(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1)
    for stats in (pool.get_stats(), pool.pop_stats()):
        assert list(stats) == NOW + EVENTS
        assert {type(number) for number in stats.values()} == {int}
    pool.closeall()
    assert list(pool.get_stats()) == NOW + EVENTS


def now(pool: Any) -> dict[str, int]:
    """Tell what there is now, without zeros, limits and times."""
    stats = pool.get_stats()
    names = [name for name in NOW if name not in {"pool_min", "pool_max", "oldest_loan_ms"}]
    return {name.removeprefix("pool_"): stats[name] for name in names if stats[name]}


def test_what_there_is_now(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(2, 3)
    assert [pool.get_stats()[name] for name in ("pool_min", "pool_max")] == [2, 3]
    assert now(pool) == {"size": 2, "available": 2}
    lent = lend(pool, 2)
    assert now(pool) == {"size": 2, "lent": 2}
    with held(server.hold("connect"), pool.getconn) as opening:
        waiter = waiting_task(pool)
        assert now(pool) == {"size": 3, "lent": 2, "opening": 1, "requests_waiting": 1}
    lent.append(opening.result())
    lent[0].status = INTRANS
    with held(server.hold("rollback"), pool.putconn, lent[0]) as returning:
        assert now(pool) == {"size": 3, "lent": 2, "returning": 1, "requests_waiting": 1}
    returning.result()
    lent[0] = waiter.result()
    assert now(pool) == {"size": 3, "lent": 3}
    give_back(pool, lent)
    assert now(pool) == {"size": 2, "available": 2}
    pool.closeall()
    assert now(pool) == {}
    assert counts(pool)["idle"] == 0


def test_a_connection_under_a_check_is_neither_idle_nor_lent(server: FakeServer) -> None:
    seen = []
    pool: Any = ThreadedConnectionPool(1, 1, check=lambda _: seen.append(now(pool)), check_after=0)
    pool.putconn(pool.getconn())
    assert seen == [{"size": 1, "checking": 1}]


def test_the_age_of_the_oldest_loan(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2)

    def age() -> int:
        # The clock is exact to a few milliseconds.
        return round(int(pool.get_stats()["oldest_loan_ms"]) / 1000)

    assert age() == 0
    first = pool.getconn()
    advance_clock(10)
    second = pool.getconn()
    advance_clock(20)
    assert age() == 30
    pool.putconn(first)
    assert age() == 20
    pool.pop_stats()
    assert age() == 20
    pool.putconn(second)
    assert age() == 0
    pool.getconn()
    advance_clock(5)
    pool.closeall()
    assert age() == 0


def test_pop_gives_what_get_gives_and_begins_anew(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 2)
    give_back(pool, lend(pool, 2))
    before = pool.get_stats()
    assert pool.pop_stats() == before
    after = pool.get_stats()
    assert [after[name] for name in NOW] == [before[name] for name in NOW]
    assert {after[name] for name in EVENTS} == {0}
    pool.putconn(pool.getconn())
    assert events(pool) == {"requests_num": 1}


def test_each_pool_counts_for_itself(server: FakeServer, our_class: Any) -> None:
    first, second = our_class(1, 1), our_class(1, 1)
    first.getconn()
    assert (events(first)["requests_num"], events(second).get("requests_num")) == (1, None)


def test_a_pool_that_is_made_anew_counts_anew(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1)
    pool.putconn(pool.getconn())
    pool.__init__(1, 1)
    assert events(pool) == {"connections_num": 1}


# --- requests --------------------------------------------------------------------------------------------------------


def test_each_loan_is_a_request_by_whatever_path(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 2)
    give_back(pool, lend(pool, 2))
    pool.putconn(pool.getconn("key"), "key")
    with pool.connection():
        pass
    with pool.connection("key"):
        pool.getconn("key")
    assert pool.get_stats()["requests_num"] == 6
    assert pool.get_stats()["requests_errors"] == 0


def refused(pool: Any) -> None:
    with pytest.raises(PoolError):
        pool.getconn()


def timed_out(pool: Any) -> None:
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.001)


def unhashable(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.getconn([])


@pytest.mark.parametrize(
    ("ask", "more"),
    [
        (refused, {"requests_refused": 3}),
        (timed_out, {"requests_timed_out": 3, "requests_queued": 3}),
        (unhashable, {}),
    ],
)
def test_a_request_that_ends_with_an_error_is_counted(
    server: FakeServer, ask: Callable[[Any], None], more: dict[str, int]
) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.getconn()
    for _ in range(3):
        ask(pool)
    assert events(pool) == {"requests_num": 4, "requests_errors": 3, "connections_num": 1, **more}


def test_a_request_that_finds_the_queue_full_is_counted_apart(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, timeout=5, max_waiting=1)
    connection = pool.getconn()
    waiter = waiting_task(pool)
    for _ in range(2):
        with pytest.raises(TooManyRequests):
            pool.getconn()
    pool.putconn(connection)
    assert waiter.result() is connection
    expected = {"requests_num": 4, "requests_queued": 1, "requests_errors": 2, "requests_crowded": 2}
    assert events(pool) == {**expected, "connections_num": 1}


@pytest.mark.parametrize("error", [DOWN, ValueError("odd"), KeyboardInterrupt(), Killed()])
def test_a_request_whose_connect_fails_is_an_error(server: FakeServer, our_class: Any, error: BaseException) -> None:
    pool = our_class(0, 1)
    server.fail("connect", error)
    with pytest.raises(type(error)):
        pool.getconn()
    assert events(pool) == {"requests_num": 1, "requests_errors": 1, "connections_num": 1, "connections_errors": 1}


def test_a_request_of_a_closed_pool_is_none(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1)
    pool.closeall()
    with pytest.raises(PoolClosed):
        pool.getconn()
    assert events(pool) == {}


def test_who_had_to_wait_is_counted_once_and_with_the_time(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool), waiting_task(pool)]
    time.sleep(0.03)
    for waiter in waiters:
        pool.putconn(connection)
        assert waiter.result() is connection
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_queued"], stats["requests_errors"]) == (3, 2, 0)
    assert stats["requests_wait_ms"] >= 2 * 20


def test_who_was_served_at_once_has_not_waited(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.putconn(pool.getconn(timeout=5))
    stats = pool.get_stats()
    assert (stats["requests_queued"], stats["requests_wait_ms"]) == (0, 0)


def test_who_waited_for_a_key_has_waited(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2)
    with held(server.hold("connect"), pool.getconn, "key") as first:
        second = waiting_task(pool, key="key")
    assert first.result() is second.result()
    assert (pool.get_stats()["requests_num"], pool.get_stats()["requests_queued"]) == (2, 1)


def test_a_waiter_whose_pool_was_closed_is_an_error(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    pool.getconn()
    waiter = waiting_task(pool)
    pool.closeall()
    with pytest.raises(PoolClosed):
        waiter.result()
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_queued"], stats["requests_errors"]) == (2, 1, 1)


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fast", "key", "dirty", "close", "block"])
def test_the_time_that_a_connection_was_lent_for_is_added_up(server: FakeServer, our_class: Any, way: str) -> None:
    pool = our_class(1, 1, check=None)
    for _ in range(2):
        if way == "block":
            with pool.connection():
                advance_clock(10)
        else:
            key = "key" if way == "key" else None
            connection = pool.getconn(key)
            advance_clock(10)
            if way == "dirty":
                connection.status = INTRANS
            pool.putconn(connection, key, close=way == "close")
        advance_clock(1000)
    assert 20_000 <= pool.get_stats()["usage_ms"] < 900_000


def test_the_time_that_connects_took_is_added_up_failed_ones_too(server: FakeServer, our_class: Any) -> None:
    server.on("connect", lambda _: time.sleep(0.02))
    pool = our_class(1, 2)
    server.fail("connect", None, DOWN)
    pool.getconn()
    pool.getconn()
    assert pool.get_stats()["connections_ms"] >= 2 * 15
    pool.maxconn = 3
    before = pool.get_stats()["connections_ms"]
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    assert pool.get_stats()["connections_ms"] >= before + 15


# --- histograms ------------------------------------------------------------------------------------------------------


def buckets(pool: Any, name: str) -> dict[float, int]:
    """Tell how many times each bucket of a histogram has, without the empty ones."""
    found, before = {}, 0
    for bound, count in pool.get_histograms()[name].buckets.items():
        if count != before:
            found[bound] = count - before
        before = count
    return found


def test_all_histograms_have_the_same_bounds_which_the_page_names(server: FakeServer, our_class: Any) -> None:
    histograms = our_class(0, 1).get_histograms()
    assert list(histograms) == ["wait", "use", "create"]
    told = re.search(r"at most so long: (.*?) and infinity", PAGE.read_text(), re.DOTALL)
    assert told
    bounds = [*(float(bound) for bound in told[1].split(",")), math.inf]
    for histogram in histograms.values():
        assert (histogram.buckets, histogram.sum) == (dict.fromkeys(bounds, 0), 0.0)
        assert histogram.count == 0


@pytest.mark.parametrize("way", ["fast", "key", "dirty", "close", "block", "reset", "leak_after"])
def test_a_use_is_in_its_bucket_by_whatever_path(server: FakeServer, our_class: Any, way: str) -> None:
    options: dict[str, dict[str, Any]] = {"reset": {"reset": str}, "leak_after": {"leak_after": 1e6}}
    pool = our_class(1, 1, check=None, **options.get(way, {}))
    for lasts in (0, 2, 100):
        if way == "block":
            with pool.connection():
                advance_clock(lasts)
        else:
            key = "key" if way == "key" else None
            connection = pool.getconn(key)
            advance_clock(lasts)
            if way == "dirty":
                connection.status = INTRANS
            pool.putconn(connection, key, close=way == "close")
        advance_clock(1000)
    # The clock is exact to a few milliseconds, and the machine may be slow.
    uses = buckets(pool, "use")
    assert (uses.get(2.5, 0) + uses.get(5.0, 0), uses[math.inf], sum(uses.values())) == (1, 1, 3)
    assert 102 <= pool.get_histograms()["use"].sum < 900


def test_a_loan_that_lasts_is_not_among_the_uses_and_the_end_of_the_pool_ends_it(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.getconn()
    advance_clock(100)
    assert buckets(pool, "use") == {}
    assert pool.get_stats()["usage_ms"] >= 100_000
    pool.closeall()
    assert buckets(pool, "use") == {math.inf: 1}


def test_a_wait_is_counted_for_each_request_that_gets_a_connection(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1)
    for key in (None, "key", None):
        pool.putconn(pool.getconn(key), key)
    pool.getconn()
    refused(pool)
    assert pool.get_histograms()["wait"].count == 4


def test_a_wait_includes_the_queue_and_the_connect(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    server.on("connect", lambda _: time.sleep(0.03))
    connection = pool.getconn()
    assert pool.get_histograms()["wait"].sum >= 0.03
    assert pool.get_histograms()["create"].sum >= 0.03
    waiter = waiting_task(pool)
    time.sleep(0.03)
    pool.putconn(connection)
    waiter.result()
    wait = pool.get_histograms()["wait"]
    assert wait.sum >= 0.06
    assert (wait.count, wait.buckets[0.025]) == (2, 0)


def test_only_a_connect_that_succeeds_is_among_the_times_of_creation(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2)
    server.fail("connect", DOWN, None)
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    pool.getconn()
    assert pool.get_histograms()["create"].count == 1


def test_popped_statistics_leave_the_histograms(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1)
    for _ in range(3):
        pool.putconn(pool.getconn())
        before = pool.get_histograms()
        pool.pop_stats()
        assert pool.get_histograms() == before
    assert [pool.get_histograms()[name].count for name in ("wait", "use", "create")] == [3, 3, 1]


# --- connections -----------------------------------------------------------------------------------------------------


def end(way: str, pool: Any, connection: Any, server: FakeServer) -> None:
    """Bring a lent connection to its end."""
    if way == "broken":
        connection.set_closed(2)
    elif way == "unknown":
        connection.status = 4
    elif way == "closed":
        connection.set_closed(1)
    elif way == "old":
        advance_clock(1001)
    elif way in {"rollback", "rollback breaks"}:
        connection.status = ACTIVE
        server.fail("rollback", psycopg2.DatabaseError("odd") if way == "rollback" else DOWN)
    elif way == "pool":
        pool.closeall()
        return
    elif way == "drain":
        pool.drain()
    pool.putconn(connection, close=way == "close")


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("close", {"closed_requested": 1}),
        ("surplus", {"closed_surplus": 1}),
        ("broken", {"closed_lost": 1, "connections_lost": 1, "returns_bad": 1}),
        ("unknown", {"closed_lost": 1, "connections_lost": 1, "returns_bad": 1}),
        ("closed", {"closed_by_borrower": 1}),
        ("old", {"closed_lifetime": 1}),
        ("rollback", {"closed_unclean": 1, "returns_bad": 1}),
        ("rollback breaks", {"closed_lost": 1, "connections_lost": 1, "returns_bad": 1}),
        ("pool", {"closed_with_pool": 1}),
        ("drain", {"closed_drained": 1}),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_each_end_is_counted_under_its_reason(
    server: FakeServer, our_class: Any, *, way: str, expected: dict[str, int], background: bool
) -> None:
    max_idle = 0 if way == "surplus" else None
    pool = our_class(0, 1, background=background, max_idle=max_idle, max_lifetime=1000)
    end(way, pool, pool.getconn(), server)
    wait_for_quiet(pool)
    assert events(pool) == {"requests_num": 1, "connections_num": 1, **expected}
    assert_balanced(pool, server)


def test_a_failed_check_is_a_lost_connection_and_no_bad_return(server: FakeServer, our_class: Any) -> None:
    check = Callback()
    pool = filled(our_class, 1, check=check, check_after=0)
    pool.pop_stats()
    check.raises(psycopg2.DatabaseError("dead"))
    pool.getconn()
    assert events(pool) == {
        "requests_num": 1,
        "connections_num": 1,
        "connections_lost": 1,
        "checks_failed": 1,
        "closed_lost": 1,
    }


def test_a_connection_that_a_hook_took_back_is_counted(server: FakeServer, our_class: Any) -> None:
    class Pool(our_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            super()._connect(key)
            raise ValueError("late")

    pool = Pool(0, 1)
    with pytest.raises(ValueError, match="late"):
        pool.getconn()
    assert closes(pool) == {"unplaced": 1}
    assert_balanced(pool, server)


def test_connections_of_the_constructor_are_counted(server: FakeServer, our_class: Any) -> None:
    assert events(our_class(3, 5)) == {"connections_num": 3}
    assert events(our_class(3, 5, open_workers=3)) == {"connections_num": 3}


# --- everything at once ----------------------------------------------------------------------------------------------


def spoil(connection: Any, dice: random.Random) -> None:
    """Do something to a lent connection, or nothing."""
    match dice.randrange(6):
        case 0 | 1:
            connection.status = INTRANS
        case 2:
            connection.status = 4
        case 3 | 4 as closed:
            connection.set_closed(closed - 2)


class Storm:
    """Does everything that can be done to a pool, from several threads, with a server that fails now and then."""

    def __init__(self, pool: Any, server: FakeServer, seed: int) -> None:
        self.pool = pool
        self.server = server
        self.dice = random.Random(seed)

    def steps(self, number: int) -> None:
        dice = random.Random(self.dice.random() + number)
        for _ in range(100):
            with suppress(PoolError, psycopg2.Error, ValueError, Killed):
                self.step(dice)

    def step(self, dice: random.Random) -> None:
        pool = self.pool
        errors = (DOWN, ValueError("odd"), Killed())
        match dice.randrange(20):
            case 0:
                self.server.fail(dice.choice(["connect", "rollback", "close"]), dice.choice(errors))
            case 1:
                pool.maintain()
            case 2:
                pool.check()
            case 3:
                pool.drain()
            case 4:
                pool.resize(dice.randrange(3), dice.randrange(3, 5))
            case 5:
                advance_clock(dice.choice([0.1, 5, 50]))
            case 6:
                with pool.connection() as connection:
                    connection.status = INTRANS
                    if dice.random() < 0.3:
                        raise psycopg2.OperationalError
            case 7:
                key = dice.choice("ab")
                pool.putconn(pool.getconn(key), key)
            case 8:
                pool.get_stats()
                pool.loans()
            case _:
                connection = pool.getconn(timeout=dice.choice([0, 0.01, 0.1]))
                spoil(connection, dice)
                pool.putconn(connection, close=dice.random() < 0.1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"background": True},
        {"max_idle": 10, "max_lifetime": 60, "leak_after": 5},
        {"check": lambda connection: connection.cursor().execute("SELECT 1"), "check_after": 0, "reset": "discard"},
        {"background": True, "reclaim": True, "max_idle": 3, "check_after": 0, "configure": lambda _: None},
    ],
    ids=["plain", "background", "ages", "callbacks", "all"],
)
@pytest.mark.parametrize("seed", range(3))
def test_after_a_storm_the_figures_add_up(server: FakeServer, options: dict[str, Any], seed: int) -> None:
    pool: Any = ThreadedConnectionPool(1, 4, **options)
    for call in ("connect", "rollback", "close"):
        server.on(call, lambda _: time.sleep(0.0005))
    storm = Storm(pool, server, seed)
    for task in [Task(storm.steps, number) for number in range(5)]:
        task.result()
    server.calm()
    wait_for_quiet(pool)
    # Two threads may use a key at once, and one return it under the other.
    for loan in pool.loans():
        pool.putconn(pool._used[loan.key], loan.key)
    pool.resize(1, 4)
    assert counts(pool)["lent"] == 0
    assert_sound(pool, server)
    pool.closeall()
    assert_balanced(pool, server)
