"""The pools of a process, which the harness asks for."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from pgpool_rs import SimpleConnectionPool, ThreadedConnectionPool
from pgpool_rs._pools import holders, pools
from pgpool_rs.testing import FakeServer
from tests.lib.programs import run_forking_program


class LikeAll(ThreadedConnectionPool):
    """Cannot be hashed, and says that it is equal to everything."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def listed(pool: Any) -> int:
    return sum(other is pool for other in pools())


@pytest.mark.parametrize("pool_class", [SimpleConnectionPool, ThreadedConnectionPool, LikeAll])
def test_a_pool_is_listed_once_from_its_making_to_its_end(pool_class: Any, server: FakeServer) -> None:
    others = pool_class(0, 1), pool_class(0, 1)
    pool = pool_class(0, 1)
    pool.closeall()
    pool.__init__(0, 1)
    assert [listed(one) for one in (*others, pool)] == [1, 1, 1]
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert [listed(one) for one in others] == [1, 1]


def test_a_pool_that_could_not_be_made_is_not_listed(server: FakeServer) -> None:
    server.fail("connect", LookupError())
    with pytest.raises(LookupError) as raised:
        ThreadedConnectionPool(1, 1, name="unmade")
    assert raised.value.__traceback__ is not None  # which keeps the pool alive
    assert "unmade" not in [pool.name for pool in pools()]


def test_a_keeper_keeps_the_pools_alive_that_are_made_from_then_on(server: FakeServer) -> None:
    holder: dict[int, Any] = {}
    holders.append(holder)
    try:
        kept = weakref.ref(LikeAll(0, 1))
        assert kept() is not None
    finally:
        holders.pop()
    holder.clear()
    assert kept() is None


def test_the_child_of_a_fork_lists_the_pools_of_its_parent_and_its_own() -> None:
    run_forking_program("""
from pgpool_rs import ThreadedConnectionPool
from pgpool_rs._pools import pools
from pgpool_rs.testing import FakeServer
from tests.lib.programs import in_a_child

inherited = ThreadedConnectionPool(1, 1, connect=FakeServer().connect)

def in_child():
    own = ThreadedConnectionPool(1, 1, connect=FakeServer().connect)
    assert {id(pool) for pool in pools()} == {id(inherited), id(own)}

in_a_child(in_child)
assert len(pools()) == 1
""")
