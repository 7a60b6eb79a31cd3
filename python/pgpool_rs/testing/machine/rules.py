"""The rules of a machine in which one call follows the other: what borrowers do, and what fails."""

from __future__ import annotations

__tracebackhide__ = True

import functools
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition
from hypothesis.stateful import rule as hypothesis_rule

from pgpool_rs.testing.fake.server import FakeServer
from pgpool_rs.testing.fake.session import INTRANS, UNKNOWN
from pgpool_rs.testing.machine.driver import SHORTLY, Driver
from pgpool_rs.testing.machine.invariant import BrokenInvariant

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgpool_rs.testing.machine.model import Borrower, Model

# Some are one key for a dict, some are false, some are numbers as a pool's own keys may be.
NUMBER_KEYS: tuple[Any, ...] = (1, 2, 0, 1.0, True, False, 0.0)
KEYS: tuple[Any, ...] = ("a", "b", "", (), ("a", 1))
# How many borrowers there are beyond `maxconn`.
EXTRA_BORROWERS = 3
# What is chosen by number is chosen by a number up to this.
MOST = 31


def rule(**strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """Make a rule that keeps a failure for the end of the program, and does nothing from then on.

    hypothesis shrinks a program better that fails at its end: it can leave out any step of it, the last ones too. Where
    a call hangs, the program ends at once.
    """

    def accept(step: Callable[..., None]) -> Any:
        @functools.wraps(step)
        def careful(self: Rules, *args: Any, **kwargs: Any) -> None:
            if self.broken is None:
                self.steps.append((step.__name__, kwargs))
                try:
                    step(self, *args, **kwargs)
                except BrokenInvariant as error:
                    type(self).failed_steps = self.steps
                    if error.hangs:
                        raise
                    self.broken = error

        make: Callable[..., Any] = hypothesis_rule
        return make(**strategies)(careful)

    return accept


class Rules(RuleBasedStateMachine):
    """What the rules share: the borrowers to choose from."""

    driver: Driver
    broken: BrokenInvariant | None = None
    # The last program that has failed.
    failed_steps: ClassVar[list[tuple[str, dict[str, Any]]] | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, dict[str, Any]]] = []

    def _begin(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    @property
    def _model(self) -> Model:
        return self.driver.model

    def _can(self, method: str) -> bool:
        return method in self.driver.can.methods

    def _is_open(self) -> bool:
        return not self._model.closing and self._can_call()

    def _may(self, fault: str) -> bool:
        return self._model.promises.bears(fault)

    def _can_call(self) -> bool:
        """Tell whether another call may be made: if two wait for one lock, the machine cannot choose which gets it."""
        return self._model.strictly() or not self._model.blocked()

    def _has_free(self) -> bool:
        busy = sum(not _is_free(one) for one in self._model.borrowers)
        return self._can_call() and busy < self._model.limit + EXTRA_BORROWERS

    def _lenders(self) -> list[Borrower]:
        """List the borrowers that have a connection and may give it back now."""
        return [one for one in self._model.borrowers if one.loan is not None] if self._can_call() else []

    def _held(self) -> list[Borrower]:
        return [one for one in self._model.borrowers if one.call is not None and one.call.held_in is not None]

    def _borrower(self, number: int) -> Borrower:
        """Return the borrower of this number, a new one if need be."""
        while len(self._model.borrowers) < number:
            self._model.newcomer()
        return self._model.borrowers[number - 1]

    def _connection(self, borrower: int) -> Any:
        loan = self._borrower(borrower).loan
        return loan.connection if loan is not None else None

    def _leave(self, borrower: int, status: int) -> None:
        connection = self._connection(borrower)
        if not connection._closed:
            connection.status = status

    def _error(self, name: str) -> BaseException:
        if name == "KeyboardInterrupt":
            return KeyboardInterrupt("as by Ctrl-C")
        return psycopg2.OperationalError("the server has failed, as the test has told it to")

    def _free_number(self) -> int:
        borrowers = self._model.borrowers
        return next((one.number for one in borrowers if _is_free(one)), len(borrowers) + 1)

    def _keys(self) -> tuple[Any, ...]:
        return (*KEYS, *NUMBER_KEYS) if self._may("number_keys") else KEYS

    def _errors(self) -> tuple[str, ...]:
        return ("OperationalError", "KeyboardInterrupt") if self._may("interrupt") else ("OperationalError",)


def chosen(choose: Callable[[Any, int], Any]) -> st.SearchStrategy[Any]:
    """Choose by the machine's state: the choice is made from the same numbers whatever that is, so it shrinks well."""
    return st.tuples(st.runner(), st.integers(0, MOST)).map(lambda pair: choose(*pair))


def _is_free(borrower: Borrower) -> bool:
    return borrower.call is None and borrower.loan is None and borrower.block is None


def _key_or_none(machine: Rules, number: int) -> Any:
    keys = machine._keys()
    asks = number > MOST // 2 and machine._model.promises.keys
    return keys[number % len(keys)] if asks else None


a_free_borrower = st.runner().map(lambda machine: machine._free_number())
a_lender = chosen(lambda machine, number: pick(machine._lenders(), number).number)
one_who_is_held = chosen(lambda machine, number: pick(machine._held(), number).number)
a_key = chosen(lambda machine, number: pick(machine._keys(), number))
a_key_or_none = chosen(_key_or_none)
an_error = chosen(lambda machine, number: pick(machine._errors(), number))


def pick(things: Any, number: int) -> Any:
    """Pick one of some things by a number that may be too high."""
    return things[number % len(things)]


class BorrowingRules(Rules):
    """What borrowers do, one after the other."""

    @precondition(Rules._has_free)
    @rule(borrower=a_free_borrower, key=a_key_or_none)
    def borrow(self, borrower: int, key: Any) -> None:
        """Borrow a connection, or be refused."""
        self.driver.borrow(self._borrower(borrower), key)

    # A rule that has more names is chosen more often.
    _borrow_often = _borrow_very_often = _borrow_most_of_the_time = borrow

    @precondition(lambda self: self._has_free() and self._may("connect"))
    @rule(borrower=a_free_borrower, key=a_key_or_none, error=an_error)
    def borrow_as_the_connect_fails(self, borrower: int, key: Any, error: str) -> None:
        """Borrow a connection; if one is opened for it, that fails."""
        self.driver.borrow(self._borrower(borrower), key, faults={"connect": self._error(error)})

    @precondition(lambda self: self._has_free() and self._model.promises.check and self._may("check"))
    @rule(borrower=a_free_borrower, error=an_error)
    def borrow_as_the_check_fails(self, borrower: int, error: str) -> None:
        """Borrow a connection; if one that is idle is checked for it by `server.check`, that fails."""
        self.driver.borrow(self._borrower(borrower), faults={"check": self._error(error)})

    @precondition(lambda self: self._has_free() and self._model.promises.keys and self._may("unhashable_keys"))
    @rule(borrower=a_free_borrower)
    def borrow_under_an_unhashable_key(self, borrower: int) -> None:
        """Ask for a key that is a list: whatever comes of it, no connection must be lost."""
        self.driver.borrow(self._borrower(borrower), [])

    @precondition(lambda self: self._has_free() and self._model.promises.waits == "timeout")
    @precondition(lambda self: self._model.room() <= 0 and self._model.strictly())
    @rule(borrower=a_free_borrower, key=a_key_or_none)
    def wait_in_vain(self, borrower: int, key: Any) -> None:
        """Wait for a connection where all are lent, until the timeout has passed."""
        self.driver.borrow(self._borrower(borrower), key, timeout=SHORTLY)

    @precondition(lambda self: bool(self._lenders()))
    @rule(borrower=a_lender)
    def give_back(self, borrower: int) -> None:
        """Give a connection back."""
        self.driver.give_back(self._borrower(borrower))

    _give_back_often = _give_back_very_often = give_back

    @precondition(lambda self: self._lenders() and self.driver.can.closes_on_return)
    @rule(borrower=a_lender)
    def give_back_to_be_closed(self, borrower: int) -> None:
        """Give a connection back with `close=True`."""
        self.driver.give_back(self._borrower(borrower), close=True)

    @precondition(lambda self: self._lenders() and self._may("rollback"))
    @rule(borrower=a_lender, error=an_error)
    def give_back_as_the_rollback_fails(self, borrower: int, error: str) -> None:
        """Give a connection back inside a transaction, whose rollback fails."""
        self._leave(borrower, INTRANS)
        self.driver.give_back(self._borrower(borrower), faults={"rollback": self._error(error)})

    @precondition(lambda self: self._lenders() and self._may("close"))
    @rule(borrower=a_lender, error=an_error)
    def give_back_as_the_close_fails(self, borrower: int, error: str) -> None:
        """Give a connection back, to be closed if that can be asked for; if it is closed, that fails."""
        kwargs: dict[str, Any] = {"close": True} if self.driver.can.closes_on_return else {}
        self.driver.give_back(self._borrower(borrower), faults={"close": self._error(error)}, **kwargs)

    @precondition(lambda self: self._lenders() and self._is_open() and self._may("broken"))
    @rule(borrower=a_lender)
    def close_the_connection(self, borrower: int) -> None:
        """Close a connection that is lent, and do not give it back yet."""
        self._connection(borrower).close()

    @precondition(lambda self: self._lenders() and self._is_open() and self._may("broken"))
    @rule(borrower=a_lender)
    def find_it_broken(self, borrower: int) -> None:
        """Lose the server in a query on a lent connection."""
        self._connection(borrower).transaction_status = UNKNOWN
        self._connection(borrower).set_closed(2)

    @precondition(lambda self: self._lenders() and self._model.promises.keys and self.driver.can.takes_keys_back)
    @rule(borrower=a_lender, key=a_key)
    def give_back_under_a_key(self, borrower: int, key: Any) -> None:
        """Give a connection back under a key: its own, or another one, which is an error and changes nothing."""
        self.driver.give_back_under(self._borrower(borrower), key, wrong=self._may("wrong_key"))

    @precondition(lambda self: self._lenders() and self._is_open() and self._may("not_lent"))
    @rule(borrower=a_lender)
    def give_back_twice(self, borrower: int) -> None:
        """Give a connection back, and once more, unless another borrower has it by then."""
        one = self._borrower(borrower)
        handle, connection = one.handle, self._connection(borrower)
        self.driver.give_back(one)
        if one.call is None and not any(loan.connection is connection for loan in self._model.loans):
            self.driver.do(lambda: self.driver.pool.putconn(handle))

    @precondition(lambda self: self._is_open() and self._may("not_lent"))
    @rule(number=st.integers(0, MOST))
    def give_back_what_is_not_lent(self, number: int) -> None:
        """Give back a connection of another pool, or one that was given back before."""
        known = self.driver.server.connections
        things = [*self._model.free_open(), FakeServer().connect()]
        things += [connection for connection in known[-2:] if not self.driver.server.sees(connection)]
        thing = pick(things, number)
        if not any(loan.connection is thing for loan in self._model.loans):
            self.driver.do(lambda: self.driver.pool.putconn(thing))
