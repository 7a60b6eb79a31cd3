"""The pools of this process, held weakly, by their ids: a pool need not be hashable."""

from __future__ import annotations

import weakref
from typing import Any, Final

from pgpool_rs._core import AbstractConnectionPool as _Pool

_pools: Final[weakref.WeakValueDictionary[int, Any]] = weakref.WeakValueDictionary()
# Dicts that keep pools alive: each new pool is put into all of them. The code that adds a dict removes it again.
holders: Final[list[dict[int, Any]]] = []


def add(pool: Any) -> None:
    """Add a new pool."""
    # The id may be that of a dead pool, whose place is another.
    _pools.pop(id(pool), None)
    _pools[id(pool)] = pool
    for holder in tuple(holders):
        holder[id(pool)] = pool


def pools() -> list[Any]:
    """List the pools of this process that are alive, in the order in which they were made.

    Closed pools are among them as long as the program holds them.
    """
    return [pool for reference in _pools.valuerefs() if (pool := reference()) is not None]


def figures(pool: Any) -> dict[str, int]:
    """Return a pool's statistics for a sum over pools: while it is not open, `pool_min` and `pool_max` are 0."""
    is_closed = _Pool.closed.__get__(pool)  # type: ignore[attr-defined]  # A subclass may use our names for anything.
    return _Pool.get_stats(pool) | ({"pool_min": 0, "pool_max": 0} if is_closed else {})
