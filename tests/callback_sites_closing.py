"""Rows of the table of callbacks: the close of a connection, and its end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pgpool_rs
from callback_probe import Odd
from callback_scene import ROOM, Round, Scene
from callback_sites import (
    CLOSED,
    FULL,
    LOGGED,
    PASSED,
    PRINTED,
    borrow,
    borrow_and_use,
    site,
)

# --- close ---


@site("close", "putconn", LOGGED)
def _(scene: Scene) -> Round:
    scene.open()
    scene.on("close")
    return lambda: borrow_and_use(scene, close=True)


@site("close", "putconn of one that is not needed", LOGGED)
def _(scene: Scene) -> Round:
    scene.open()
    scene.on("close")
    return lambda: borrow(scene)


@site("close", "after a rollback that failed", PASSED, why="the first error is the one to be heard")
def _(scene: Scene) -> Round:
    scene.open(1)

    scene.server.on("rollback", scene.go_wrong)
    scene.on("close")
    return lambda: borrow_and_use(scene)


@site("close", "after a reset that failed", PASSED, why="the first error is the one to be heard")
def _(scene: Scene) -> Round:
    scene.open(1, reset=scene.go_wrong)
    scene.on("close")
    return lambda: borrow(scene)


@site("close", "after a look that failed", PASSED, why="the first error is the one to be heard")
def _(scene: Scene) -> Round:
    scene.open(1)

    scene.server.on("info", scene.go_wrong)
    scene.on("close")

    def round_() -> None:
        with suppress(Odd):
            borrow_and_use(scene)

    return round_


@site(
    "close", "after a look that was interrupted", PASSED, PASSED, PASSED, why="the first error is the one to be heard"
)
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


@site("close", "closeall", PASSED, state=CLOSED)
def _(scene: Scene) -> Round:
    scene.on("close")

    def round_() -> None:
        scene.open(2, ROOM)
        scene.mine = []
        scene.lend()
        scene.pool.closeall()

    return round_


@site(
    "close",
    "the end of a constructor that fails",
    PASSED,
    why="the first error is the one to be heard",
    state=CLOSED,
)
def _(scene: Scene) -> Round:
    scene.on("close")

    def round_() -> None:
        scene.server.fail("connect", None, Odd())
        with suppress(Odd):
            scene.open(2)

    return round_


@site("close", "drain", LOGGED)
def _(scene: Scene) -> Round:
    scene.open(2)
    scene.on("close")
    return lambda: scene.pool.drain()  # noqa: PLW0108


def shrunk(scene: Scene, shrink: Any) -> Round:
    scene.open(2, max_idle=None)
    scene.on("close")

    def round_() -> None:
        for connection in [scene.lend(), scene.lend()]:
            scene.give(connection)
        try:
            shrink(scene.pool)
        finally:
            scene.pool.resize(0, ROOM)

    return round_


@site("close", "maxconn lowered", LOGGED)
def _(scene: Scene) -> Round:
    return shrunk(scene, lambda pool: setattr(pool, "maxconn", 1))


@site("close", "resize", LOGGED, state=FULL)
def _(scene: Scene) -> Round:
    return shrunk(scene, lambda pool: pool.resize(0, 0))


@site("close", "a pool that closed while one was opened", LOGGED, state=CLOSED)
def _(scene: Scene) -> Round:
    scene.on("close")

    def round_() -> None:
        scene.server.on("connect", lambda _: scene.pool.closeall())
        scene.open()
        try:
            scene.lend()
        except pgpool_rs.PoolClosed:
            return
        finally:
            scene.server.on("connect", lambda _: None)
        raise AssertionError("it was lent")

    return round_


@site("__del__ of a connection", "putconn", PRINTED, PRINTED, PRINTED)
def _(scene: Scene) -> Round:
    scene.server.keep = False
    scene.open()

    def end(_: object) -> None:
        scene.probe()

    scene.server.at_end = end
    return lambda: borrow(scene)
