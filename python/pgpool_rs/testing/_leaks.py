"""Which connections a test has left lent, whichever pools they come from.

From the first watch on, each pool of pgpool_rs is noted when it is made; those that exist by then are found among all
objects. While a watch lasts, it keeps all pools alive, so that one that the test forgets, loans and all, is asked too.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from pgpool_rs import AbstractConnectionPool, SimpleConnectionPool, _core, _loans
from pgpool_rs.testing.fake.server import FakeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs._loans import LoanInfo
    from pgpool_rs._options import Options

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
class Register:
    """All pools there are, held weakly."""

    def __init__(self) -> None:
        """Know none, and change nothing."""
        self.watches: list[Watch] = []
        self._pools: dict[int, weakref.ref[Any]] = {}
        self._clock: SimpleConnectionPool | None = None

    def begin(self) -> None:
        """Note each pool that is made from now on; find those that have been made. Costs nothing the second time."""
        if self._clock is not None:
            return
        # Its only loan is as old as this register, by the clock that loans are dated with.
        self._clock = SimpleConnectionPool(1, 1, connect=FakeServer().connect, name="pgpool_no_leaks")
        note = self.note

        def start(pool: _core.AbstractConnectionPool, minconn: int, maxconn: int, options: Options) -> None:
            note(pool)
            _Pool._pgpool_start(pool, minconn, maxconn, options)

        setattr(AbstractConnectionPool, "_pgpool_start", start)  # noqa: B010  (mypy minds that it is a method)
        for thing in gc.get_objects():
            # Its type is asked rather than itself, which may be a proxy that answers for another.
            if issubclass(type(thing), AbstractConnectionPool) and thing is not self._clock:
                self.note(thing)

    def end(self) -> None:
        """Note no more pools, unless somebody still watches."""
        if self._clock is not None and not self.watches:
            delattr(AbstractConnectionPool, "_pgpool_start")
            self._clock = None
            self._pools.clear()

    def note(self, pool: Any) -> None:
        """Know a pool until it is gone."""
        number = id(pool)

        def forget(reference: weakref.ref[Any]) -> None:
            if self._pools.get(number) is reference:
                del self._pools[number]

        self._pools[number] = weakref.ref(pool, forget)
        for watch in list(self.watches):
            watch.pools[number] = pool

    def pools(self) -> dict[int, Any]:
        """Give those that are alive, by id."""
        alive = {number: reference() for number, reference in list(self._pools.items())}
        return {number: pool for number, pool in alive.items() if pool is not None}

    def now(self) -> float:
        """Read pgpool_rs's own clock."""
        if self._clock is None:
            raise RuntimeError("nobody watches")
        while not (loans := _Pool.loans(self._clock)):
            self._clock.getconn()  # the first time, and in the child of a fork
        return loans[0].age


register: Final = Register()


@final
class Watch:
    """What is lent now, and what is lent later on that was not then."""

    def __init__(self) -> None:
        """Begin."""
        register.begin()
        self.pools = register.pools()
        register.watches.append(self)
        self._known: dict[Place, Lent] = {}
        self._known = self.lent()

    def lent(self) -> dict[Place, Lent]:
        """List what is lent now and was not when the watch began."""
        found = {}
        for pool in list(self.pools.values()):
            before = register.now()
            loans = _Pool.loans(pool)
            after = register.now()
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

    def end(self) -> list[Lent]:
        """Tell what has been left lent, the oldest loan first, and let the pools go."""
        try:
            left = self.lent()
            if left:
                # What is given back when its borrower is collected has not been left.
                gc.collect()
                left = self.lent()
            return sorted(left.values(), key=lambda lent: -lent.loan.age)
        finally:
            register.watches.remove(self)
            self.pools.clear()

    def _is_known(self, lent: Lent) -> bool:
        """Tell whether it was lent at the beginning, as a loan under the same key that may be as old was."""
        known = self._known.get(lent.place())
        return (
            known is not None
            and known.not_before <= lent.not_after + _ROUNDING
            and lent.not_before <= known.not_after + _ROUNDING
        )


def describe(left: list[Lent]) -> str:
    """Write what has been left, a line for each loan and those of its stack, under a head."""
    number = f"{len(left)} connections are" if len(left) > 1 else "1 connection is"
    lines = [f"{number} still lent", *(lent.describe() for lent in left)]
    if any(lent.loan.stack is None for lent in left):
        lines.append("A pool that is made with leak_after=... also knows where each was borrowed.")
    return "\n".join(lines)
