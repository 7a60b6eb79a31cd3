"""Every operation of a pool, to be called from within every callback that the pool makes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from enum import Enum
from typing import Any

from pgpool_rs.testing import FakeServer
from tests.callbacks.scene import ROOM, Scene
from tests.callbacks.sites import Site, State

Call = Callable[[Scene, Any], object]


def _return_another(scene: Scene, _: Any) -> None:
    connection = scene.pool.getconn("another")
    scene.pool.putconn(connection, "another")


def _close_another(scene: Scene, _: Any) -> None:
    scene.pool.putconn(scene.pool.getconn(), close=True)


def _block(scene: Scene, _: Any) -> None:
    with scene.pool.connection() as connection:
        connection.status = 2


def _resize(scene: Scene, _: Any) -> None:
    scene.pool.resize(0, 1)
    scene.pool.resize(0, ROOM)


def _assign(name: str, *values: Any) -> Call:
    def assign(scene: Scene, _: Any) -> None:
        for value in values:
            setattr(scene.pool, name, value)

    return assign


def _read_views(scene: Scene, _: Any) -> None:
    pool = scene.pool
    assert len(pool._pool) >= 0
    assert list(pool._used.values()) == [pool._used[key] for key in list(pool._used)]
    assert {id(connection) for connection in pool._used.values()} == set(pool._rused)


def _write_views(scene: Scene, _: Any) -> None:
    pool = scene.pool
    connection = pool.getconn()
    key = pool._rused[id(connection)]
    del pool._used[key]
    pool._used["entered"] = connection
    pool._pool.reverse()
    pool.putconn(connection, "entered")


def _drop_and_collect(scene: Scene, connection: Any) -> None:
    pool = scene.pool
    cycle: list[Any] = [pool.getconn()]
    cycle.append(cycle)
    pool.putconn(cycle[0], close=True)
    del cycle, connection
    gc.collect(0)


def _make_another_pool(scene: Scene, _: Any) -> None:
    with scene.pool_class(1, 2, name="other", connect=FakeServer().connect) as other:
        other.putconn(other.getconn())


class Kind(Enum):
    """What a call asks for."""

    BORROWS = "a connection, now"
    WAITS = "a connection, within a moment"
    RETURNS = "to have the callback's own connection taken back"
    CLOSES = "the end of the pool"
    ENDS = "the same, once what is lent is back"
    NEEDS_OPEN = "something that a closed pool refuses"
    FILLS = "minconn connections, within a moment"
    ANY = "what every pool does"


BORROWS, WAITS, RETURNS, CLOSES, ENDS, NEEDS_OPEN, FILLS, ANY = Kind

# Those that borrow and do not return it here borrow what the pool has room for, until the scene is over.
CALLS: dict[str, tuple[Kind, Call]] = {
    "getconn()": (BORROWS, lambda scene, _: scene.lend()),
    "getconn(key)": (BORROWS, lambda scene, _: scene.lend("key")),
    "getconn(timeout=0.01)": (WAITS, lambda scene, _: scene.lend(timeout=0.01)),
    "putconn of this connection": (RETURNS, lambda scene, connection: scene.pool.putconn(connection)),
    "putconn of this connection, close=True": (
        RETURNS,
        lambda scene, connection: scene.pool.putconn(connection, close=True),
    ),
    "putconn of another": (BORROWS, _return_another),
    "putconn of another, close=True": (BORROWS, _close_another),
    "close": (ENDS, lambda scene, _: scene.pool.close()),
    "open": (NEEDS_OPEN, lambda scene, _: scene.pool.open()),
    "closeall": (CLOSES, lambda scene, _: scene.pool.closeall()),
    "a block": (BORROWS, _block),
    "resize": (ANY, _resize),
    "drain": (ANY, lambda scene, _: scene.pool.drain()),
    "check": (NEEDS_OPEN, lambda scene, _: scene.pool.check()),
    "maintain": (ANY, lambda scene, _: scene.pool.maintain()),
    "wait": (FILLS, lambda scene, _: scene.pool.wait(0.01)),
    "loans": (ANY, lambda scene, _: scene.pool.loans()),
    "get_stats": (ANY, lambda scene, _: scene.pool.get_stats()),
    "pop_stats": (ANY, lambda scene, _: scene.popped.append((scene.pool, scene.pool.pop_stats()))),
    "repr": (ANY, lambda scene, _: repr(scene.pool)),
    "reading the views": (ANY, _read_views),
    "writing the views": (BORROWS, _write_views),
    "minconn assigned": (ANY, _assign("minconn", 2, 0)),
    "maxconn assigned": (ANY, _assign("maxconn", 0, ROOM)),
    "closed assigned": (ANY, _assign("closed", True, False)),
    "another pool": (ANY, _make_another_pool),
    "the garbage collector": (BORROWS, _drop_and_collect),
}

# --- what is to come of a call ---------------------------------------------------------------------------------------

RETURNED = "returned"

# Of the call itself, by what the pool is like; where it stands in neither of the two tables, it returns.
INNER: dict[tuple[State, Kind], str] = {
    (State.FULL, BORROWS): "PoolExhausted",
    (State.FULL, WAITS): "PoolTimeout",
    (State.DOWN, BORROWS): "Odd",
    (State.DOWN, WAITS): "Odd",
    **{(State.CLOSED, kind): "PoolClosed" for kind in Kind if kind not in {ANY, ENDS}},
    **{(State.GENTLY, kind): "PoolClosed" for kind in Kind if kind not in {ANY, ENDS, CLOSES}},
    # It is in nobody's hands: on its way into the pool, or out of it.
    **{(state, RETURNS): "PoolError" for state in (State.FREE, State.FULL, State.DOWN)},
}
# Of the call in one row of the table.
PARTICULAR: dict[tuple[str, str], str] = {
    # This thread is opening it just now, and would wait for itself.
    ("connect / getconn of a key", "getconn(key)"): "PoolError",
    ("connect / _connect called by a program", "getconn(key)"): "PoolError",
    # These scenes let every such look fail, or be interrupted. What a database says is raised by a commit only.
    ("close / after a look that failed", "a block"): "Odd",
    ("close / after a look that was interrupted", "putconn of another"): "KeyboardInterrupt",
    ("close / after a look that was interrupted", "writing the views"): "KeyboardInterrupt",
    ("close / after a look that was interrupted", "a block"): "KeyboardInterrupt",
    # Its next attempt opens it.
    ("close / open() that fails", "open"): RETURNED,
    # A handler of the pool's own lines waits for nothing, nor does a listener.
    ("log handler / a wait that was too long", "getconn(timeout=0.01)"): "PoolExhausted",
    ("listener / timed_out", "getconn(timeout=0.01)"): "PoolExhausted",
}


def inner(site: Site, name: str) -> set[str]:
    """Tell what may come of a call from within a callback: that it returned, or the name of what it raised."""
    kind, _ = CALLS[name]
    if (site.name, name) in PARTICULAR:
        return {PARTICULAR[site.name, name]}
    expected = INNER.get((site.state, kind), RETURNED)
    # Whether minconn connections are open just then is the scene's business.
    return {expected, "PoolTimeout"} if kind is FILLS and expected != "PoolClosed" else {expected}


def outer(site: Site, name: str) -> set[str]:
    """Tell what may come of the call of the pool that made the callback, and of those after it."""
    kind, _ = CALLS[name]
    if kind is CLOSES:
        # What is lent when the pool is closed is closed under its borrower, whose commit psycopg2 refuses.
        return {RETURNED, "PoolClosed", *(["InterfaceError"] if site.state is State.LENT else [])}
    if kind is ENDS:
        return {RETURNED, "PoolClosed"}
    if kind is RETURNS and site.state is State.LENT:
        # It has come back already; the same as to the commit if it was closed on its return.
        return {RETURNED, "PoolError", "InterfaceError"}
    return {RETURNED}
