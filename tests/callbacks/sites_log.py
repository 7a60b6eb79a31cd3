"""Rows of the table of callbacks: the log and what is said in it."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import psycopg2

from pgpool_rs._core import advance_clock
from pgpool_rs._housekeeper import housekeeper
from tests.callbacks.probe import Odd, last
from tests.callbacks.scene import Round, Scene
from tests.callbacks.sites import CLOSED, FULL, PASSED, Act, borrow, borrow_and_use, round_of, row, site, wait_in_vain
from tests.lib.housekeepers import let_rest

# --- the log ---


def said(text: str, size: int = 0, **options: Any) -> Act:
    """Make a pool with the probe in a log handler, for the lines with this text."""

    def begin(scene: Scene) -> None:
        scene.open(size, **options)
        scene.listen(text)

    return begin


def failing(call: str, size: int) -> Act:
    """Make a pool whose server fails in one call by itself, with the probe in a log handler for the line about it."""

    def begin(scene: Scene) -> None:
        scene.open(size)
        scene.server.on(call, scene.go_wrong)
        scene.listen(f"{call}() failed")

    return begin


row("log handler", "a rollback that failed", failing("rollback", 1), borrow_and_use)
row("log handler", "a close that failed", failing("close", 0), borrow)
row("log handler", "connection opened", said("connection opened"), borrow)
row("log handler", "connection closed", said("connection closed"), borrow)


@round_of(
    "log handler", "a connect that failed", said("connect failed"), PASSED, why="the connect's own error is heard"
)
def _(scene: Scene) -> None:
    # Failures are told of once in 10 s.
    advance_clock(100)
    scene.server.fail("connect", Odd())
    with suppress(Odd):
        scene.lend()


@site("log handler", "a check that failed")
def _(scene: Scene) -> Round:
    scene.open(1, check=scene.go_wrong, check_after=0)
    scene.listen("check failed")

    def round_() -> None:
        scene.pool.maintain()
        scene.pool.check()

    return round_


def report_a_leak(scene: Scene) -> None:
    connection = scene.lend()
    # The thread that the pool has poked would report it first.
    let_rest(housekeeper)
    advance_clock(100)
    try:
        scene.pool.maintain()
    finally:
        scene.give(connection)


row("log handler", "a leak", said("connection not returned", leak_after=50), report_a_leak)
row("log handler", "a late return", said("returned late", leak_after=50), report_a_leak)


@round_of("log handler", "a pool that is closed", lambda scene: scene.listen("pool closed"), state=CLOSED)
def _(scene: Scene) -> None:
    scene.open(1).closeall()


row(
    "log handler",
    "a wait that was too long",
    said("waited"),
    wait_in_vain,
    PASSED,
    waits=True,
    why="PoolTimeout is heard",
    state=FULL,
)


@site("log handler", "one that was forgotten")
def _(scene: Scene) -> Round:
    scene.server.keep = False
    scene.server.at_end = lambda _: None
    scene.open(reclaim=True)
    scene.listen("reclaimed")

    def round_() -> None:
        scene.pool.getconn()
        scene.pool.maintain()

    return round_


@site("log filter", "connection opened")
def _(scene: Scene) -> Round:
    scene.open()

    class Filter(logging.Filter):
        @last
        def filter(self, record: logging.LogRecord) -> bool:
            if "opened" in record.getMessage():
                scene.probe()
            return True

    logger, chosen = logging.getLogger("pgpool_rs.site"), Filter()
    logger.setLevel(logging.DEBUG)
    logger.addFilter(chosen)
    scene.stack.callback(logger.removeFilter, chosen)
    return lambda: borrow(scene)


class Logger(logging.Logger):
    """A logger that runs Python when its level is asked for."""

    scene: Scene

    @last
    def getEffectiveLevel(self) -> int:  # noqa: N802
        self.scene.probe()
        return logging.DEBUG


@site("log level", "connection opened")
def _(scene: Scene) -> Round:
    scene.open()
    logger = logging.getLogger("pgpool_rs.site")
    scene.stack.callback(setattr, logger, "__class__", logger.__class__)
    logger.__class__ = Logger
    vars(logger)["scene"] = scene
    scene.stack.callback(vars(logger).pop, "scene")
    return lambda: borrow(scene)


class Told(psycopg2.DatabaseError):
    """An error that runs Python when its text is asked for."""

    scene: Scene

    @last
    def __str__(self) -> str:
        self.scene.probe()
        return "told"


@site("str(error)", "the line about a rollback that failed", PASSED, PASSED, why="only its class is named, then")
def _(scene: Scene) -> Round:
    scene.open(1)

    def rollback(_: object) -> None:
        error = Told()
        error.scene = scene
        if scene.trouble:
            raise error

    scene.server.on("rollback", rollback)
    return lambda: borrow_and_use(scene)


class Value(str):
    """One of the pool's secrets, that runs Python when it is looked for."""

    __slots__ = ("scene",)
    scene: Scene

    @last
    def __str__(self) -> str:
        self.scene.probe()
        return super().__str__()


@site("_kwargs", "masking", PASSED, PASSED, why="what cannot be masked is not shown")
def _(scene: Scene) -> Round:
    scene.open(1)
    scene.server.on("rollback", scene.go_wrong)
    secret = Value("secret")
    secret.scene = scene
    scene.pool._kwargs = {"password": secret}
    return lambda: borrow_and_use(scene)
