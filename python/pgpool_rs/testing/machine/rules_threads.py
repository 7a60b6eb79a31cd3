"""The rules of a machine in which calls overlap: each is held where it calls the server, or waits for a connection."""

from __future__ import annotations

__tracebackhide__ = True

from typing import Any

from hypothesis.stateful import precondition

from pgpool_rs.testing.fake.session import INTRANS
from pgpool_rs.testing.machine.driver import FOR_EVER
from pgpool_rs.testing.machine.rules import (
    BorrowingRules,
    a_free_borrower,
    a_key_or_none,
    a_lender,
    an_error,
    one_who_is_held,
    rule,
)
from pgpool_rs.testing.machine.rules_blocks import BlockRules, one_in_a_block


class OverlappingRules(BorrowingRules, BlockRules):
    """Calls that are under way while others are made. Which one goes on when is the machine's choice."""

    def _threads(self) -> bool:
        return bool(self._model.promises.threads)

    def _holds_closeall(self) -> bool:
        return self.driver.held_closing() is not None

    @precondition(lambda self: self._has_free() and self._threads())
    @rule(borrower=a_free_borrower, key=a_key_or_none)
    def start_to_borrow(self, borrower: int, key: Any) -> None:
        """Borrow in a thread, waiting if the pool can; if a connection is opened for it, it is held in that connect."""
        self.driver.borrow(self._borrower(borrower), key, timeout=FOR_EVER, holds={"connect"})

    _start_to_borrow_often = start_to_borrow

    @precondition(lambda self: self._has_free() and self._threads() and self._model.promises.waits != "never")
    @rule(borrower=a_free_borrower, key=a_key_or_none)
    def wait_for_a_connection(self, borrower: int, key: Any) -> None:
        """Borrow in a thread, and wait if there is none."""
        self.driver.borrow(self._borrower(borrower), key, timeout=FOR_EVER)

    _wait_often = _wait_very_often = wait_for_a_connection

    @precondition(lambda self: self._lenders() and self._threads())
    @rule(borrower=a_lender)
    def start_to_give_back(self, borrower: int) -> None:
        """Give back in a thread, inside a transaction; it is held in the rollback, or the close."""
        self._leave(borrower, INTRANS)
        self.driver.give_back(self._borrower(borrower), holds={"rollback", "close"})

    @precondition(lambda self: self._lenders() and self._threads() and self.driver.can.closes_on_return)
    @rule(borrower=a_lender)
    def start_to_give_back_to_be_closed(self, borrower: int) -> None:
        """Give back in a thread with `close=True`; it is held in the close."""
        self.driver.give_back(self._borrower(borrower), holds={"close"}, close=True)

    @precondition(lambda self: self._can_call() and self._in_a_block() and self._threads())
    @rule(borrower=one_in_a_block)
    def start_to_leave_the_block(self, borrower: int) -> None:
        """Leave a `connection()` block in a thread; it is held in the commit, the rollback or the close.

        Whether a key is lent until the commit has ended is for the pool to say, so it is done without one.
        """
        loan = self._borrower(borrower).loan
        holds = {"commit", "rollback", "close"} if loan is not None and loan.key is None else ()
        self.driver.end_block(self._borrower(borrower), None, {}, holds=holds)

    @precondition(lambda self: bool(self._held()))
    @rule(borrower=one_who_is_held)
    def go_on(self, borrower: int) -> None:
        """Let a call out of the connect, commit, rollback or close in which it is held."""
        self._go_on(borrower)

    _go_on_often = go_on

    @precondition(lambda self: any(self._may(call) for call in self._held_in()))
    @rule(borrower=one_who_is_held, error=an_error)
    def go_on_and_fail(self, borrower: int, error: str) -> None:
        """Let the connect, commit, rollback or close in which a call is held fail."""
        call = self._borrower(borrower).call
        may_fail = call is not None and call.held_in is not None and self._may(call.held_in)
        self._go_on(borrower, self._error(error) if may_fail else None)

    _go_on_and_fail_often = go_on_and_fail

    @precondition(lambda self: self._threads() and self._can("closeall") and self._is_open())
    @rule()
    def start_closeall(self) -> None:
        """Close the pool in a thread; it is held in the first close of a connection."""
        self.driver.close_the_pool(holds={"close"})

    @precondition(_holds_closeall)
    @rule()
    def let_closeall_go_on(self) -> None:
        """Let closeall out of the close in which it is held."""
        call = self.driver.held_closing()
        if call is not None:
            self.driver.go_on(call)

    def _held_in(self) -> set[str]:
        return {one.call.held_in or "" for one in self._held() if one.call is not None}

    def _go_on(self, borrower: int, error: BaseException | None = None) -> None:
        call = self._borrower(borrower).call
        if call is not None:
            self.driver.go_on(call, error)
