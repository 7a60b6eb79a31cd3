"""What an invariant is, and the error for a pool that has broken one.

The machine checks an invariant when a connection is lent (`at_loan`), when a request is refused (`at_refusal`), and
each time that all calls have ended, are held or wait (`at_rest`). A check returns what is wrong: as a `Maybe`, if a
thread may be about to put it right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pgpool_rs.testing.machine.model import Borrower, Model


class BrokenInvariant(AssertionError):
    """A pool did what it must not do.

    :ivar invariant: the name of what was broken.
    :ivar program: a program that shows it, once it has been shrunk: `PoolMachine` prints it.
    """

    program: str | None = None

    def __init__(self, invariant: Invariant, seen: str, *, hangs: bool = False) -> None:
        """Say which invariant it was, what it claims, and what was seen instead.

        :param hangs: whether a call hangs that should not even wait, so that any other may hang as well.
        """
        super().__init__(f"{invariant.name}: {invariant.claim}. {seen}.")
        self.invariant = invariant.name
        self.hangs = hangs


class Maybe(str):
    """What is wrong now. It is a failure if it stays wrong."""

    __slots__ = ()


class Invariant:
    """Something that must hold of every pool that promises it."""

    name: ClassVar[str]
    claim: ClassVar[str]

    def at_loan(self, model: Model, borrower: Borrower, key: Any, connection: Any) -> str | None:  # noqa: ARG002
        """Look at a connection that getconn has just returned, before it is entered in the model."""
        return None

    def at_refusal(self, model: Model, error: BaseException) -> str | None:  # noqa: ARG002
        """Look at a request that was refused though nothing had failed."""
        return None

    def at_rest(self, model: Model) -> str | None:  # noqa: ARG002
        """Look at the pool when nothing moves."""
        return None


def told(error: BaseException) -> str:
    """Show an error in a line."""
    return f"{type(error).__name__}: {error}"
