"""Rows of the table of callbacks: what is called to open a connection."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any

from pgpool_rs.testing import PATIENCE
from tests.callbacks.probe import Odd, Probe, last
from tests.callbacks.scene import ROOM, Round, Scene
from tests.callbacks.sites import (
    DOWN,
    LOGGED,
    PASSED,
    Act,
    borrow,
    borrow_in_a_block,
    borrow_to_be_closed,
    on,
    option,
    round_of,
    row,
    site,
)

# --- connect ---


row("connect", "getconn", on("connect"), borrow)
row("connect", "getconn of a key", on("connect"), lambda scene: borrow(scene, "key"))
row("connect", "a block", on("connect"), borrow_in_a_block)


@round_of(
    "connect",
    "getconn, by a worker",
    lambda scene: scene.on("connect"),
    strong=LOGGED,
    why="an interrupt of a worker is no caller's; the waiter connects itself",
)
def _(scene: Scene) -> None:
    scene.open(grow="workers")
    borrow(scene)


@site("connect", "the option connect")
def _(scene: Scene) -> Round:
    @last
    def connect(_: object = None) -> Any:
        scene.probe()
        return scene.server.connect()

    # No line of Python comes after it, where what strikes late would lose the connection before the pool has it.
    scene.open(connect=functools.partial(connect, None))
    return lambda: borrow(scene)


@round_of("rollback", "what the option connect leaves", lambda scene: scene.on("rollback"))
def _(scene: Scene) -> None:
    def connect() -> Any:
        connection = scene.server.connect()
        connection.cursor().execute("SELECT 1")
        return connection

    scene.open(connect=connect)
    borrow(scene)


def call_connect(scene: Scene) -> None:
    connection = scene.pool._connect("key")
    scene.mine.append(connection)
    scene.give(connection)


row("connect", "_connect called by a program", on("connect"), call_connect)


def refilling(refill: str, *args: Any) -> Act:
    """Give a round in which a pool misses a connection, which is opened by the housekeeping."""

    def do(scene: Scene) -> None:
        borrow_to_be_closed(scene)
        getattr(scene.pool, refill)(*args)

    return do


for refill, args in {"maintain": (), "check": (), "drain": (), "wait": (PATIENCE,)}.items():
    row("connect", refill, on("connect", 1), refilling(refill, *args), LOGGED)


@site("connect", "constructor")
def _(scene: Scene) -> Round:
    scene.on("connect")
    return anew(scene)


def anew(scene: Scene, **options: Any) -> Round:
    """Give a round that makes a pool and closes it."""

    def round_() -> None:
        pool = scene.open(1, ROOM, **options)
        pool.closeall()

    return round_


@round_of("connect", "constructor with open_workers", lambda scene: scene.on("connect"))
def _(scene: Scene) -> None:
    scene.open(2, ROOM, open_workers=2)
    scene.pool.closeall()


@round_of("connect", "open()", lambda scene: scene.on("connect"))
def _(scene: Scene) -> None:
    scene.open(2, ROOM, open=False)
    scene.pool.open()
    scene.pool.closeall()


class Arguments(list[Any]):
    """`_args` that run Python when they are read."""

    probe: Probe

    def __iter__(self) -> Any:
        self.probe.callback()
        return super().__iter__()


class Options(dict[str, Any]):
    """`_kwargs` that run Python when they are read."""

    probe: Probe

    def keys(self) -> Any:
        self.probe.callback()
        return super().keys()

    def __iter__(self) -> Any:
        return super().__iter__()


@site("_args", "getconn")
def _(scene: Scene) -> Round:
    scene.open()
    scene.pool._args = Arguments()
    scene.pool._args.probe = scene.probe
    return lambda: borrow(scene)


@site("_kwargs", "getconn")
def _(scene: Scene) -> Round:
    scene.open()
    scene.pool._kwargs = Options(user="somebody")
    scene.pool._kwargs.probe = scene.probe
    return lambda: borrow(scene)


# --- configure ---

row("configure", "getconn", option("configure"), borrow)
row("configure", "a block", option("configure"), borrow_in_a_block)


@site("configure", "constructor")
def _(scene: Scene) -> Round:
    return anew(scene, configure=scene.probe.callback)


row("configure", "maintain", option("configure", 1), refilling("maintain"), LOGGED)


@site("closed", "after configure")
def _(scene: Scene) -> Round:
    def look_out(connection: Any) -> None:
        scene.server.on("closed", scene.probe)

    scene.open(configure=look_out, max_idle=0)

    def round_() -> None:
        connection = scene.lend()
        scene.server.on("closed", lambda _: None)
        scene.give(connection)

    return round_


@site("close", "after a configure that failed", PASSED, why="the call reports the first error", state=DOWN)
def _(scene: Scene) -> Round:
    scene.on("close")
    scene.open(configure=scene.go_wrong)

    def round_() -> None:
        with suppress(Odd):
            scene.lend()

    return round_
