"""Callbacks of a pool, and all that they may do there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2.extensions import QueryCanceledError

from pgpool_rs.testing import ACTIVE, INERROR, INTRANS, Gate

Act = Callable[[Any, Any], object]


class Callback:
    """A check, configure, reset or connect that passes, unless it has been told to do something else once."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.acts: list[Callable[[Any], object]] = []

    def __call__(self, connection: Any) -> None:
        self.calls.append(connection)
        if self.acts:
            self.acts.pop(0)(connection)

    def then(self, act: Callable[[Any], object], times: int = 1) -> None:
        """Do this in the next call, or calls."""
        self.acts += [act] * times

    def raises(self, *errors: BaseException) -> None:
        """Raise these in the next calls."""
        for error in errors:
            self.then(_raiser(error))


def gated(callback: Callback, act: Callable[[Any], object] = lambda _: None) -> Gate:
    """Make a gate for the next call, which then does something."""
    gate = Gate()

    def hold(connection: Any) -> None:
        gate.pass_through()
        act(connection)

    callback.then(hold)
    return gate


class Killed(BaseException):
    """What a greenlet's end looks like."""


def _raiser(error: BaseException) -> Callable[[Any], object]:
    def do(_: Any) -> None:
        raise error

    return do


def _loses(connection: Any, _: Any) -> None:
    connection.set_closed(2)
    raise psycopg2.OperationalError("server closed the connection unexpectedly")


def _leaves(status: int) -> Act:
    def do(connection: Any, _: Any) -> None:
        connection.status = status

    return do


def _fails(error: BaseException) -> Act:
    raiser = _raiser(error)
    return lambda connection, _: raiser(connection)


# What a callback may do to its connection so that it is of no use, and what is raised then, if anything.
FAILURES: dict[str, tuple[Act, type[BaseException] | None]] = {
    "raises": (_fails(psycopg2.DatabaseError("no good")), psycopg2.DatabaseError),
    "loses it": (_loses, psycopg2.OperationalError),
    "closes it": (lambda connection, _: connection.close(), None),
    "breaks it": (lambda connection, _: connection.set_closed(2), None),
}
# What is raised by the call of the pool that it came in, whoever called.
STRONG_FAILURES: dict[str, tuple[Act, type[BaseException] | None]] = {
    "has a bug": (_fails(ValueError("no good")), ValueError),
    "is cancelled": (_fails(QueryCanceledError("no good")), QueryCanceledError),
    "is interrupted": (_fails(KeyboardInterrupt("now")), KeyboardInterrupt),
    "exits": (_fails(SystemExit("now")), SystemExit),
    "is killed": (_fails(Killed("now")), Killed),
}
# What it may leave behind.
LEFTOVERS: dict[str, Act] = {
    "leaves a transaction": _leaves(INTRANS),
    "leaves a failed transaction": _leaves(INERROR),
    "leaves a statement": _leaves(ACTIVE),
}
