"""What a refusal says beyond psycopg2.pool's words: attributes of the exception, and a note from Python 3.11 on."""

from __future__ import annotations

import sys
import threading
from typing import Any, Final, NamedTuple

from psycopg2 import extensions

from pgpool_rs import _core
from pgpool_rs._foreign import CAUSED
from pgpool_rs.errors import PoolClosed, PoolExhausted, PoolTimeout

# Whether exceptions take notes.
_NOTES: Final = sys.version_info >= (3, 11)

# How many connections are lent, how many there may be, how many are being opened, how many callers wait; for how many
# seconds this call has waited; and whether the pool's class takes `timeout`.
Figures = tuple[int, int, int, int, float, bool]


class Returned(NamedTuple):
    """What `putconn` got, where that refused."""

    given: Any
    keyed: bool
    """Whether a key came with it."""
    idle: bool
    """Whether the pool has it, idle."""
    lent: bool
    """Whether the pool has lent it, under another key."""


def annotate(  # noqa: PLR0917  (Rust passes them by position, as it makes no tuple where memory is short)
    error: Any,
    pool_name: str,
    lent: int,
    maxconn: int,
    opening: int,
    waiting: int,
    waited: float,
    waits: bool,
    age: float | None,
    borrower: int | None,
    given: Any,
    flags: int | None,
) -> None:
    """Tell an exception what is known of the pool that refused.

    The exception is raised in any case, so what fails here is left out.

    :param age: for how many seconds the oldest loan has lasted, which `borrower` has.
    :param given: what `putconn` got; the bits of `flags` are the rest of `Returned`. None: it was another call.
    """
    try:
        error.pool_name = pool_name
        error.lent, error.opening, error.waiting, error.waited = lent, opening, waiting, waited
        if _NOTES:
            figures = lent, maxconn, opening, waiting, waited, waits
            oldest = None if age is None or borrower is None else (age, borrower)
            returned = None if flags is None else (given, bool(flags & 1), bool(flags & 2), bool(flags & 4))
            error.add_note(f"pool {pool_name!r} {_note(error, figures, oldest, returned)}")
    except CAUSED:
        pass


def _note(error: Exception, figures: Figures, oldest: tuple[float, int] | None, returned: Any) -> str:
    lent, maxconn, opening, _, waited, waits = figures
    if isinstance(error, PoolClosed):
        return "was closed while this call waited" if waited else "is closed"
    if returned is not None:
        return _misplaced(Returned(*returned))
    if not isinstance(error, PoolExhausted):
        return "refused"
    if maxconn == 0:
        return "has maxconn=0, with which it refuses every request"
    counts = f"has lent {lent} of {maxconn}" + (f" and opens {opening}" if opening else "")
    if oldest is None:
        return counts
    advice = "give timeout=, or see" if waits and not isinstance(error, PoolTimeout) else "see"
    return f"{counts}, the oldest for {oldest[0]:.0f} s by {_thread(oldest[1])}; {advice} pool.loans()"


def _thread(ident: int) -> str:
    # Not threading.enumerate(), which waits for a lock that an interrupt may have left held.
    active = getattr(threading, "_active", None)
    thread = active.get(ident) if type(active) is dict else None
    return f"thread {ident}" if thread is None else thread.name


def _misplaced(returned: Returned) -> str:
    """Say what was given to `putconn` and what may have happened. No repr: it may show a secret."""
    given = returned.given
    if given is None:
        return "has lent nothing under this key" if returned.keyed else "got None: is there a connection to return?"
    if returned.idle:
        return "has this connection already: it was returned before"
    if returned.lent:
        return "has lent this connection under another key"
    # Nothing is asked of the object itself: a proxy may raise anything.
    hint, kind = "", type(given)
    if issubclass(kind, extensions.cursor):
        hint = ": return the connection, which is cursor.connection"
    elif issubclass(kind, _core.Loan):
        hint = ": it is its `with` block that returns the connection"
    elif issubclass(kind, extensions.connection):
        closed = " that is closed" if extensions.connection.closed.__get__(given) else ""
        hint = f"{closed}: it was returned before, is another pool's, or was made without a pool"
    return f"has not lent what it got, {_core.kind(given)}{hint}"
