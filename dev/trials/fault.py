"""What a fault is: its servers, what it does to them, and the errors that it explains."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, final

from dev.load import Failure, Load, Outcome, Phase, prepare
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.standby import ask


@final
@dataclass(frozen=True)
class Effort:
    """Says how much time a trial takes."""

    undisturbed: float
    """Seconds of undisturbed load before a fault, and again after it."""
    kills: float
    """Seconds for which backends are killed at random."""


@final
@dataclass(frozen=True)
class Explanation:
    """Names a kind of error that a fault may cause, and tells whether a failure is one."""

    label: str
    errors: tuple[type[Exception], ...]
    text: str
    """A regular expression that the error's text has somewhere."""
    phases: tuple[Phase, ...] = ("borrow", "use", "return")

    def covers(self, failure: Failure) -> bool:
        """Tell whether it is of this kind."""
        return (
            failure.phase in self.phases
            and issubclass(failure.error, self.errors)
            and re.search(self.text, failure.text) is not None
        )


@final
@dataclass(frozen=True)
class Strike:
    """Says when a fault was, in time.monotonic(), and what was done."""

    began: float
    returned: float
    """When the server was there again, by the fault's own account."""
    done: str = ""
    """What was done and how often, for the table."""


class Fault:
    """Owns the servers of one trial, closed with `stack`, and disturbs them.

    A subclass says in begin() and end(), or in strike(), what it does to them, and in `explanations` what may fail
    then. Most need one server.
    """

    title: ClassVar[str]
    """What the table calls it."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The pool's options beside, or in place of, the recommended ones."""
    said_of_options: ClassVar[str] = ""
    """The same as text, for the table."""
    explanations: ClassVar[Sequence[Explanation]] = ()
    aftermath: ClassVar[float] = 0.0
    """Seconds after the return during which the fault still explains the failures of new requests."""
    seconds: ClassVar[float] = 1.0
    """How long the fault lasts: longer than check_after."""
    word: ClassVar[str] = "down"
    """What the server is for so long, for the table."""
    is_compared: ClassVar[bool] = True
    """Whether psycopg2.pool has the same trial: in some it would hang for ever, or show nothing new."""

    def __init__(self, stack: ExitStack, effort: Effort) -> None:
        self.effort = effort
        self.server = stack.enter_context(ThrowawayPostgres())
        prepare(self.server.dsn)

    @property
    def address(self) -> dict[str, Any]:
        """Give the address that the pool connects to."""
        return self.server.dsn_kwargs

    @property
    def port(self) -> int:
        """Give the port of the right server after the fault."""
        return self.server.port

    def sessions(self, name: str) -> int:
        """Count the sessions of this application_name, at the server that the pool connects to."""
        return count_sessions(self.server, name)

    def strike(self, load: Load, name: str) -> Strike:  # noqa: ARG002  for those that need them
        """Disturb the server, under load from a pool of this application_name, and return when it is there again."""
        began = time.monotonic()
        self.begin()
        time.sleep(self.seconds)
        self.end()
        return Strike(began, time.monotonic(), f"{self.seconds:g} s {self.word}")

    def begin(self) -> None:
        """Begin the fault."""
        raise NotImplementedError

    def end(self) -> None:
        """End the fault, and return when the server is there again."""
        self.server.start()

    def undo(self) -> None:
        """Undo anything that would keep the load from ending, after the measurement or a failure of the trial."""

    def explain(self, outcome: Outcome, strike: Strike) -> str | None:
        """Give the kind of this failure, or None if the fault does not explain it."""
        assert outcome.failure is not None
        if outcome.ended < strike.began or outcome.began > strike.returned + self.aftermath:
            return None
        return explained_by(self.explanations, outcome.failure)


def explained_by(explanations: Iterable[Explanation], failure: Failure) -> str | None:
    """Give the label of the first that covers this failure."""
    return next((explanation.label for explanation in explanations if explanation.covers(failure)), None)


def count_sessions(server: ThrowawayPostgres, name: str) -> int:
    """Count a server's sessions of this application_name; none if it does not run."""
    if server.pid is None:
        return 0
    return int(
        ask(
            server,
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and application_name = %s",
            name,
        )
    )
