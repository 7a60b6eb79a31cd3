"""A pretended limit: it has so many places, and refuses, grants later, or raises, as a test wants."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pgpool_rs.testing import FakeServer


class PretendedLimit:
    """Gives places to pools, and notes what they ask. It has no thread: a test calls `serve`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: Counter[str] = Counter()
        self.pools: list[Any] = []
        self.waits = 0
        self.asked = 0
        # What the next call of a method raises, by the method's name.
        self.raising: dict[str, BaseException] = {}

    @property
    def taken(self) -> int:
        """How many places are held."""
        return self.held.total()

    def serve(self, pool: Any) -> int:
        """Give a pool's waiters the places that they want and that are free, and return how many."""
        count: int = min(pool._pgpool_wanted(), self.limit - self.taken)
        self.held[pool.name] += count
        unused: int = pool._pgpool_grant(count)
        self.held[pool.name] -= unused
        return count - unused

    def _may_raise(self, method: str) -> None:
        if error := self.raising.pop(method, None):
            raise error

    def _attach(self, pool: Any) -> None:
        self._may_raise("_attach")
        self.pools.append(pool.name)

    def _take(self, pool: Any) -> bool:
        self._may_raise("_take")
        self.asked += 1
        free = self.taken < self.limit
        self.held[pool.name] += free
        return free

    def _give(self, pool: Any, count: int) -> None:
        self._may_raise("_give")
        self.held[pool.name] -= count
        assert self.held[pool.name] >= 0, "a pool gives back more than it has taken"

    def _wait(self, pool: Any) -> None:
        self._may_raise("_wait")
        assert pool.name in self.pools
        self.waits += 1

    def _holders(self) -> str:
        self._may_raise("_holders")
        return ", ".join(f"{name} {count}" for name, count in self.held.items() if count)


def assert_exact(limit: PretendedLimit, server: FakeServer) -> None:
    """Assert that as many places are held as connections are open."""
    assert limit.taken == server.open, f"{limit.held} for {server.open} connections"
