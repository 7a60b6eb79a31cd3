"""Rows of the table of callbacks: methods that are overridden, and the waiting."""

from __future__ import annotations

import threading
from typing import Any

from pgpool_rs.testing import PATIENCE
from tests.callbacks.probe import last
from tests.callbacks.scene import Round, Scene
from tests.callbacks.sites import FREE, FULL, LENT, PASSED, PRINTED, borrow, borrow_in_a_block, site, waiting
from tests.lib.waits import Task, wait_for_waiters

# --- hooks ---


def hooked(scene: Scene, name: str, *, after: bool = False) -> None:
    """Let the pool's class have this method overridden, and the probe called before the original or after it."""
    base = scene.pool_class

    def hook(pool: Any, *args: Any, **kwargs: Any) -> Any:
        original = getattr(super(scene.pool_class, pool), name)
        result = original(*args, **kwargs) if after else None
        if pool is scene.pool:
            scene.probe(args[0] if args else None)
        token = scene.probe.left_token()  # noqa: F841
        return result if after else original(*args, **kwargs)

    scene.pool_class = type("Hooked", (base,), {name: hook})


@site("_connect", "getconn")
def _(scene: Scene) -> Round:
    hooked(scene, "_connect")
    scene.open()
    return lambda: borrow(scene)


@site("_connect", "maintain", PASSED)
def _(scene: Scene) -> Round:
    hooked(scene, "_connect")
    scene.open(1)

    def round_() -> None:
        scene.give(scene.lend(), close=True)
        scene.pool.maintain()

    return round_


@site("_getkey", "getconn")
def _(scene: Scene) -> Round:
    hooked(scene, "_getkey")
    scene.open()
    return lambda: borrow(scene)


for hook, ending in {"_getconn": "getconn", "_putconn": "putconn"}.items():

    @site(hook, ending, waits=True, state=LENT if hook == "_putconn" else FREE)
    def _(scene: Scene, hook: str = hook) -> Round:
        hooked(scene, hook)
        scene.open()
        return lambda: borrow(scene)


@site("_connect", "getconn, once the original has filed it")
def _(scene: Scene) -> Round:
    hooked(scene, "_connect", after=True)
    scene.open()
    return lambda: borrow(scene)


@site("getconn", "a block")
def _(scene: Scene) -> Round:
    hooked(scene, "getconn")
    scene.open()
    return lambda: borrow_in_a_block(scene)


@site("putconn", "a block, once the original has taken it back")
def _(scene: Scene) -> Round:
    hooked(scene, "putconn", after=True)
    scene.open()
    return lambda: borrow_in_a_block(scene)


@site("putconn", "a block, before the original", stays="the override has not returned it", state=LENT)
def _(scene: Scene) -> Round:
    hooked(scene, "putconn")
    scene.open()
    return lambda: borrow_in_a_block(scene)


@site("_closeall", "closeall", waits=True)
def _(scene: Scene) -> Round:
    hooked(scene, "_closeall")

    def round_() -> None:
        scene.open(1).closeall()

    return round_


@site("closeall", "the end of a with block of the pool")
def _(scene: Scene) -> Round:
    hooked(scene, "closeall")

    def round_() -> None:
        with scene.open(1):
            pass

    return round_


@site(
    "putconn",
    "a block that is not left",
    PRINTED,
    PRINTED,
    PRINTED,
    why="nobody can leave it any more",
    stays="an override that raises before it calls the original returns nothing",
    state=LENT,
)
def _(scene: Scene) -> Round:
    hooked(scene, "putconn")
    scene.open()

    def round_() -> None:
        entered = scene.pool.connection()
        entered.__enter__()
        del entered

    return round_


@site("_connect", "wait, where minconn is 0", PASSED, why="it tries again")
def _(scene: Scene) -> Round:
    hooked(scene, "_connect")
    scene.open(0)

    def round_() -> None:
        scene.pool.drain()
        scene.pool.wait(PATIENCE)

    return round_


# --- waiting ---


class Bell:
    """A waiting lock with the probe in its methods."""

    def __init__(self, scene: Scene, lock: Any, method: str) -> None:
        self.scene, self.lock, self.method = scene, lock, method

    @last
    def acquire(self, *args: Any) -> bool:
        acquired: bool = self.lock.acquire(*args)
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
        make, round_ = threading.Lock, waiting(scene)
        scene.replace(threading, "Lock", lambda: Bell(scene, make(), method))
        return round_


@site("waiting lock: threading.Lock()", "getconn", waits=True, state=FULL)
def _(scene: Scene) -> Round:
    scene.open()
    make, round_ = threading.Lock, waiting(scene)

    def lock() -> Any:
        scene.probe()
        made = make()
        token = scene.probe.left_token()  # noqa: F841
        return made

    scene.replace(threading, "Lock", lock)
    return round_


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
        setattr(threading, "Lock", lambda: Bell(scene, make(), "release"))  # noqa: B010  it is a class for mypy
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
