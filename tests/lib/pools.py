"""Pools on a fake server: filled, borrowed from, and what must hold of one whenever it is quiet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import FakeServer
from tests.lib.waits import counts, wait_until

DOWN = psycopg2.OperationalError("down")


def filled(pool_class: Any, number: int, maxconn: int | None = None, **options: Any) -> Any:
    """Make a pool with so many idle connections and a minconn of 0: it keeps them, and opens none by itself."""
    pool = pool_class(0, number if maxconn is None else maxconn, **{"max_idle": None, **options})
    for connection in [pool.getconn() for _ in range(number)]:
        pool.putconn(connection)
    wait_for_quiet(pool)
    return pool


def closes(pool: Any) -> dict[str, int]:
    """Tell how many connections were closed, by reason; a reason with none is left out."""
    stats = pool.get_stats()
    return {name.removeprefix("closed_"): n for name, n in stats.items() if name.startswith("closed_") and n}


def wait_for_quiet(pool: Any) -> None:
    """Wait until nothing is being opened or returned, and nobody waits."""
    busy = ("opening", "returning", "waiting")
    wait_until(lambda: not any(counts(pool)[name] for name in busy), "quiet")


def assert_balanced(pool: Any, server: FakeServer) -> None:
    """Assert that each connection that was opened is open, or counted as closed; and that the server agrees."""
    stats, seen = _at_one_moment(pool, server)
    assert balances(stats, seen), f"the server sees {seen}: {stats}"


def balances(stats: dict[str, int], seen: int) -> bool:
    """Tell whether each connection that was opened is open or closed, and the server sees the open ones."""
    closed = sum(number for event, number in stats.items() if event.startswith("closed_"))
    made = stats["connections_num"] - stats["connections_errors"]
    return made == stats["pool_size"] + closed and stats["pool_size"] == seen


def _at_one_moment(pool: Any, server: FakeServer) -> tuple[dict[str, int], int]:
    """Read the statistics, and how many connections the server sees, with no refill in between."""
    while True:
        stats, seen = pool.get_stats(), server.open
        if pool.get_stats() == stats:
            return stats, seen


def assert_sound(pool: Any, server: FakeServer, **options: Any) -> None:
    """Assert, of an open pool that has nothing lent, that no slot is lost and that no connection was ever too many.

    A pool that has a timeout of its own needs timeout=0 here.
    """
    wait_for_quiet(pool)
    assert_balanced(pool, server)
    assert_whole(pool, **options)
    wait_for_quiet(pool)
    assert_balanced(pool, server)
    assert server.peak <= pool.maxconn, f"{server.peak} connections were open at once"


def assert_whole(pool: Any, *, priority: bool = False, **options: Any) -> None:
    """Assert that nothing is lent and that the pool can still lend exactly maxconn connections (with `priority`).

    A pool that has a timeout of its own needs timeout=0 here, to refuse at once.
    """
    # The housekeeping may be closing a connection at any moment.
    wait_for_quiet(pool)
    assert counts(pool)["lent"] == 0
    urgent = {"priority": True} if priority else {}
    lent = [pool.getconn(**urgent) for _ in range(pool.maxconn)]
    assert len({id(connection) for connection in lent}) == pool.maxconn
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn(**urgent, **options)
    for connection in lent:
        pool.putconn(connection)


def borrow(pool: Any) -> None:
    """Borrow a connection and return it."""
    pool.putconn(pool.getconn())


def borrow_by_key(pool: Any) -> None:
    """Borrow a connection by a key and return it."""
    pool.putconn(pool.getconn("key"), "key")


def borrow_in_a_block(pool: Any) -> None:
    """Borrow a connection for a block."""
    with pool.connection():
        pass


BORROWS: dict[str, Callable[[Any], object]] = {"getconn": borrow, "key": borrow_by_key, "block": borrow_in_a_block}


def emptied(pool: Any) -> Any:
    """Close the minconn connections of a pool, and give the pool."""
    give_back(pool, lend(pool, pool.minconn), close=True)
    return pool


def lend(pool: Any, number: int) -> list[Any]:
    """Borrow so many."""
    return [pool.getconn() for _ in range(number)]


def give_back(pool: Any, connections: list[Any], *, close: bool = False) -> None:
    """Return them in this order."""
    for connection in connections:
        pool.putconn(connection, close=close)


def idle(pool: Any) -> list[int]:
    """List the numbers of the idle connections, the next to be lent last."""
    return [connection.serial for connection in pool._pool]
