"""Rows of the table of callbacks: what is called when a connection comes back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg2

from pgpool_rs import _housekeeper
from pgpool_rs.testing import INTRANS
from tests.callbacks.probe import Odd, last
from tests.callbacks.scene import Round, Scene
from tests.callbacks.sites import (
    ENDED,
    FULL,
    LENT,
    LOGGED,
    PASSED,
    PRINTED,
    Act,
    borrow,
    borrow_and_use,
    borrow_in_a_block,
    fail_in_a_block,
    on,
    opens,
    option,
    round_of,
    row,
    site,
)
from tests.lib.waits import counts, wait_until

# --- what is asked of a connection ---


OWN = "the block's own error is heard"

row("closed", "putconn", on("closed", 1), borrow_and_use, LOGGED)
row("closed", "putconn of one that is not needed", on("closed"), borrow, LOGGED)
row("info.transaction_status", "putconn", on("info", 1), borrow_and_use, LOGGED)


@site("closed", "after a rollback that failed", PASSED, why="the call reports the first error")
def _(scene: Scene) -> Round:
    scene.open(1)

    def rollback(_: object) -> None:
        scene.on("closed")
        scene.go_wrong()

    scene.server.on("rollback", rollback)

    def round_() -> None:
        borrow_and_use(scene)
        scene.server.on("closed", lambda _: None)

    return round_


class Answer(int):
    """A number that a connection answers with, and that runs Python when it is looked at."""

    scene: Scene
    connection: Any = None

    @last
    def __bool__(self) -> bool:
        self.scene.probe(self.connection)
        return int(self) != 0

    @last
    def __eq__(self, other: object) -> bool:
        self.scene.probe(self.connection)
        return int(self) == other

    __hash__ = int.__hash__


def answering(scene: Scene, asked: list[Any] | None = None) -> None:
    def shown(number: int) -> Answer:
        answer = Answer(number)
        answer.scene = scene
        answer.connection = asked[-1] if asked else None
        return answer

    scene.server.shown = shown


@site("closed.__bool__", "putconn", LOGGED)
def _(scene: Scene) -> Round:
    scene.open(1)
    answering(scene)
    return lambda: borrow_and_use(scene)


@site("closed.__eq__", "putconn of a closed one", LOGGED)
def _(scene: Scene) -> Round:
    scene.open(1)
    answering(scene)

    def round_() -> None:
        connection = scene.lend()
        connection.close()
        scene.give(connection)

    return round_


@site("info.transaction_status", "after reset", LOGGED)
def _(scene: Scene) -> Round:
    def reset(_: object) -> None:
        scene.on("info")

    scene.open(1, reset=reset)

    def round_() -> None:
        borrow(scene)
        scene.server.on("info", lambda _: None)

    return round_


def look_once(scene: Scene) -> None:
    """Put the probe into the next look at what is closed, and in none after it."""

    def closed(connection: Any) -> None:
        scene.server.on("closed", lambda _: None)
        scene.probe(connection)

    scene.server.on("closed", closed)


@round_of("closed", "a block", opens(1), state=LENT)
def _(scene: Scene) -> None:
    with scene.pool.connection():
        look_once(scene)


@round_of("closed", "a block that fails", opens(1), PASSED, why=OWN, state=LENT)
def _(scene: Scene) -> None:
    with suppress(Odd), scene.pool.connection():
        look_once(scene)
        raise Odd


@site("closed.__eq__", "a block", state=LENT)
def _(scene: Scene) -> Round:
    scene.open(1)
    borrowed: list[Any] = []
    answering(scene, borrowed)

    def round_() -> None:
        with scene.pool.connection() as connection:
            borrowed.append(connection)
        borrowed.clear()

    return round_


# --- rollback, commit, reset ---


row("rollback", "putconn", on("rollback", 1), borrow_and_use, LOGGED)
row(
    "rollback",
    "a block that fails",
    on("rollback", 1),
    lambda scene: fail_in_a_block(scene, Odd()),
    PASSED,
    why=OWN,
    state=LENT,
)
row("commit", "a block", on("commit", 1), borrow_in_a_block, state=LENT)


def forget_a_block(scene: Scene) -> None:
    """Enter a block and never leave it."""
    entered = scene.pool.connection()
    entered.__enter__().status = INTRANS
    del entered


row(
    "rollback",
    "a block that is not left",
    on("rollback", 1),
    forget_a_block,
    LOGGED,
    PRINTED,
    PRINTED,
    why="nobody can leave it any more",
)


def leaving(scene: Scene, **options: Any) -> None:
    """Make a pool that leaves slow returns to the housekeeping, whose thread is not to come by itself."""
    scene.leave_no_housekeeping()
    scene.open(1, background=True, **options)


@site("rollback", "maintain, of a return that was left", LOGGED)
def _(scene: Scene) -> Round:
    leaving(scene)
    scene.on("rollback")
    return lambda: use_and_maintain(scene)


@site("rollback", "getconn, of a return that was left", LOGGED, state=FULL)
def _(scene: Scene) -> Round:
    leaving(scene)
    scene.pool.maxconn = 1
    scene.on("rollback")

    def round_() -> None:
        borrow_and_use(scene)
        borrow(scene)

    return round_


@site("rollback", "the housekeeping thread", LOGGED, LOGGED, ENDED)
def _(scene: Scene) -> Round:
    # How long a pool that has failed is left alone.
    scene.replace(_housekeeper, "PAUSE", 0.01)
    scene.open(1, background=True)
    scene.on("rollback")

    def round_() -> None:
        borrow_and_use(scene)
        wait_until(lambda: not counts(scene.pool)["returning"], "the return")

    return round_


row("reset", "putconn", option("reset", 1), borrow, LOGGED)
row("reset", "a block", option("reset", 1), borrow_in_a_block, LOGGED)
row("execute", 'reset="discard"', on("execute", 1, reset="discard"), borrow, LOGGED)


def use_and_maintain(scene: Scene) -> None:
    borrow_and_use(scene)
    scene.pool.maintain()


@site("reset", "maintain, of a return that was left", LOGGED)
def _(scene: Scene) -> Round:
    leaving(scene, reset=scene.probe.callback)
    return lambda: use_and_maintain(scene)


def flagged(**options: Any) -> Act:
    """Make a pool whose connections have the probe in `async_`."""

    def begin(scene: Scene) -> None:
        @last
        def flag(connection: Any) -> int:
            scene.probe(connection)
            return 0

        scene.open(1, **options)
        scene.server.parts["async_"] = flag

    return begin


row("async_", "a block", flagged(), borrow_in_a_block, state=LENT)
row("async_", "putconn with a reset", flagged(reset=lambda _: None), borrow, LOGGED)


class Failure(psycopg2.OperationalError):
    """An error of a block, that runs Python when one of these is read: pgcode, diag, or one of diag's severities."""

    scene: Scene
    told = "pgcode"
    code = "57P01"

    def _tell(self, name: str, answer: object) -> Any:
        if name == self.told:
            self.scene.probe()
            token = self.scene.probe.left_token()  # noqa: F841
        return answer

    @property
    def pgcode(self) -> Any:  # type: ignore[override]
        return self._tell("pgcode", self.code)

    @property
    def diag(self) -> Any:  # type: ignore[override]
        return self._tell("diag", self)

    @property
    def severity_nonlocalized(self) -> Any:
        return self._tell("severity_nonlocalized", None if self.told == "severity" else "FATAL")

    @property
    def severity(self) -> Any:
        return self._tell("severity", "FATAL")


def failing(**attributes: str) -> Act:
    """Give a round whose block fails with such an error."""

    def do(scene: Scene) -> None:
        failure = Failure()
        failure.scene = scene
        vars(failure).update(attributes)
        fail_in_a_block(scene, failure)

    return do


row("pgcode", "a block that fails", opens(1), failing(), PASSED, why=OWN)
for told in ("diag", "severity_nonlocalized", "severity"):
    row(told, "a block that fails", opens(1), failing(told=told), PASSED, why=OWN)


def reporting(name: str) -> Act:
    """Give a scene whose connections run Python when a failed write has the pool ask for this."""

    def begin(scene: Scene) -> None:
        @last
        def tell(connection: Any) -> str:
            scene.probe(connection)
            return "on"

        scene.open(1)
        scene.server.parts[name] = tell

    return begin


for name in ("parameter_status", "readonly"):
    row(name, "a block that fails", reporting(name), failing(told="", code="25006"), PASSED, why=OWN, state=LENT)
