"""The rules of a machine about `connection()` blocks: they are entered within each other, and left by every way."""

from __future__ import annotations

__tracebackhide__ = True

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from pgpool_rs.testing.machine.model import same
from pgpool_rs.testing.machine.rules import Rules, a_free_borrower, an_error, chosen, pick, rule

if TYPE_CHECKING:
    from pgpool_rs.testing.machine.model import Borrower

# Few, so that they meet those of other borrowers and blocks.
_KEYS = ("a", "b")


def _block_key(machine: BlockRules, number: int) -> Any:
    lent = machine._lent_keys()
    free = (None, None, *_KEYS) if machine._shares_keys() and machine._model.room() > 0 else (None,)
    return pick((*lent, *free) if machine._model.room() > 0 else lent or free, number)


one_in_a_block = chosen(lambda machine, number: pick(machine._in_a_block(), number).number)
a_block_key = chosen(_block_key)


class BlockRules(Rules):
    """What a borrower does that borrows for a block. Inside, it may give the connection back, or close it."""

    def _in_a_block(self) -> list[Borrower]:
        """List the borrowers that may leave a block now, whether its loan is over or not."""
        return [one for one in self._model.borrowers if one.block is not None and one.call is None]

    def _shares_keys(self) -> bool:
        model = self._model
        return bool(model.judges_blocks and model.promises.keys and self.driver.can.blocks_take_keys)

    def _lent_keys(self) -> tuple[Any, ...]:
        """List the keys that are lent, under which no block may be entered."""
        loans = self._model.loans if self._shares_keys() else []
        return tuple(loan.key for loan in loans if loan.key is not None)

    @precondition(lambda self: self._has_free() and self._can("connection"))
    @precondition(lambda self: self._model.room() > 0 or bool(self._lent_keys()))
    @rule(borrower=a_free_borrower, key=a_block_key)
    def enter_a_block(self, borrower: int, key: Any) -> None:
        """Borrow a connection for a `connection()` block; under a key that is lent, that is refused."""
        model = self._model
        is_lent = model.loan_of(key) is not None
        # Whether it is lent at that moment is not to be told while another call may be about to borrow it.
        if (is_lent or model.room() > 0) and not any(same(call.key, key) for call in model.calls):
            self.driver.borrow(self._borrower(borrower), key, in_a_block=True)

    @precondition(lambda self: self._can_call() and self._in_a_block())
    @rule(borrower=one_in_a_block, raises=st.booleans())
    def leave_the_block(self, borrower: int, *, raises: bool) -> None:
        """Leave a `connection()` block, in order or by an exception."""
        error = ValueError("what the block raises") if raises else None
        self.driver.end_block(self._borrower(borrower), error, {})

    _leave_often = leave_the_block

    @precondition(lambda self: self._can_call() and self._in_a_block() and self._may("commit"))
    @rule(borrower=one_in_a_block, error=an_error)
    def leave_the_block_as_the_commit_fails(self, borrower: int, error: str) -> None:
        """Leave a `connection()` block, whose commit fails."""
        self.driver.end_block(self._borrower(borrower), None, {"commit": self._error(error)})
