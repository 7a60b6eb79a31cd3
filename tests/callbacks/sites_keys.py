"""Rows of the table of callbacks: keys and arguments, and what is written into the views."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pgpool_rs._core import advance_clock
from pgpool_rs._housekeeper import housekeeper
from tests.callbacks.probe import last
from tests.callbacks.scene import ROOM, Round, Scene
from tests.callbacks.sites import FULL, PASSED, PRINTED, Act, borrow, opens, round_of, row, site
from tests.lib.housekeepers import let_rest

# --- keys ---


class Key:
    """A key with the probe in some of its methods."""

    def __init__(self, scene: Scene, *methods: str) -> None:
        self.scene, self.methods = scene, methods

    def _called(self, method: str) -> None:
        if method in self.methods:
            self.scene.probe()

    @last
    def __hash__(self) -> int:
        self._called("__hash__")
        return 7

    @last
    def __eq__(self, other: object) -> bool:
        self._called("__eq__")
        return isinstance(other, Key)

    @last
    def __repr__(self) -> str:
        self._called("__repr__")
        return "Key()"

    @last
    def __del__(self) -> None:
        self._called("__del__")


def by_key(scene: Scene, method: str, how: str) -> Round:
    scene.open()

    def round_() -> None:
        # It is the lent key that is asked whether it equals the other one.
        filed = Key(scene, "__eq__") if method == "__eq__" else Key(scene)
        connection = scene.lend(filed)
        pool, key = scene.pool, Key(scene, method)
        try:
            if how == "getconn":
                assert pool.getconn(key) is connection
            elif how == "getconn of a new one":
                scene.give(scene.lend(("another", key)))
            elif how == "putconn":
                scene.give(connection, key)
            elif how == "putconn without a connection":
                pool.putconn(None, key)
            elif how == "reading _used":
                assert pool._used[key] is connection
            elif how == "writing _used":
                pool._used[key] = connection
            else:
                try:
                    del pool._used[key]
                finally:
                    # What no view shows is in no account.
                    if connection not in pool._used.values():
                        pool._used["again"] = connection
        finally:
            if id(connection) in pool._rused:
                scene.give(connection)
            else:
                scene.mine = []

    return round_


for method in ("__hash__", "__eq__"):
    for how in (
        "getconn",
        "getconn of a new one",
        "putconn",
        "putconn without a connection",
        "reading _used",
        "writing _used",
        "deleting from _used",
    ):
        if (method, how) != ("__eq__", "getconn of a new one"):

            @site(f"key.{method}", how)
            def _(scene: Scene, method: str = method, how: str = how) -> Round:
                return by_key(scene, method, how)


def report_a_leak(scene: Scene) -> None:
    connection = scene.lend(Key(scene, "__repr__"))
    # The thread that the pool has poked would report it first.
    let_rest(housekeeper)
    advance_clock(100)
    try:
        scene.pool.maintain()
    finally:
        scene.give(connection)


row(
    "key.__repr__",
    "the line about a leak",
    opens(leak_after=50),
    report_a_leak,
    PASSED,
    PASSED,
)
row(
    "key.__del__",
    "putconn",
    opens(),
    lambda scene: borrow(scene, Key(scene, "__del__")),
    PRINTED,
    PRINTED,
    PRINTED,
)


# --- arguments ---


class Argument:
    """An argument with the probe in each of its methods."""

    def __init__(self, scene: Scene, value: float) -> None:
        self.scene, self.value = scene, value

    @last
    def __int__(self) -> int:
        self.scene.probe()
        return int(self.value)

    @last
    def __index__(self) -> int:
        self.scene.probe()
        return int(self.value)

    @last
    def __float__(self) -> float:
        self.scene.probe()
        return float(self.value)

    @last
    def __bool__(self) -> bool:
        self.scene.probe()
        return bool(self.value)

    @last
    def __repr__(self) -> str:
        self.scene.probe()
        return "Argument()"


@round_of("close.__bool__", "putconn", opens(1))
def _(scene: Scene) -> None:
    connection = scene.lend()
    try:
        scene.give(connection, None, Argument(scene, 0))
    finally:
        if connection in scene.mine:
            scene.give(connection)


def borrow_in_a_block(scene: Scene) -> None:
    with scene.pool.connection(timeout=Argument(scene, 0)):
        pass


row("timeout.__float__", "getconn", opens(), lambda scene: borrow(scene, timeout=Argument(scene, 0)), waits=True)
row("timeout.__float__", "a block", opens(), borrow_in_a_block, waits=True)


class Negative(Argument):
    """A wrong timeout, that runs Python when it is shown."""

    def __float__(self) -> float:
        return -1.0


@round_of(
    "timeout.__repr__",
    "getconn with a bad one",
    opens(),
    PASSED,
    PASSED,
    waits=True,
    why="it is refused, and named by its type",
)
def _(scene: Scene) -> None:
    try:
        borrow(scene, timeout=Negative(scene, -1))
    except ValueError as error:
        if "timeout must be" not in str(error):
            raise
        return
    raise AssertionError("it was taken for a timeout")


for size in ("minconn", "maxconn"):

    @site(f"{size}.__int__", "constructor", state=FULL)
    def _(scene: Scene, size: str = size) -> Round:
        def round_() -> None:
            sizes = {"minconn": 0, "maxconn": ROOM}
            scene.open(**{**sizes, size: Argument(scene, sizes[size])})

        return round_


def assigning(name: str, value: int) -> Act:
    """Give a round that assigns to an attribute of the pool."""
    return lambda scene: setattr(scene.pool, name, Argument(scene, value))


row("maxconn.__int__", "resize", opens(), lambda scene: scene.pool.resize(0, Argument(scene, ROOM)))
row("minconn.__int__", "assigned", opens(), assigning("minconn", ROOM))
row("maxconn.__int__", "assigned", opens(), assigning("maxconn", ROOM))
row("closed.__bool__", "assigned", opens(), assigning("closed", 0))
row("_keys.__index__", "assigned", opens(), assigning("_keys", 5))


@round_of("ident.__index__", "reading _rused", opens())
def _(scene: Scene) -> None:
    with suppress(KeyError):
        scene.pool._rused[Argument(scene, 1)]


# --- the views ---


@site("sort key", "_pool.sort")
def _(scene: Scene) -> Round:
    scene.open(2)

    @last
    def key(connection: Any) -> int:
        scene.probe(connection)
        return int(connection.serial)

    return lambda: scene.pool._pool.sort(key=key)
