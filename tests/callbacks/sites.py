"""Every Python callback that a pool makes, each way to it, and what becomes of an error that is raised there.

A row has a callback's name, the way that leads to it, and a function that makes the scene and returns one round of it:
a few calls of the pool that reach the callback at least once and leave nothing behind. test_table.py sees to it
that every row reaches its callback, and that no callback in the sources of the binding is without a row.

The rows stand in sites_opening, sites_checking, sites_returning, sites_closing, sites_keys, sites_hooks, sites_log,
sites_listener and sites_limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pgpool_rs
from tests.callbacks.scene import ROOM, Round, Scene

Stage = Callable[[Scene], Round]


class Fate(Enum):
    """What becomes of an error that a callback raises."""

    RAISED = "it is raised by the call of the pool"
    LOGGED = "the call of the pool returns, and a line in the log names it"
    PRINTED = "there is nobody to raise it to: sys.unraisablehook has it"
    PASSED = "the call of the pool returns, and nothing is said"
    ENDED = "the housekeeping thread ends, and another one takes its place, which the log says"


RAISED, LOGGED, PRINTED, PASSED, ENDED = Fate


class State(Enum):
    """What the pool, or the connection, is like while the callback runs."""

    FREE = "the pool has room, and the callback's connection, if it has one, is in nobody's hands"
    LENT = "the same, and the callback's connection is lent"
    FULL = "all connections are lent"
    CLOSED = "the pool is closed"
    GENTLY = "the pool is closed by close(), or not yet open"
    DOWN = "each connect raises the scene's own error"


FREE, LENT, FULL, CLOSED, GENTLY, DOWN = State


@dataclass(frozen=True)
class Site:
    """A row of the table: a callback, and a way to it."""

    callback: str
    way: str
    stage: Stage
    said: Fate
    """What becomes of what a database says: psycopg2.Error and OSError."""
    plain: Fate
    """What becomes of any other Exception, and of a statement that was cancelled."""
    strong: Fate
    """What becomes of any other BaseException."""
    short: Fate
    """What becomes of a lack of memory, which our own code may ignore where `plain` is raised."""
    waits: bool
    """Whether only a pool that waits makes the callback."""
    why: str
    """Why an error is not raised to the caller, where that says more than the fate itself."""
    stays: str
    """Why a connection stays lent of which no borrower knows; that is no slot lost, but one that was not given back."""

    state: State

    @property
    def name(self) -> str:
        """Name the row."""
        return f"{self.callback} / {self.way}"


SITES: dict[str, Site] = {}


def site(
    callback: str,
    way: str,
    said: Fate = RAISED,
    plain: Fate | None = None,
    strong: Fate | None = None,
    *,
    short: Fate | None = None,
    waits: bool = False,
    why: str = "",
    stays: str = "",
    state: State = FREE,
) -> Callable[[Stage], Stage]:
    """Enter a row into the table; a decorator of the function that makes its scene.

    Only what a database says is swallowed: where nothing else is given, an error of any other kind is raised.
    """

    def enter(stage: Stage) -> Stage:
        plainly = plain or RAISED
        row = Site(callback, way, stage, said, plainly, strong or RAISED, short or plainly, waits, why, stays, state)
        assert row.name not in SITES, row.name
        SITES[row.name] = row
        return stage

    return enter


Act = Callable[[Scene], object]


def row(callback: str, way: str, begin: Act, do: Act, *fates: Fate, **more: Any) -> None:
    """Enter a row into the table: `begin` makes the pool, with the probe in the callback, and `do` is a round."""

    @site(callback, way, *fates, **more)
    def _(scene: Scene) -> Round:
        begin(scene)
        return lambda: do(scene)


def round_of(callback: str, way: str, begin: Act, *fates: Fate, **more: Any) -> Callable[[Act], Act]:
    """Enter the same row; a decorator of the function that is a round."""

    def enter(do: Act) -> Act:
        row(callback, way, begin, do, *fates, **more)
        return do

    return enter


def opens(size: int = 0, **options: Any) -> Act:
    """Make a pool. The probe is in what is done with it."""
    return lambda scene: scene.open(size, **options)


def on(call: str, size: int = 0, **options: Any) -> Act:
    """Make a pool with the probe in a call of the server's."""

    def begin(scene: Scene) -> None:
        scene.open(size, **options)
        scene.on(call)

    return begin


def option(name: str, size: int = 0, **options: Any) -> Act:
    """Make a pool with the probe as one of its options."""
    return lambda scene: scene.open(size, **{name: scene.probe.callback}, **options)


# --- rounds that many scenes have in common --------------------------------------------------------------------------


def borrow(scene: Scene, *args: Any, **kwargs: Any) -> None:
    """Borrow a connection and return it."""
    scene.give(scene.lend(*args, **kwargs))


def borrow_and_use(scene: Scene, status: int = 2, *, close: bool = False) -> None:
    """Borrow a connection, leave it in a transaction and return it."""
    connection = scene.lend()
    connection.status = status
    scene.give(connection, close=close)


def borrow_to_be_closed(scene: Scene) -> None:
    """Borrow a connection and return it to be closed."""
    scene.give(scene.lend(), close=True)


def borrow_in_a_block(scene: Scene) -> None:
    """Borrow a connection for a block."""
    with scene.pool.connection():
        pass


def fail_in_a_block(scene: Scene, error: Exception) -> None:
    """Borrow a connection for a block that fails."""
    try:
        with scene.pool.connection():
            raise error
    except type(error) as raised:
        if raised is not error:
            raise


def is_lent(scene: Scene, connection: Any) -> bool:
    """Tell whether a connection is lent."""
    return id(connection) in scene.pool._rused


def wait_in_vain(scene: Scene) -> None:
    """Wait for a connection while all are lent."""
    lent = [scene.lend() for _ in range(ROOM)]
    try:
        scene.lend(timeout=0.001)
    except pgpool_rs.PoolTimeout:
        return
    finally:
        for connection in lent:
            scene.give(connection)
    raise AssertionError("it was lent")
