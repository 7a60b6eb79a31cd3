"""Rows of the table of callbacks: the close of a connection, and its end."""

from __future__ import annotations

from contextlib import suppress

import pgpool_rs
from tests.callbacks.probe import Odd
from tests.callbacks.scene import ROOM, Round, Scene
from tests.callbacks.sites import (
    CLOSED,
    FULL,
    GENTLY,
    LOGGED,
    PASSED,
    PRINTED,
    Act,
    borrow,
    borrow_and_use,
    on,
    round_of,
    row,
    site,
)

# --- close ---


FIRST = "the call reports the first error"


def going_wrong(call: str) -> Act:
    """Make a pool whose server fails in one call by itself, with the probe in the close that follows."""

    def begin(scene: Scene) -> None:
        scene.open(1)
        scene.server.on(call, scene.go_wrong)
        scene.on("close")

    return begin


def borrow_in_vain(scene: Scene) -> None:
    with suppress(Odd):
        borrow_and_use(scene)


row("close", "putconn", on("close"), lambda scene: borrow_and_use(scene, close=True), LOGGED)
row("close", "putconn of one that is not needed", on("close"), borrow, LOGGED)
row("close", "after a rollback that failed", going_wrong("rollback"), borrow_and_use, PASSED, why=FIRST)
row("close", "after a look that failed", going_wrong("info"), borrow_in_vain, PASSED, why=FIRST)
row("close", "drain", on("close", 2), lambda scene: scene.pool.drain(), LOGGED)


@site("close", "after a reset that failed", PASSED, why=FIRST)
def _(scene: Scene) -> Round:
    scene.open(1, reset=scene.go_wrong)
    scene.on("close")
    return lambda: borrow(scene)


@site("close", "after a look that was interrupted", PASSED, PASSED, PASSED, why=FIRST)
def _(scene: Scene) -> Round:
    scene.open(1)

    def interrupt(_: object) -> None:
        if scene.trouble:
            raise KeyboardInterrupt

    scene.server.on("info", interrupt)
    scene.on("close")

    def round_() -> None:
        with suppress(KeyboardInterrupt):
            borrow(scene)

    return round_


@round_of("close", "closeall", lambda scene: scene.on("close"), PASSED, state=CLOSED)
def _(scene: Scene) -> None:
    scene.open(2, ROOM)
    scene.mine = []
    scene.lend()
    scene.pool.closeall()


@round_of("close", "close()", lambda scene: scene.on("close"), LOGGED, state=GENTLY)
def _(scene: Scene) -> None:
    scene.open(2, ROOM)
    scene.pool.close()


@round_of("close", "putconn after close()", lambda scene: scene.on("close"), LOGGED, state=GENTLY)
def _(scene: Scene) -> None:
    scene.open(0, ROOM)
    connection = scene.lend()
    scene.pool.close()
    scene.give(connection)


@round_of("close", "open() that fails", lambda scene: scene.on("close"), LOGGED, state=GENTLY)
def _(scene: Scene) -> None:
    scene.open(2, open=False)
    scene.server.fail("connect", None, Odd())
    with suppress(Odd):
        scene.pool.open()


@round_of(
    "close", "the end of a constructor that fails", lambda scene: scene.on("close"), PASSED, why=FIRST, state=CLOSED
)
def _(scene: Scene) -> None:
    scene.server.fail("connect", None, Odd())
    with suppress(Odd):
        scene.open(2)


def shrinking(shrink: Act) -> Act:
    """Give a round that makes the pool smaller while two connections are idle."""

    def do(scene: Scene) -> None:
        for connection in [scene.lend(), scene.lend()]:
            scene.give(connection)
        try:
            shrink(scene)
        finally:
            scene.pool.resize(0, ROOM)

    return do


SHRUNK = on("close", 2, max_idle=None)
row("close", "maxconn lowered", SHRUNK, shrinking(lambda scene: setattr(scene.pool, "maxconn", 1)), LOGGED)
row("close", "resize", SHRUNK, shrinking(lambda scene: scene.pool.resize(0, 0)), LOGGED, state=FULL)


@round_of("close", "a pool that closed while one was opened", lambda scene: scene.on("close"), LOGGED, state=CLOSED)
def _(scene: Scene) -> None:
    scene.server.on("connect", lambda _: scene.pool.closeall())
    scene.open()
    try:
        scene.lend()
    except pgpool_rs.PoolClosed:
        return
    finally:
        scene.server.on("connect", lambda _: None)
    raise AssertionError("it was lent")


@site("__del__ of a connection", "putconn", PRINTED, PRINTED, PRINTED)
def _(scene: Scene) -> Round:
    scene.server.keep = False
    scene.open()
    scene.server.at_end = lambda _: scene.probe()
    return lambda: borrow(scene)
