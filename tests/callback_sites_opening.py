"""Rows of the table of callbacks: what is called to open a connection."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any

from callback_probe import Odd, Probe, last
from callback_scene import ROOM, Round, Scene
from callback_sites import DOWN, LOGGED, PASSED, borrow, borrow_in_a_block, site
from pgpool_rs.testing import PATIENCE

# --- connect ---


def without_keeping(scene: Scene, *args: Any) -> Round:
    """Give a round that opens a connection each time."""
    scene.open()
    return lambda: borrow(scene, *args)


@site("connect", "getconn")
def _(scene: Scene) -> Round:
    scene.on("connect")
    return without_keeping(scene)


@site("connect", "getconn of a key")
def _(scene: Scene) -> Round:
    scene.on("connect")
    return without_keeping(scene, "key")


@site("connect", "a block")
def _(scene: Scene) -> Round:
    scene.on("connect")
    scene.open()
    return lambda: borrow_in_a_block(scene)


@site("connect", "the option connect")
def _(scene: Scene) -> Round:
    @last
    def connect(_: object = None) -> Any:
        scene.probe()
        return scene.server.connect()

    # No line of Python comes after it, where what strikes late would lose the connection before the pool has it.
    scene.open(connect=functools.partial(connect, None))
    return lambda: borrow(scene)


@site("connect", "_connect called by a program")
def _(scene: Scene) -> Round:
    scene.open()
    scene.on("connect")

    def round_() -> None:
        connection = scene.pool._connect("key")
        scene.mine.append(connection)
        scene.give(connection)

    return round_


def emptied_refills(scene: Scene, refill: str, *args: Any) -> Round:
    """Give a round in which a pool misses a connection, which is opened by the housekeeping."""
    scene.open(1, ROOM)

    def round_() -> None:
        scene.give(scene.lend(), close=True)
        getattr(scene.pool, refill)(*args)

    return round_


for refill, args in {"maintain": (), "check": (), "drain": ()}.items():

    @site("connect", refill, LOGGED)
    def _(scene: Scene, refill: str = refill, args: Any = args) -> Round:
        round_ = emptied_refills(scene, refill, *args)
        scene.on("connect")
        return round_


@site("connect", "wait", LOGGED)
def _(scene: Scene) -> Round:
    round_ = emptied_refills(scene, "wait", PATIENCE)
    scene.on("connect")
    return round_


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


@site("connect", "constructor with open_workers")
def _(scene: Scene) -> Round:
    scene.on("connect")

    def round_() -> None:
        scene.open(2, ROOM, open_workers=2)
        scene.pool.closeall()

    return round_


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


@site("configure", "getconn")
def _(scene: Scene) -> Round:
    scene.open(configure=scene.probe.callback)
    return lambda: borrow(scene)


@site("configure", "a block")
def _(scene: Scene) -> Round:
    scene.open(configure=scene.probe.callback)
    return lambda: borrow_in_a_block(scene)


@site("configure", "constructor")
def _(scene: Scene) -> Round:
    return anew(scene, configure=scene.probe.callback)


@site("configure", "maintain", LOGGED)
def _(scene: Scene) -> Round:
    scene.more["configure"] = scene.probe.callback
    return emptied_refills(scene, "maintain")


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


@site(
    "close",
    "after a configure that failed",
    PASSED,
    why="the first error is the one to be heard",
    state=DOWN,
)
def _(scene: Scene) -> Round:
    scene.on("close")

    scene.open(configure=scene.go_wrong)

    def round_() -> None:
        with suppress(Odd):
            scene.lend()

    return round_
