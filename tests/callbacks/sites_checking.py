"""Rows of the table of callbacks: finding out whether a connection is well."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

from pgpool_rs import PoolTimeout
from pgpool_rs._core import advance_clock
from pgpool_rs._housekeeper import housekeeper
from pgpool_rs.testing import PATIENCE
from tests.callbacks.probe import last
from tests.callbacks.scene import ROOM, Round, Scene
from tests.callbacks.sites import (
    DOWN,
    LOGGED,
    PASSED,
    borrow,
    borrow_in_a_block,
    borrow_to_be_closed,
    on,
    option,
    round_of,
    row,
    site,
)
from tests.lib.housekeepers import let_rest
from tests.lib.waits import Task, counts, wait_until

# --- checks ---


def kept(scene: Scene, **options: Any) -> None:
    """Make a pool with two idle connections, each of which is checked before it is lent."""
    scene.open(2, ROOM, **{"check_after": 0, **options})


def maintain_and_borrow(scene: Scene) -> None:
    scene.pool.maintain()
    borrow(scene)


def maintain_and_borrow_in_a_block(scene: Scene) -> None:
    scene.pool.maintain()
    borrow_in_a_block(scene)


def check_all(scene: Scene) -> None:
    scene.pool.check()


CHECKED = option("check", 2, check_after=0)
row("check", "getconn", CHECKED, maintain_and_borrow, LOGGED)
row("check", "pool.check()", CHECKED, check_all, LOGGED)
row("check", "a block", CHECKED, maintain_and_borrow_in_a_block, LOGGED)


def part(scene: Scene, name: str, value: Any) -> None:
    """Let the connections have a method that gives this, with the probe in it."""

    @last
    def method(connection: Any) -> Any:
        scene.probe(connection)
        return value

    scene.server.parts[name] = lambda connection: lambda: method(connection)


@site("fileno", "getconn", LOGGED)
def _(scene: Scene) -> Round:
    part(scene, "fileno", None)
    kept(scene)
    return lambda: maintain_and_borrow(scene)


@site("poll", "getconn", LOGGED)
def _(scene: Scene) -> Round:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    for descriptor in (reader, writer):
        scene.stack.callback(os.close, descriptor)
    scene.server.parts["fileno"] = lambda _: lambda: reader
    part(scene, "poll", 0)
    kept(scene)
    return lambda: maintain_and_borrow(scene)


@site("closed", "after a check", LOGGED)
def _(scene: Scene) -> Round:
    def check(_: object) -> None:
        scene.server.on("closed", scene.probe)

    kept(scene, check=check)

    def round_() -> None:
        scene.pool.maintain()
        connection = scene.lend()
        scene.server.on("closed", lambda _: None)
        scene.give(connection)

    return round_


@site("rollback", "after a check", LOGGED)
def _(scene: Scene) -> Round:
    def check(connection: Any) -> None:
        connection.status = 2

    kept(scene, check=check)
    scene.on("rollback")
    return lambda: maintain_and_borrow(scene)


@site("close", "after a check that failed", PASSED)
def _(scene: Scene) -> Round:
    kept(scene, check=scene.go_wrong)
    scene.on("close")

    def round_() -> None:
        scene.pool.maintain()
        scene.pool.check()

    return round_


@site("async_", "getconn with a check", LOGGED)
def _(scene: Scene) -> Round:
    @last
    def flag(connection: Any) -> int:
        scene.probe(connection)
        return 0

    scene.server.parts["async_"] = flag
    kept(scene)
    return lambda: check_all(scene)


@round_of("close", "one that is too old", on("close", 1, max_lifetime=60), LOGGED)
def _(scene: Scene) -> None:
    # The thread that the pool has poked would close it first.
    let_rest(housekeeper)
    advance_clock(100)
    borrow(scene)


@site("time.sleep", "wait", state=DOWN)
def _(scene: Scene) -> Round:
    scene.open()
    scene.server.on("connect", scene.go_wrong)

    @last
    def sleep(_: float) -> None:
        scene.probe()
        # Which ends the wait.
        scene.pool.resize(0, 0)

    scene.replace(time, "sleep", sleep)

    def round_() -> None:
        scene.pool.resize(1, ROOM)
        with suppress(PoolTimeout):
            scene.pool.wait(PATIENCE)

    return round_


@site("time.sleep", "drain")
def _(scene: Scene) -> Round:
    scene.open(1)
    gate = threading.Event()
    scene.stack.callback(gate.set)
    borrower = threading.get_ident()

    def hold_others(_: object) -> None:
        if threading.get_ident() != borrower:
            gate.wait(PATIENCE)

    @last
    def sleep(_: float) -> None:
        # Which ends the wait.
        gate.set()
        scene.probe()

    def round_() -> None:
        gate.clear()
        scene.server.on("connect", hold_others)
        scene.pool.minconn = 0
        borrow_to_be_closed(scene)
        while scene.pool._pool:
            borrow_to_be_closed(scene)
        scene.pool.resize(len(scene.pool._used) + 1, ROOM)
        other = Task(scene.pool.maintain)
        wait_until(lambda: counts(scene.pool)["opening"] == 1, "the other's connect")
        pause, time.sleep = time.sleep, sleep
        try:
            scene.pool.drain()
        finally:
            time.sleep = pause
            gate.set()
            other.result()

    return round_
