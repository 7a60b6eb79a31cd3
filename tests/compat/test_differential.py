"""Random programs run on psycopg2.pool and on pgpool_rs side by side: same results, same errors, same views.

Each of the two pools stands over a fake server of its own, and both servers suffer the same faults. After each step
these are compared: what came back (connections by their number), the type and text of what was raised, `_pool`,
`_used`, `_rused`, `_keys`, `closed`, and every connect, rollback and close that the servers saw, in order.

Where pgpool_rs differs on purpose, the machine brings psycopg2.pool to where pgpool_rs must be, and compares that.
This list is complete, and nothing else is tolerated:

 1. A rollback or close that fails on return: psycopg2.pool keeps the slot. Here the connection is closed and its slot
    freed; what a database says (psycopg2.Error, OSError) is logged once or more and putconn returns, anything else is
    raised, a BaseException before an Exception.
 2. A key that the connection was not lent under, also with a connection that was not lent: PoolError, nothing changes;
    if it cannot be hashed, psycopg2.pool's TypeError, nothing changes.
 3. putconn(None, key): returns the connection lent under that key; if there is none, PoolError, nothing changes.
 4. Automatic keys and users' keys of the same value are different: psycopg2.pool is given a key of a million more in
    place of any number from 1 on.
 5. The limit is strict: psycopg2.pool is told, for as long as more than maxconn are lent, that maxconn are.
 6. Above maxconn, idle connections are closed when it is lowered, and returned ones are not kept.
 7. What a close in closeall raises and no database says: everything is closed all the same, then it is raised, the
    first BaseException before the first Exception.
 8. A constructor that fails closes what it had opened.
 9. A negative size assigned later is a ValueError, and nothing changes.
10. A closed pool is a PoolClosed and an exhausted one a PoolExhausted, with the texts of psycopg2.pool's PoolError.
11. psycopg2.pool asks libpq alone whether a connection is in a transaction. Here psycopg2's own account is asked as
    well, and what either calls a transaction is rolled back.

Any of the five hooks may be overridden, in the class or in the instance; what each is called with is compared, too.

At least 50,000 operations are made on both pools and compared in the profile of `make test`, at least 1,000,000 in the
nightly one: each part goes on until it has its share, and prints how many there have been. What pgpool_rs alone had to
refuse, which is differences 2, 3 and 9, is counted apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg2.extensions import STATUS_BEGIN, STATUS_READY
from psycopg2.pool import PoolError

import pgpool_rs.pool
from pgpool_rs.testing import IDLE, INTRANS, FakeServer
from tests.lib.oracle import FAULTS, HOOKS, UNHASHABLE, USER_KEYS, Comparison, Odd, Side, Stop, is_automatic, theirs

# The nightly profile takes minutes.
pytestmark = pytest.mark.timeout(1800)

keys = st.sampled_from(USER_KEYS)
anything = st.integers(0, 1 << 16)
faults = st.sampled_from(sorted(FAULTS))
# It is tested for its truth, as psycopg2.pool does.
close_flags = st.sampled_from([False, False, False, 0, "", None, True, 1, "yes"])
closings = st.tuples(st.just("closed"), st.integers(0, 2))
no_hooks: st.SearchStrategy[frozenset[str]] = st.just(frozenset())
some_hooks = st.one_of(no_hooks, no_hooks, st.frozensets(st.sampled_from(HOOKS)))


def what_is_raised(outcomes: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Tell what several rollbacks and closes come to: a database's errors are logged, others raised (difference 1)."""
    raised = [outcome for outcome in outcomes if outcome[0] == "raised"]
    strong = [outcome for outcome in raised if not issubclass(outcome[1], Exception)]
    plain = [outcome for outcome in raised if not issubclass(outcome[1], (psycopg2.Error, OSError))]
    return [*strong, *plain, ("returned", None)][0]


class SideBySide(Comparison):
    """Does the same to both pools, and compares."""

    # --- the pools and what is in them ---

    @initialize(
        minconn=st.integers(0, 4),
        more=st.integers(0, 5),
        fault=st.one_of(st.none(), st.none(), st.none(), st.tuples(faults, st.integers(0, 2))),
        hooks=st.tuples(some_hooks, some_hooks, st.sampled_from(["", "", "a new one", "the same"])),
    )
    def construct(
        self,
        minconn: int,
        more: int,
        fault: tuple[str, int] | None,
        hooks: tuple[frozenset[str], frozenset[str], str],
    ) -> None:
        self.in_class, self.in_instance, self.own_keys = hooks
        if fault is not None and fault[1] < minconn:
            for side in (self.left, self.right):
                side.server.fail("connect", *[None] * fault[1], FAULTS[fault[0]]())
            self.agree(lambda side: self.make(side, minconn, minconn + more))
            for connection in self.left.server.connections:  # difference 8
                connection.close()
            assert self.left.server.log == self.right.server.log
        self.agree(lambda side: self.make(side, minconn, minconn + more))

    def make(self, side: Side, minconn: int, maxconn: int) -> None:
        module = psycopg2.pool if side is self.left else pgpool_rs.pool
        base: Any = getattr(module, self.class_name)
        originals: dict[str, Callable[..., Any]] = {name: getattr(base, name) for name in HOOKS}
        if self.own_keys:
            numbers = itertools.count()
            originals["_getkey"] = lambda _: f"own {next(numbers)}" if self.own_keys == "a new one" else "mine"
        hooks = {name: side.hook(name, originals[name]) for name in HOOKS}
        pool_class = type("Pool", (base,), {name: hooks[name] for name in self.in_class}) if self.in_class else base
        side.pool = pool_class(minconn, maxconn, side)
        for name in self.in_instance:
            setattr(side.pool, name, partial(hooks[name], side.pool))

    # --- lending ---

    def getconn(self, *keys_of: Callable[[Side], Any]) -> None:
        """Borrow on both sides, with psycopg2.pool's limit made strict (difference 5)."""
        pool = self.left.pool
        limit = pool.maxconn
        pool.maxconn = max(limit, len(pool._used))
        self.agree(lambda side: side.pool.getconn(*[key_of(side) for key_of in keys_of]))
        pool.maxconn = limit

    @rule(times=st.integers(1, 8))
    def borrow(self, times: int) -> None:
        for _ in range(times):
            self.getconn()
            self.the_views_are_equal()

    @rule()
    def borrow_under_the_key_none(self) -> None:
        self.getconn(lambda _: None)

    @rule(key=keys)
    def borrow_under_a_key(self, key: Any) -> None:
        self.getconn(lambda side: theirs(key) if side is self.left else key)

    @rule(key=st.sampled_from(UNHASHABLE))
    def borrow_under_an_unhashable_key(self, key: Any) -> None:
        self.getconn(lambda side: key)

    @rule()
    def borrow_under_a_key_of_the_pools_making(self) -> None:
        self.getconn(lambda side: side.pool._getkey())

    @precondition(lambda self: self.lent)
    @rule(which=anything)
    def borrow_again_under_the_key_of_a_loan(self, which: int) -> None:
        number = self.lent[which % len(self.lent)]
        self.getconn(lambda side: side.pool._rused[id(self.pick(side, number))])

    # --- returning ---

    def putconn(self, number: int, return_it: Callable[[Side, Any], Any]) -> None:
        """Return a lent connection on both sides, and do for psycopg2.pool what it fails to do."""
        pool, connection = self.left.pool, self.pick(self.left, number)
        crowded = len(pool._pool) + len(pool._used) > pool.maxconn
        key, warned = pool._rused[id(connection)], self.warnings.count
        minconn, pool.minconn = pool.minconn, 0 if crowded else pool.minconn  # difference 6
        if (connection.transaction_status, connection.status) == (IDLE, STATUS_BEGIN):
            connection.transaction_status = INTRANS  # difference 11
        expected = self.left.try_(lambda: return_it(self.left, connection))
        if connection.status == STATUS_READY and any(connection is idle for idle in pool._pool):
            connection.transaction_status = IDLE  # difference 11
        pool.minconn = minconn
        got = self.right.try_(lambda: return_it(self.right, self.pick(self.right, number)))
        if expected[0] == "raised":
            expected = self.mend_a_failed_return(connection, key, expected)
            assert expected[0] == "raised" or self.warnings.count > warned
        else:
            assert self.warnings.count == warned
        self.compare(expected, got)

    def mend_a_failed_return(self, connection: Any, key: Any, failure: tuple[Any, ...]) -> tuple[Any, ...]:
        """Free the slot of a connection whose rollback or close failed; tell what is to come of it (difference 1)."""
        failures = [failure]
        if self.left.server.log[-1] == ("rollback", connection.serial):
            failures.append(self.left.try_(connection.close))
        del self.left.pool._used[key], self.left.pool._rused[id(connection)]
        return what_is_raised(failures)

    @precondition(lambda self: self.lent)
    @rule(which=anything, times=st.integers(1, 8))
    def give_back(self, which: int, times: int) -> None:
        for _ in range(min(times, len(self.lent))):
            number = self.lent[which % len(self.lent)]
            self.putconn(number, lambda side, connection: side.pool.putconn(connection))
            self.the_views_are_equal()

    @precondition(lambda self: self.lent)
    @rule(which=anything, close=close_flags)
    def give_back_and_say_whether_to_close(self, which: int, close: bool) -> None:
        number = self.lent[which % len(self.lent)]
        self.putconn(number, lambda side, connection: side.pool.putconn(connection, close=close))

    @precondition(lambda self: self.lent)
    @rule(which=anything, close=close_flags)
    def give_back_with_the_key_that_rused_shows(self, which: int, close: bool) -> None:
        number = self.lent[which % len(self.lent)]
        self.putconn(
            number, lambda side, connection: side.pool.putconn(connection, side.pool._rused[id(connection)], close)
        )

    @precondition(lambda self: self.lent)
    @rule(which=anything, key=keys, close=close_flags)
    def give_back_with_some_key(self, which: int, key: Any, close: bool) -> None:
        number = self.lent[which % len(self.lent)]
        own = self.right.pool._rused[id(self.pick(self.right, number))]
        if self.right.pool.closed or (own == key and not is_automatic(own)):
            self.putconn(
                number,
                lambda side, connection: side.pool.putconn(
                    connection, theirs(key) if side is self.left else key, close
                ),
            )
        else:  # difference 2
            connection = self.pick(self.right, number)
            self.refused(PoolError, lambda: self.right.pool.putconn(connection, key, close))

    @precondition(lambda self: len(self.lent) > 1)
    @rule(which=anything, other=anything, close=close_flags)
    def give_back_with_the_key_of_another_loan(self, which: int, other: int, close: bool) -> None:
        number, another = self.lent[which % len(self.lent)], self.lent[other % len(self.lent)]
        if number == another or self.right.pool.closed:
            return
        connection = self.pick(self.right, number)
        key = self.right.pool._rused[id(self.pick(self.right, another))]
        self.refused(PoolError, lambda: self.right.pool.putconn(connection, key, close))  # difference 2

    @precondition(lambda self: self.lent)
    @rule(which=anything, key=st.sampled_from(UNHASHABLE), close=close_flags)
    def give_back_with_an_unhashable_key(self, which: int, key: Any, close: bool) -> None:
        number = self.lent[which % len(self.lent)]
        error = PoolError if self.right.pool.closed else TypeError
        connection = self.pick(self.right, number)
        self.refused(error, lambda: self.right.pool.putconn(connection, key, close))
        self.refused(error, lambda: self.right.pool.putconn(None, key, close))

    @precondition(lambda self: self.lent)
    @rule(which=anything, close=close_flags)
    def give_back_the_loan_of_a_key(self, which: int, close: bool) -> None:
        number = self.lent[which % len(self.lent)]
        self.putconn(  # difference 3
            number,
            lambda side, connection: side.pool.putconn(
                *((connection, None) if side is self.left else (None, side.pool._rused[id(connection)])), close
            ),
        )
        self.left.trace[:] = self.right.trace

    @rule(key=keys)
    def give_back_the_loan_of_a_key_that_may_be_free(self, key: Any) -> None:
        if not any(own == key and not is_automatic(own) for own in self.right.pool._used):
            self.refused(PoolError, lambda: self.right.pool.putconn(None, key))  # difference 3

    @rule(
        which=anything,
        what=st.sampled_from(["not lent", "not lent", "foreign", "none", "a string"]),
        key=st.one_of(st.none(), st.none(), keys),
        close=close_flags,
    )
    def give_back_what_is_not_lent(self, which: int, what: str, key: Any, close: bool) -> None:
        free = [number for number in self.numbers if number not in self.lent]
        if what == "not lent" and not free:
            return
        things: list[Any] = [None if what == "none" else what] * 2
        if what == "not lent":
            things = [self.pick(side, free[which % len(free)]) for side in (self.left, self.right)]
        elif what == "foreign":
            things = [FakeServer().connect() for _ in things]
        if key is None or self.right.pool.closed:
            more = () if key is None and not close else (key, close)
            self.agree(lambda side: side.pool.putconn(things[side is self.right], *more))
        elif what != "none":
            self.refused(PoolError, lambda: self.right.pool.putconn(things[1], key, close))  # difference 2

    # --- what happens to connections and servers ---

    @rule(fault=faults, passing=st.sampled_from([0, 0, 0, 1, 2]))
    def let_a_connect_fail(self, fault: str, passing: int) -> None:
        for side in (self.left, self.right):
            side.server.fail("connect", *[None] * passing, FAULTS[fault]())

    @precondition(lambda self: self.numbers)
    @rule(which=anything, how=st.one_of(st.tuples(st.just("status"), st.integers(0, 4)), closings))
    def change_a_connection(self, which: int, how: tuple[str, int]) -> None:
        what, value = how
        for side in (self.left, self.right):
            connection = self.pick(side, self.numbers[which % len(self.numbers)])
            if what == "status":
                connection.status = value
            else:
                connection.set_closed(value)

    @precondition(lambda self: self.lent)
    @rule(which=anything, status=st.sampled_from([1, 2, 3]))
    def leave_a_loan_in_a_transaction(self, which: int, status: int) -> None:
        for side in (self.left, self.right):
            self.pick(side, self.lent[which % len(self.lent)]).status = status

    @precondition(lambda self: self.lent)
    @rule(which=anything, queries=st.sampled_from([("BEGIN",), ("SELECT 1", "COMMIT"), ("SELECT 1", "ROLLBACK")]))
    def leave_a_loan_in_a_transaction_by_one_account(self, which: int, queries: tuple[str, ...]) -> None:
        for side in (self.left, self.right):
            connection = self.pick(side, self.lent[which % len(self.lent)])
            if connection._closed == 0 and connection.status == STATUS_READY:
                connection.autocommit = queries == ("BEGIN",)
                connection.transaction_status = IDLE
                for query in queries:
                    connection.cursor().execute(query)

    @precondition(lambda self: self.lent)
    @rule(which=anything, call=st.sampled_from(["rollback", "close"]), fault=faults)
    def let_a_call_on_a_loan_fail(self, which: int, call: str, fault: str) -> None:
        for side in (self.left, self.right):
            connection = self.pick(side, self.lent[which % len(self.lent)])
            connection.faults[call] = FAULTS[fault]()
            if call == "rollback":
                connection.status = INTRANS

    # --- the pool as a whole ---

    @rule(minconn=st.integers(0, 5))
    def set_minconn(self, minconn: int) -> None:
        self.agree(lambda side: setattr(side.pool, "minconn", minconn))

    @rule(maxconn=st.sampled_from([0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 8, 9]))
    def set_maxconn(self, maxconn: int) -> None:
        pool, ours = self.left.pool, self.right.pool
        seen = len(self.right.server.log)
        surplus = len(pool._pool) + len(pool._used) - maxconn
        got = self.right.try_(lambda: setattr(ours, "maxconn", maxconn))
        closed = [number for call, number in self.right.server.log[seen:] if call == "close"]
        assert len(closed) == len(set(closed)) == max(0, min(surplus, len(pool._pool)))
        outcomes = []
        for number in closed:  # difference 6
            connection = self.pick(self.left, number)
            pool._pool.remove(connection)
            outcomes.append(self.left.try_(connection.close))
        pool.maxconn = maxconn
        self.compare(what_is_raised(outcomes), got)

    @rule(what=st.integers(0, 31))
    def do_something_rare(self, what: int) -> None:
        if what < 2 or self.left.pool.closed:
            self.closeall()
        elif what == 2:
            self.agree(lambda side: setattr(side.pool, "closed", True))
        elif what < 8:
            name = ("minconn", "maxconn")[what % 2]
            self.refused(ValueError, lambda: setattr(self.right.pool, name, 2 - what))  # difference 9
        else:
            self.agree(lambda side: side.pool._getkey())

    def closeall(self) -> None:
        pool = self.left.pool
        connections = [] if pool.closed else [*pool._pool, *pool._used.values()]
        if any(isinstance(connection.faults.get("close"), (Odd, Stop)) for connection in connections):  # difference 7
            expected = what_is_raised([self.left.try_(connection.close) for connection in connections])
            pool.closed = True
            self.compare(expected, self.right.try_(self.right.pool.closeall))
            self.left.trace[:] = self.right.trace
        else:
            self.agree(lambda side: side.pool.closeall())

    @precondition(lambda self: self.left.pool.closed)
    @rule()
    def revive(self) -> None:
        self.agree(lambda side: setattr(side.pool, "closed", False))


class Simple(SideBySide):
    """Compares the pools for one thread."""

    class_name = "SimpleConnectionPool"


class Threaded(SideBySide):
    """Compares the pools for many threads."""

    class_name = "ThreadedConnectionPool"


# In parts, so that each takes a few seconds only, and in chunks, so that there are as many operations as are promised.
PARTS = 4
PROFILE = settings()
OPERATIONS = 50_000 * PROFILE.max_examples // 100
# hypothesis remembers all that it has tried in a chunk: a few hundred examples take some 200 MB.
CHUNK = settings(max_examples=min(PROFILE.max_examples // 2, 400), stateful_step_count=100)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("machine", [Simple, Threaded])
def test_a_pool_does_what_psycopg2s_does_but_for_the_listed_differences(
    machine: type[SideBySide], part: int, record_property: Callable[[str, object], None]
) -> None:
    counters = machine.counters
    counters.clear()
    for chunk in itertools.count():
        again = type(machine.__name__, (machine,), {})
        if PROFILE.derandomize:
            # Every chunk, and both machines, would do the same.
            seed(f"{machine.__name__} {part} {chunk}")(again)
        run_state_machine_as_test(again, settings=CHUNK)
        if counters["compared"] >= OPERATIONS // (2 * PARTS):
            break
    # The end of the run tells the sum: see conftest.py.
    for what in ("compared", "refused"):
        record_property(f"operations {what}", counters[what])
