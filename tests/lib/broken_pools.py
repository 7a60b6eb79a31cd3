"""Pools with one mistake each, for PoolMachine to find: a SoundPool with a line that is wrong.

`docs/testing.md` has the table of them, which tests/harness/test_broken_pools.py compares with what it sees.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from psycopg2.extensions import STATUS_PREPARED
from psycopg2.pool import PoolError

from pgpool_rs.testing import FakeServer
from tests.lib.sound_pool import CountingPool, Seat, SoundPool


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A pool that is wrong, and the invariant that says so."""

    pool: type[SoundPool]
    caught_by: str
    also: tuple[str, ...]
    program: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.pool.__name__

    @property
    def words(self) -> str:
        return (self.pool.__doc__ or "").strip().rstrip(".")

    def make(self, server: FakeServer) -> SoundPool:
        return self.pool(2, server.connect, max_lifetime=600, max_idle=60, check=server.check)


MISTAKES: list[Mistake] = []


def caught_by(
    invariant: str, *program: str, also: tuple[str, ...] = ()
) -> Callable[[type[SoundPool]], type[SoundPool]]:
    """Enter a broken pool: the invariant that catches it, by which steps, and which others may catch it first."""

    def enter(pool: type[SoundPool]) -> type[SoundPool]:
        MISTAKES.append(Mistake(pool, invariant, also, program))
        return pool

    return enter


@caught_by("one_holder")
class KeepsWhatItLends(SoundPool):
    """Leaves a connection among the idle ones when it is lent."""

    def file(self, key: Any, connection: Any) -> None:
        super().file(key, connection)
        self.mark_idle(connection)

    def unfile(self, connection: Any, key: Any) -> None:
        super().unfile(connection, key)
        if connection in self.idle:
            self.idle.remove(connection)

    def has_room(self) -> bool:
        return self.taken < self.maxconn


@caught_by("one_holder", "borrow(borrower=1, key=None)", "give_back_twice(borrower=1)")
class TakesBackTwice(SoundPool):
    """Takes a connection back that is not lent, so that it is idle twice."""

    def unfile(self, connection: Any, key: Any) -> None:
        if any(connection is idle for idle in self.idle):
            self.taken += 1
        else:
            super().unfile(connection, key)

    def has_room(self) -> bool:
        return self.taken < self.maxconn


@caught_by(
    "one_holder", "borrow(borrower=1, key=None)", "start_to_give_back(borrower=1)", "borrow(borrower=2, key=None)"
)
class LendsWhileItRollsBack(SoundPool):
    """Counts a connection as idle while it is still being rolled back."""

    def is_clean(self, connection: Any) -> bool:
        if connection.closed or connection.info.transaction_status == 0:
            return super().is_clean(connection)
        with self.changed:
            self.mark_idle(connection)
        clean = super().is_clean(connection)
        with self.changed:
            if connection in self.idle:
                self.idle.remove(connection)
        return clean


@caught_by(
    "within_maxconn",
    "start_to_borrow(borrower=1, key=None)",
    "start_to_borrow(borrower=2, key=None)",
    "start_to_borrow(borrower=3, key=None)",
)
class CountsWhenConnected(SoundPool):
    """Counts a connection only once it has been opened."""

    def open(self) -> Any:
        with self.changed:
            self.taken -= 1
        try:
            return super().open()
        finally:
            with self.changed:
                self.taken += 1


@caught_by(
    "within_maxconn",
    "borrow(borrower=1, key=None)",
    "borrow(borrower=2, key=None)",
    "start_to_give_back_to_be_closed(borrower=1)",
    "borrow(borrower=3, key=None)",
    also=("closed_stays_closed",),
)
class FreesBeforeItCloses(SoundPool):
    """Frees a slot before its connection has been closed."""

    def putconn(self, connection: Any, key: Any = None, close: bool = False) -> None:
        if not close:
            super().putconn(connection, key)
            return
        with self.changed:
            if self.closed:
                raise PoolError("closed")
            self.unfile(connection, key)
        self.free(None)
        connection.close()


@caught_by(
    "nothing_lost",
    "borrow(borrower=1, key=None)",
    "give_back_as_the_rollback_fails(borrower=1, error='OperationalError')",
    also=("nobody_forgotten",),
)
class LosesASlotWithARollback(SoundPool):
    """Loses the slot of a connection whose rollback fails."""

    def is_clean(self, connection: Any) -> bool:
        clean = super().is_clean(connection)
        if connection.closed == 2:
            self.maxconn -= 1
        return clean


@caught_by(
    "nothing_lost",
    "borrow_as_the_connect_fails(borrower=1, error='OperationalError', key=None)",
    also=("nobody_forgotten",),
)
class LosesASlotWithAConnect(SoundPool):
    """Loses the slot in which a connect fails."""

    def give_up(self, key: Any) -> None:
        with self.changed:
            self.forget_key(key)


@caught_by(
    "nothing_lost",
    "borrow_as_the_connect_fails(borrower=1, error='KeyboardInterrupt', key=None)",
    also=("nobody_forgotten",),
)
class LosesASlotWithAnInterrupt(SoundPool):
    """Frees the slot of a failed connect after an Exception only, not after a KeyboardInterrupt."""

    def open(self) -> Any:
        try:
            return super().open()
        except Exception:
            raise
        except BaseException:
            self.taken += 1
            raise


@caught_by(
    "nothing_lost",
    "borrow(borrower=1, key=None)",
    "give_back_as_the_close_fails(borrower=1, error='KeyboardInterrupt')",
    also=("nobody_forgotten",),
)
class LosesASlotWithAClose(SoundPool):
    """Loses the slot of a connection whose close is interrupted."""

    def discard(self, connection: Any) -> None:
        try:
            super().discard(connection)
        except BaseException:
            self.taken += not self.closed
            raise


@caught_by(
    "nothing_lost",
    "borrow(borrower=1, key=None)",
    "borrow(borrower=2, key=None)",
    "wait_in_vain(borrower=3, key=None)",
    also=("nobody_forgotten", "closed_stays_closed"),
)
class ServesThoseWhoHaveLeft(SoundPool):
    """Keeps the place of a waiter whose timeout has passed, and gives a connection to it."""

    def leave(self, seat: Seat) -> None:
        pass


@caught_by(
    "in_order",
    "borrow(borrower=1, key=None)",
    "borrow(borrower=2, key=None)",
    "wait_for_a_connection(borrower=3, key=None)",
    "wait_for_a_connection(borrower=4, key=None)",
)
class ServesTheLastFirst(SoundPool):
    """Serves the last waiter first."""

    def next_seat(self) -> Seat:
        return self.queue.pop()


@caught_by(
    "nobody_forgotten",
    "borrow(borrower=1, key=None)",
    "borrow(borrower=2, key=None)",
    "wait_for_a_connection(borrower=3, key=None)",
)
class WakesNobodyOnReturn(SoundPool):
    """Gives a connection to a waiter, and does not wake it."""

    def wake(self) -> None:
        pass


@caught_by(
    "nobody_forgotten",
    "borrow(borrower=1, key=None)",
    "start_to_borrow(borrower=2, key=None)",
    "wait_for_a_connection(borrower=3, key=None)",
    "go_on_and_fail(borrower=2, error='OperationalError')",
)
class WakesNobodyOnAFailedConnect(SoundPool):
    """Frees the slot of a failed connect, and lets no waiter have it."""

    def give_up(self, key: Any) -> None:
        with self.changed:
            self.taken -= 1
            self.forget_key(key)


@caught_by(
    "nobody_forgotten",
    "borrow(borrower=1, key=None)",
    "borrow(borrower=2, key=None)",
    "wait_for_a_connection(borrower=3, key=None)",
    "closeall(close_fails=None)",
)
class LeavesWaitersAtItsEnd(SoundPool):
    """Forgets the waiters in closeall()."""

    def closeall(self) -> None:
        with self.changed:
            self.queue.clear()
        super().closeall()


@caught_by(
    "same_key",
    "start_to_borrow(borrower=1, key='a')",
    "start_to_borrow(borrower=2, key='a')",
    also=("nobody_forgotten",),
)
class OpensAKeyTwice(SoundPool):
    """Opens a key twice if two ask for it at once."""

    def find(self, key: Any) -> Any:
        return self.keyed.get(key)


@caught_by(
    "same_key", "borrow(borrower=1, key=1)", "borrow(borrower=2, key=True)", also=("nobody_forgotten", "nothing_lost")
)
class TellsKeysApartByType(SoundPool):
    """Takes 1 and True, which are one key for a dict, for two."""

    def borrow(self, key: Any, timeout: float, *, shared: bool) -> tuple[Any, Any]:
        return super().borrow(None if key is None else (type(key), key), timeout, shared=shared)

    def unfile(self, connection: Any, key: Any) -> None:
        super().unfile(connection, None if key is None else (type(key), key))


@caught_by(
    "one_holder", "borrow(borrower=1, key=None)", "give_back_under_a_key(borrower=1, key='a')", also=("nothing_lost",)
)
class MixesUpKeys(SoundPool):
    """Takes a connection back under a key that is not its own, and only then finds that it is not."""

    def unfile(self, connection: Any, key: Any) -> None:
        lent = self.lent.get(id(connection))
        if lent is not None and key is not None and lent[1] != key:
            self.mark_idle(connection)
            raise KeyError(key)
        super().unfile(connection, key)

    def has_room(self) -> bool:
        return self.taken < self.maxconn


@caught_by("closed_stays_closed", "closeall(close_fails=None)", "borrow(borrower=1, key=None)")
class LendsWhenClosed(SoundPool):
    """Goes on lending after closeall()."""

    def closeall(self) -> None:
        super().closeall()
        self.closed = False
        self.taken = 0


@caught_by("closed_stays_closed", "start_to_borrow(borrower=1, key=None)", "closeall(close_fails=None)")
class KeepsWhatOpensLate(SoundPool):
    """Leaves open what was being opened or given back when the pool was closed."""

    def close_late(self, connection: Any) -> None:
        pass


@caught_by("closed_stays_closed", "borrow(borrower=1, key=None)", "closeall(close_fails=None)")
class ClosesOnlyWhatIsIdle(SoundPool):
    """Leaves open in closeall() what is lent, and never closes it."""

    def to_close(self) -> list[Any]:
        return self.idle


@caught_by("closed_stays_closed", "borrow(borrower=1, key=None)", "close(close_fails=None)", "give_back(borrower=1)")
class RefusesWhatComesBackLate(SoundPool):
    """Refuses after close() what was lent before."""

    def close(self, timeout: float | None = None) -> int:
        try:
            return super().close(timeout)
        finally:
            self.takes_back = False


@caught_by("closed_stays_closed", "borrow(borrower=1, key=None)", "close(close_fails=None)")
class SaysThatNothingIsLent(SoundPool):
    """Tells after close() that nothing is lent, whatever is."""

    def left(self) -> int:
        return 0


@caught_by("only_sound_lent", "lend_all_and_take_them_back()", "kill_an_idle_connection(number=0)")
class LendsTheDead(SoundPool):
    """Lends an idle connection that the server has ended."""

    def is_alive(self, connection: Any) -> bool:
        return True


@caught_by("only_sound_lent", "borrow(borrower=1, key=None)", "wait(seconds=601)")
class LendsTheOld(SoundPool):
    """Lends a connection that is older than max_lifetime."""

    def is_old(self, age: float) -> bool:
        return False


@caught_by("only_sound_lent", "lend_all_and_take_them_back()", "wait(seconds=61)")
class LendsTheStale(SoundPool):
    """Lends a connection that has been idle for longer than max_idle."""

    def is_stale(self, idle: float) -> bool:
        return False


@caught_by("only_sound_lent", "borrow(borrower=1, key=None)", "wait(seconds=601)")
class AgesFromTheLastReturn(SoundPool):
    """Measures a connection's age from its last return."""

    def mark_idle(self, connection: Any) -> None:
        super().mark_idle(connection)
        self.opened_at[id(connection)] = time.monotonic()


@caught_by("lent_clean", "borrow(borrower=1, key=None)", "leave_a_transaction_open(borrower=1, status='INTRANS')")
class ForgetsToRollBack(SoundPool):
    """Keeps a connection as it comes back, in its transaction."""

    def is_clean(self, connection: Any) -> bool:
        return not connection.closed


@caught_by(
    "lent_clean",
    "borrow(borrower=1, key=None)",
    "give_back_as_the_rollback_fails(borrower=1, error='KeyboardInterrupt')",
)
class TrustsAnInterruptedRollback(SoundPool):
    """Takes a rollback that was interrupted for one that was done."""

    def is_clean(self, connection: Any) -> bool:
        try:
            return super().is_clean(connection)
        except BaseException:
            return True


@caught_by("lent_clean", "borrow(borrower=1, key=None)", "leave_behind(borrower=1, what='COMMIT in SQL')")
class TrustsLibpqAlone(SoundPool):
    """Asks libpq alone whether there is a transaction, not psycopg2."""

    def is_clean(self, connection: Any) -> bool:
        try:
            if self.libpq_knows_of_one(connection):
                connection.rollback()
        except Exception:
            return False
        return not connection.closed and not self.libpq_knows_of_one(connection)


@caught_by("lent_clean", "borrow(borrower=1, key=None)", "leave_behind(borrower=1, what='BEGIN in autocommit')")
class TrustsPsycopg2Alone(SoundPool):
    """Asks psycopg2 alone whether there is a transaction, not libpq."""

    def libpq_knows_of_one(self, connection: Any) -> bool:
        return False


@caught_by("lent_clean", "borrow(borrower=1, key=None)", "leave_behind(borrower=1, what='COPY')")
class BelievesItsRollback(SoundPool):
    """Calls rollback() where either account has a transaction, and does not look at what came of it."""

    def end_transaction(self, connection: Any, how: str) -> None:
        if not super().looks_clean(connection):
            connection.rollback()

    def looks_clean(self, connection: Any) -> bool:
        return True


@caught_by("lent_clean", "borrow(borrower=1, key=None)", "leave_behind(borrower=1, what='tpc_prepare')")
class EndsWhatWasPrepared(SoundPool):
    """Rolls back a transaction that its borrower has prepared."""

    def end_transaction(self, connection: Any, how: str) -> None:
        if connection.status == STATUS_PREPARED:
            connection.tpc_rollback()
        super().end_transaction(connection, how)


@caught_by(
    "blocks_end_their_own_loan",
    "enter_a_block(borrower=1, key=None)",
    "give_back(borrower=1)",
    "borrow(borrower=2, key=None)",
)
class EndsABlockByObject(SoundPool):
    """Takes for a block's own whatever loan its connection has by then."""

    def is_current(self, loan: tuple[Any, Any]) -> bool:
        return id(loan[0]) in self.lent


@caught_by("blocks_end_their_own_loan", "enter_a_block(borrower=1, key=None)", "close_the_connection(borrower=1)")
class CommitsWhatABlockHasClosed(SoundPool):
    """Commits at the end of a block a connection that the block has closed."""

    def commit_block(self, connection: Any) -> None:
        connection.commit()


@caught_by("blocks_end_their_own_loan", "borrow(borrower=1, key='a')", "enter_a_block(borrower=2, key='a')")
class SharesAKeyWithABlock(SoundPool):
    """Lets a block share the loan of a key with its borrower."""

    def refuse_if_lent(self, key: Any) -> None:
        pass


@caught_by("statistics_true")
class CountsNoRefusals(CountingPool):
    """Counts a request only when it has been served."""

    def borrow(self, key: Any, timeout: float, *, shared: bool) -> tuple[Any, Any]:
        try:
            return super().borrow(key, timeout, shared=shared)
        except BaseException:
            self.requests -= 1
            raise
