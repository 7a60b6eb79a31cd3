"""Which connections a test has left lent, whichever pools they come from.

While a leak check lasts, it keeps all pools alive, so that one that the test forgets, loans and all, is asked too.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from pgpool_rs import _core, _loans
from pgpool_rs._pools import holders, pools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs import AbstractConnectionPool
    from pgpool_rs._loans import LoanInfo

    # Which pool, which key.
    Place = tuple[int, type[Any], int]

_Pool: Final = _core.AbstractConnectionPool
# Seconds, for what is lost in adding and subtracting them.
_ROUNDING: Final = 1e-6


class Lent(NamedTuple):
    """A loan that was seen."""

    pool: AbstractConnectionPool
    loan: LoanInfo
    not_before: float
    """When it was lent at the earliest, by pgpool_rs's own clock."""
    not_after: float
    """And at the latest."""

    def place(self) -> Place:
        """Tell what no other loan has at the same time. Users' keys may be anything, so they are not compared."""
        key = self.loan.key
        number = int(key) if type(key).__name__ == "AutomaticKey" else id(key)
        return id(self.pool), type(key), number

    def describe(self) -> str:
        """Name the pool; tell what is known of the loan."""
        return f"{_Pool._pgpool_name(self.pool)}: {_loans.describe(self.loan)}"


@final
class LeakCheck:
    """What is lent now, and what is lent later on that was not then."""

    def __init__(self) -> None:
        self.pools: dict[int, AbstractConnectionPool] = {}
        holders.append(self.pools)
        self.pools.update((id(pool), pool) for pool in pools())
        self._known: dict[Place, Lent] = {}
        self._known = self.lent()

    def lent(self) -> dict[Place, Lent]:
        """List what is lent now and was not when the leak check began."""
        found = {}
        for pool in list(self.pools.values()):
            before = _core.clock()
            loans = _Pool.loans(pool)
            after = _core.clock()
            for loan in loans:
                lent = Lent(pool, loan, before - loan.age, after - loan.age)
                if not self._is_known(lent):
                    found[lent.place()] = lent
        return found

    @contextmanager
    def excepting(self) -> Iterator[None]:
        """Let what is lent in this block stay so, without blame."""
        before = self.lent()
        try:
            yield
        finally:
            self._known.update((place, lent) for place, lent in self.lent().items() if place not in before)

    def end(self) -> str:
        """Tell what has been left lent, if anything has, the oldest loan first, and let the pools go."""
        try:
            left = self.lent()
            if left:
                # What is given back when its borrower is collected has not been left.
                gc.collect()
                left = self.lent()
            return _describe(sorted(left.values(), key=lambda lent: -lent.loan.age)) if left else ""
        finally:
            holders[:] = [holder for holder in holders if holder is not self.pools]
            self.pools.clear()

    def _is_known(self, lent: Lent) -> bool:
        """Tell whether it was lent at the beginning, as a loan under the same key that may be as old was."""
        known = self._known.get(lent.place())
        return (
            known is not None
            and known.not_before <= lent.not_after + _ROUNDING
            and lent.not_before <= known.not_after + _ROUNDING
        )


def _describe(left: list[Lent]) -> str:
    """Write what has been left, a line for each loan and those of its stack, under a head."""
    number = f"{len(left)} connections are" if len(left) > 1 else "1 connection is"
    lines = [f"{number} still lent", *(lent.describe() for lent in left)]
    if any(lent.loan.stack is None for lent in left):
        lines.append("A pool that is made with leak_after=... also knows where each was borrowed.")
    return "\n".join(lines)
