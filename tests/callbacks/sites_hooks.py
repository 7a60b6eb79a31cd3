"""Rows of the table of callbacks: methods that are overridden, and the waiting."""

from __future__ import annotations

import functools
import threading
from typing import Any

from pgpool_rs.testing import PATIENCE
from tests.callbacks.probe import last
from tests.callbacks.scene import Round, Scene
from tests.callbacks.sites import (
    FULL,
    GENTLY,
    LENT,
    PASSED,
    PRINTED,
    Act,
    borrow,
    borrow_in_a_block,
    borrow_to_be_closed,
    row,
    site,
    wait_in_vain,
)
from tests.lib.waits import Task, wait_for_waiters

# --- hooks ---


def hook(scene: Scene, name: str, *, after: bool = False) -> None:
    """Let the pool's class have this method overridden, and the probe called before the original or after it."""
    base = scene.pool_class

    def overridden(pool: Any, *args: Any, **kwargs: Any) -> Any:
        original = getattr(super(scene.pool_class, pool), name)
        result = original(*args, **kwargs) if after else None
        if pool is scene.pool:
            scene.probe(args[0] if args else None)
        token = scene.probe.left_token()  # noqa: F841
        return result if after else original(*args, **kwargs)

    scene.pool_class = type("Hooked", (base,), {name: overridden})


def hooked(name: str, size: int = 0, *, after: bool = False) -> Act:
    """Make a pool with the probe in an override of this method."""

    def begin(scene: Scene) -> None:
        hook(scene, name, after=after)
        scene.open(size)

    return begin


def close_one_and_maintain(scene: Scene) -> None:
    borrow_to_be_closed(scene)
    scene.pool.maintain()


row("_connect", "getconn", hooked("_connect"), borrow)
row("_connect", "getconn, once the original has filed it", hooked("_connect", after=True), borrow)
row("_connect", "maintain", hooked("_connect", 1), close_one_and_maintain, PASSED)
row("_getkey", "getconn", hooked("_getkey"), borrow)
row("_getconn", "getconn", hooked("_getconn"), borrow, waits=True)
row("_putconn", "putconn", hooked("_putconn"), borrow, waits=True, state=LENT)
row("getconn", "a block", hooked("getconn"), borrow_in_a_block)
row("putconn", "a block, once the original has taken it back", hooked("putconn", after=True), borrow_in_a_block)
row(
    "putconn",
    "a block, before the original",
    hooked("putconn"),
    borrow_in_a_block,
    stays="the override has not returned it",
    state=LENT,
)


@site("_closeall", "closeall", waits=True)
def _(scene: Scene) -> Round:
    hook(scene, "_closeall")

    def round_() -> None:
        scene.open(1).closeall()

    return round_


@site("closeall", "the end of a with block of the pool")
def _(scene: Scene) -> Round:
    hook(scene, "closeall")

    def round_() -> None:
        with scene.open(1):
            pass

    return round_


def forget_a_block(scene: Scene) -> None:
    """Enter a block and never leave it."""
    entered = scene.pool.connection()
    entered.__enter__()
    del entered


row(
    "putconn",
    "a block that is not left",
    hooked("putconn"),
    forget_a_block,
    PRINTED,
    PRINTED,
    PRINTED,
    why="nobody can leave it any more",
    stays="an override that raises before it calls the original returns nothing",
    state=LENT,
)


def drain_and_wait(scene: Scene) -> None:
    scene.pool.drain()
    scene.pool.wait(PATIENCE)


row("_connect", "wait, where minconn is 0", hooked("_connect"), drain_and_wait, PASSED, why="it tries again")


# --- waiting ---


class Parker:
    """A waiting lock with the probe in its methods."""

    def __init__(self, scene: Scene, lock: Any, method: str) -> None:
        self.scene, self.lock, self.method = scene, lock, method

    @last
    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        acquired: bool = self.lock.acquire(*args, **kwargs)
        if self.method == ("acquire" if args else "acquire first"):
            self.scene.probe()
        return acquired

    @last
    def release(self) -> None:
        self.lock.release()
        if self.method == "release":
            self.scene.probe()

    # What else uses threading.Lock.

    def __enter__(self) -> Any:
        return self.lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self.lock.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lock, name)


for method in ("acquire", "acquire first"):

    @site(f"waiting lock: {method}", "getconn", waits=True, state=FULL)
    def _(scene: Scene, method: str = method) -> Round:
        scene.open()
        make = threading.Lock
        scene.replace(threading, "Lock", lambda: Parker(scene, make(), method))
        return lambda: wait_in_vain(scene)

    @site(f"waiting lock: {method}", "close()", state=GENTLY)
    def _(scene: Scene, method: str = method) -> Round:
        make = threading.Lock
        scene.replace(threading, "Lock", lambda: Parker(scene, make(), method))
        return functools.partial(close_in_vain, scene)


def close_in_vain(scene: Scene) -> None:
    """Wait in close() for a connection that this thread has."""
    scene.open()
    connection = scene.lend()
    try:
        scene.pool.close(timeout=0.001)
    finally:
        scene.give(connection)


@site("waiting lock: threading.Lock()", "getconn", waits=True, state=FULL)
def _(scene: Scene) -> Round:
    scene.open()
    make = threading.Lock

    def lock() -> Any:
        scene.probe()
        made = make()
        token = scene.probe.left_token()  # noqa: F841
        return made

    scene.replace(threading, "Lock", lock)
    return lambda: wait_in_vain(scene)


@site(
    "waiting lock: release",
    "putconn",
    PRINTED,
    PRINTED,
    waits=True,
    why="it is nobody's: another one is woken",
    state=FULL,
)
def _(scene: Scene) -> Round:
    scene.open(1)
    make = threading.Lock

    def wait() -> Any:
        # Only now, since a thread that starts needs locks of its own.
        setattr(threading, "Lock", lambda: Parker(scene, make(), "release"))  # noqa: B010  it is a class for mypy
        return scene.pool.getconn(timeout=5)

    def round_() -> None:
        scene.pool.resize(0, 1)
        connection = scene.lend()
        try:
            waiter = Task(wait)
            wait_for_waiters(scene.pool, 1)
        finally:
            setattr(threading, "Lock", make)  # noqa: B010
        try:
            scene.give(connection)
        finally:
            scene.pool.putconn(waiter.result())

    return round_


@site("threading.get_ident", "getconn")
def _(scene: Scene) -> Round:
    ident = threading.get_ident

    def get_ident() -> int:
        if scene.pool is not None:
            scene.probe()
        number = ident()
        token = scene.probe.left_token()  # noqa: F841
        return number

    scene.replace(threading, "get_ident", get_ident)
    scene.open()
    return lambda: borrow(scene)
