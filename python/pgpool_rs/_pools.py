"""The pools of this process, held weakly, by their ids: a pool need not be hashable."""

from __future__ import annotations

import weakref
from typing import Any, Final

_pools: Final[weakref.WeakValueDictionary[int, Any]] = weakref.WeakValueDictionary()
# Whoever wants the next pools to stay alive adds a dict here, into which each is put, and takes it out again.
holders: Final[list[dict[int, Any]]] = []


def add(pool: Any) -> None:
    """Add a pool that has been made."""
    _pools[id(pool)] = pool
    for holder in tuple(holders):
        holder[id(pool)] = pool


def pools() -> list[Any]:
    """List those that are alive."""
    return [pool for reference in _pools.valuerefs() if (pool := reference()) is not None]
