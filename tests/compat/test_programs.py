"""What other people's programs rely on: sizes set later, texts, psycopg2.connect patched, ends of every kind."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import typing
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

import pgpool_rs
from pgpool_rs.testing import FakeServer


def test_sizes_may_be_assigned_as_plain_numbers_and_read_back(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2)
    pool.minconn, pool.maxconn = 3, 4
    assert (pool.minconn, pool.maxconn) == (3, 4)
    pool.maxconn += 1
    assert pool.maxconn == 5


def test_psycopg2_connect_is_looked_up_when_it_is_called(
    pool_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_class(0, 2)
    monkeypatch.setattr(psycopg2, "connect", lambda *args, **kwargs: "patched")
    assert pool.getconn() == "patched"


def test_option_names_never_meet_a_keyword_of_libpq_or_of_connect() -> None:
    """A name that libpq learns to take would otherwise be swallowed by the pool without a word."""
    methods = (
        pgpool_rs.SimpleConnectionPool.__init__,
        pgpool_rs.ThreadedConnectionPool.__init__,
    )
    names = {
        parameter.name
        for method in methods
        for parameter in inspect.signature(method).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert "timeout" in names
    taken = set(inspect.signature(psycopg2.connect).parameters) | {"async", "async_"}
    assert not names & taken
    for name in names:
        with pytest.raises(psycopg2.ProgrammingError, match=f'invalid connection option "{name}"'):
            psycopg2.extensions.parse_dsn(f"{name}=1")


def test_a_programs_own_pool_error_passes_through(pool_class: Any, server: FakeServer) -> None:
    class OwnError(PoolError):
        pass

    class Strict(pool_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            raise OwnError("no more")

    with pytest.raises(OwnError, match=r"^no more$"):
        Strict(0, 1).getconn()


def test_closeall_from_a_del_and_twice_with_the_error_ignored(pool_class: Any, server: FakeServer) -> None:
    class Tidy(pool_class):  # type: ignore[misc]
        def __del__(self) -> None:
            with suppress(PoolError):
                self.closeall()

    pool = Tidy(2, 2)
    pool.closeall()
    del pool
    assert server.calls("close") == [1, 2]
    other = Tidy(1, 1)
    del other
    assert server.open == 0


def test_a_context_manager_over_getconn_and_putconn(pool_class: Any, server: FakeServer) -> None:
    class Managed(pool_class):  # type: ignore[misc]
        @contextmanager
        def borrowed(self) -> Iterator[Any]:
            connection = self.getconn()
            try:
                yield connection
            finally:
                self.putconn(connection)

    pool = Managed(1, 1)
    with pool.borrowed() as first, pytest.raises(PoolError, match="exhausted"), pool.borrowed():
        pass
    assert list(pool._pool) == [first]


def test_pools_can_be_held_weakly(pool_class: Any, server: FakeServer) -> None:
    pools: weakref.WeakSet[Any] = weakref.WeakSet()
    pool = pool_class(1, 1)
    pools.add(pool)
    ended: list[bool] = []
    weakref.finalize(pool, ended.append, True)
    assert list(pools) == [pool]
    del pool
    assert (len(pools), ended) == (0, [True])


def test_our_pools_cannot_be_pickled_or_copied(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(pool)


def test_the_classes_stand_in_annotations(pool_class: Any) -> None:
    assert pool_class | None == typing.Optional[pool_class]  # noqa: UP045  that is the question

    def connect(pool: pool_class | None = None) -> Any:
        return pool

    assert inspect.signature(connect).parameters["pool"].default is None


def test_getconn_may_be_run_in_another_thread_by_asyncio(server: FakeServer) -> None:
    pool = pgpool_rs.ThreadedConnectionPool(1, 2, timeout=30)

    async def use() -> None:
        connection = await asyncio.to_thread(pool.getconn)
        await asyncio.to_thread(pool.putconn, connection)

    async def crowd() -> None:
        # Fewer than asyncio has threads: the returns run in the same ones as the waits.
        await asyncio.gather(*[use() for _ in range(4)])

    asyncio.run(crowd())
    assert server.peak <= 2
    assert len(pool._pool) == 1


def test_the_public_names_are_those_of_both_modules() -> None:
    names = (
        "AbstractConnectionPool",
        "SimpleConnectionPool",
        "ThreadedConnectionPool",
        "PoolError",
        "PoolClosed",
        "PoolExhausted",
        "PoolTimeout",
    )
    for name in names:
        assert getattr(pgpool_rs, name) is getattr(pgpool_rs.pool, name)
    assert issubclass(pgpool_rs.PoolTimeout, pgpool_rs.PoolExhausted)
