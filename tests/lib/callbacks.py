"""Callbacks of a pool, and all that they may do there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2.extensions import QueryCanceledError

from pgpool_rs.testing import ACTIVE, INERROR, INTRANS, Gate

Act = Callable[[Any], object]


class Callback:
    """A check, configure, reset or connect that passes, unless it has been told to do something else once."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.acts: list[Act] = []

    def __call__(self, connection: Any) -> None:
        self.calls.append(connection)
        if self.acts:
            self.acts.pop(0)(connection)

    def then(self, act: Act, times: int = 1) -> None:
        """Do this in the next call, or calls."""
        self.acts += [act] * times

    def raises(self, *errors: BaseException) -> None:
        """Raise these in the next calls."""
        for error in errors:
            self.then(raiser(error))


def gated(callback: Callback, act: Act = lambda _: None) -> Gate:
    """Make a gate for the next call, which then does something."""
    gate = Gate()

    def hold(connection: Any) -> None:
        gate.pass_through()
        act(connection)

    callback.then(hold)
    return gate


class Killed(BaseException):
    """The exception that ends a greenlet, as gevent's GreenletExit does."""


def raiser(error: BaseException) -> Callable[..., None]:
    """Make an act that raises this, whatever it is given."""

    def do(*_: object) -> None:
        raise error

    return do


def _loses(connection: Any) -> None:
    connection.set_closed(2)
    raise psycopg2.OperationalError("server closed the connection unexpectedly")


def _leaves(status: int) -> Act:
    def do(connection: Any) -> None:
        connection.status = status

    return do


# What a callback may do to its connection so that it is of no use, and what is raised then, if anything.
FAILURES: dict[str, tuple[Act, type[BaseException] | None]] = {
    "raises": (raiser(psycopg2.DatabaseError("no good")), psycopg2.DatabaseError),
    "loses it": (_loses, psycopg2.OperationalError),
    "closes it": (lambda connection: connection.close(), None),
    "breaks it": (lambda connection: connection.set_closed(2), None),
}
# What the pool's call always raises.
STRONG_FAILURES: dict[str, tuple[Act, type[BaseException] | None]] = {
    "has a bug": (raiser(ValueError("no good")), ValueError),
    "is cancelled": (raiser(QueryCanceledError("no good")), QueryCanceledError),
    "is interrupted": (raiser(KeyboardInterrupt("now")), KeyboardInterrupt),
    "exits": (raiser(SystemExit("now")), SystemExit),
    "is killed": (raiser(Killed("now")), Killed),
}
# What it may leave behind.
LEFTOVERS: dict[str, Act] = {
    "leaves a transaction": _leaves(INTRANS),
    "leaves a failed transaction": _leaves(INERROR),
    "leaves a statement": _leaves(ACTIVE),
}
SPOILS = {**FAILURES, **{name: (act, None) for name, act in LEFTOVERS.items()}}
PASSES: dict[str, tuple[Act, type[BaseException] | None]] = {"passes": (lambda _: None, None)}
