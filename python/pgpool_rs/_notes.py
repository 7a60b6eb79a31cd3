"""What an error tells in addition to its text: a refusal's attributes, and notes from Python 3.11 on."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final, NamedTuple

from psycopg2 import OperationalError, extensions

from pgpool_rs import _core
from pgpool_rs._foreign import CAUSED, PLAIN, asked
from pgpool_rs._loans import thread_name
from pgpool_rs.errors import PoolClosed, PoolExhausted, PoolTimeout, TooManyRequests

# Whether exceptions take notes.
_NOTES: Final = sys.version_info >= (3, 11)


class Returned(NamedTuple):
    """The object that `putconn` got and refused."""

    given: Any
    keyed: bool
    """Whether the caller gave a key, too."""
    idle: bool
    """Whether the object is an idle connection of this pool."""
    lent: bool
    """Whether the pool has lent it under another key."""


def annotate(  # noqa: PLR0917  (Rust passes them by position, as it makes no tuple where memory is short)
    error: Any,
    pool_name: str,
    lent: int,
    maxconn: int,
    reserve: int,
    opening: int,
    waiting: int,
    waited: float,
    age: float | None,
    borrower: int | None,
    given: Any,
    flags: int,
) -> None:
    """Set the attributes of an exception of ours, and add the note.

    The pool raises the exception in any case, so this leaves out what fails.

    :param age: how long the oldest loan has lasted, in seconds; the thread `borrower` has it.
    :param given: the object that `putconn` got.
    :param flags: as bits, the rest of `Returned`, whether it was `putconn`, and whether the pool's class has `timeout`.
    """
    try:
        error.pool_name = pool_name
        error.lent, error.opening, error.waiting, error.waited = lent, opening, waiting, waited
        if _NOTES:
            if flags & 8 and not isinstance(error, PoolClosed):
                note = _misplaced(Returned(given, bool(flags & 1), bool(flags & 2), bool(flags & 4)))
            else:
                note = _note(error, maxconn, reserve, bool(flags & 16), age, borrower)
            error.add_note(f"pool {pool_name!r} {note}")
    except CAUSED:
        pass


def annotate_limited(error: Any, limit: Any) -> None:
    """Say that the shared limit refused, and which pools hold it: in the text where exceptions take no notes."""
    with suppress(OSError):  # reading the file
        held = f"the limit is held by {limit._holders() or 'nobody'}"
        if _NOTES:
            error.add_note(held)
        elif isinstance(error, PoolTimeout):  # psycopg2.pool's own texts stay as they are
            error.args = (f"{error}; {held}",)


def _note(  # noqa: PLR0917  (as `annotate`)
    error: Any, maxconn: int, reserve: int, waits: bool, age: float | None, borrower: int | None
) -> str:
    if isinstance(error, PoolClosed):
        if error.waited:
            return "was closed while this call waited"
        return "was made with open=False" if "open()" in str(error) else "is closed"
    if not isinstance(error, PoolExhausted):
        return "refused"
    if maxconn == 0:
        return "has maxconn=0, with which it refuses every request"
    counts = f"has lent {error.lent} of {maxconn}" + (f" and opens {error.opening}" if error.opening else "")
    if reserve:
        counts += f" and reserves {reserve} for priority=True"
    if age is None or borrower is None:
        return counts
    advice = "see"
    if isinstance(error, TooManyRequests):
        advice = "raise max_waiting=, or see"
    elif waits and not isinstance(error, PoolTimeout):
        advice = "give timeout=, or see"
    thread = thread_name(borrower) or f"thread {borrower}"
    return f"{counts}, the oldest for {age:.0f} s by {thread}; {advice} pool.loans()"


def _misplaced(returned: Returned) -> str:
    """Say what `putconn` got, and what may have gone wrong. Show no repr: it may contain a secret."""
    given = returned.given
    if given is None:
        return "has lent nothing under this key" if returned.keyed else "got None: is there a connection to return?"
    if returned.idle:
        return "has this connection already: it was returned before"
    if returned.lent:
        return "has lent this connection under another key"
    # Ask the object itself nothing: a proxy may raise anything.
    hint, kind, what = "", type(given), _core.kind(given)
    whose = "it was returned before, is another pool's, or was made without a pool"
    if issubclass(kind, extensions.cursor) or "cursor" in what.lower():
        hint = ": return the connection, which is cursor.connection"
    elif issubclass(kind, _core.Loan):
        hint = ": it is its `with` block that returns the connection"
    elif issubclass(kind, extensions.connection):
        closed = " that is closed" if extensions.connection.closed.__get__(given) else ""
        hint = f"{closed}: {whose}"
    elif kind not in PLAIN:
        hint = f": if it is a connection, {whose}"
    return f"has not lent what it got, {what}{hint}"


def copied(error: Any, note: str | None = None) -> Any:
    """Copy the error of a connect, for another call: without the traceback, which holds a caller's frames."""
    kind = type(error)
    try:
        # Without __init__, whose arguments may be others.
        copy = asked(lambda error: kind.__new__(kind, *error.args), error)
        copy.args = error.args
        copy.__dict__.update(error.__dict__)
    except CAUSED:
        copy = OperationalError(*error.args)
    if _NOTES:
        copy.__notes__ = [*getattr(error, "__notes__", ()), *([note] if note else ())]
    return copy
