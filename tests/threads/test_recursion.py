"""Runaway recursion, caught as a web framework does it, loses no slot: no way back needs more stack than getconn.

Tried at each depth near the limit, in each way of borrowing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from pgpool_rs import _housekeeper
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.waits import counts

WAYS = ("fast", "by name", "closing", "keyed", "keyed twice")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reset": {"reset": lambda _: None},
    "reclaim": {"reclaim": True},
    "leak_after": {"leak_after": 60},
}


def depth() -> int:
    """Count the frames."""
    frame, deep = sys._getframe(), 0
    while frame.f_back is not None:
        frame, deep = frame.f_back, deep + 1
    return deep


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody print what is raised where nothing can be: a poke of the housekeeping needs the stack, too."""
    monkeypatch.setattr(sys, "unraisablehook", id)


def try_all_depths(pool: Any, recurse: Callable[[], None]) -> None:
    """Recurse into the limit, from a few depths on, and find each slot free each time."""
    before = sys.getrecursionlimit()
    try:
        for extra in range(40):
            sys.setrecursionlimit(depth() + 60 + extra)
            with pytest.raises(RecursionError):
                recurse()
            sys.setrecursionlimit(before)
            assert counts(pool)["lent"] == 0, extra
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dirty", [False, True])
def test_a_recursion_that_goes_too_deep_loses_no_slot(
    our_class: Any, server: FakeServer, way: str, options: str, dirty: bool
) -> None:
    pool = our_class(1, 300, **OPTIONS[options])

    def recurse() -> None:
        connection = pool.getconn("k") if way.startswith("keyed") else pool.getconn()
        try:
            if dirty:
                connection.status = INTRANS
        finally:
            if way == "by name":
                pool.putconn(conn=connection)
            elif way == "closing":
                pool.putconn(connection, close=True)
            elif way == "keyed twice":
                pool.putconn(connection, "k")
            else:
                pool.putconn(connection)
        recurse()

    pool.putconn(pool.getconn())
    try_all_depths(pool, recurse)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dirty", [False, True])
def test_a_recursion_that_goes_too_deep_loses_no_slot_where_close_returns(
    our_class: Any, dsn: str, options: str, dirty: bool
) -> None:
    pool = our_class(1, 300, dsn, close_returns=True, **OPTIONS[options])

    def recurse() -> None:
        connection = pool.getconn()
        try:
            if dirty:
                connection.cursor().execute("SELECT 1")
        finally:
            connection.close()
        recurse()

    pool.getconn().close()
    try_all_depths(pool, recurse)
    pool.closeall()


def test_blocks_in_a_recursion_that_goes_too_deep_lose_no_slot(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 300)

    def recurse() -> None:
        with pool.connection() as connection:
            connection.status = INTRANS
        recurse()

    try_all_depths(pool, recurse)


def test_a_block_whose_loan_is_held_in_a_recursion_that_goes_too_deep_loses_no_slot(our_class: Any, dsn: str) -> None:
    held = []
    with our_class(1, 1, dsn) as pool:

        def recurse() -> None:
            held.append(pool.connection())
            with held[-1]:
                cursor.execute("SELECT 1")
            recurse()

        with pool.connection() as connection:
            cursor = connection.cursor()
        try_all_depths(pool, recurse)


def test_a_poke_that_has_no_stack_fails_no_call_and_the_next_one_tells(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pokes: list[object] = []
    monkeypatch.setattr(_housekeeper.housekeeper, "poke", lambda pool: pokes.append(pool))  # noqa: PLW0108  (a frame of Python)
    pool = our_class(0, 1, max_lifetime=60)
    refused: list[int] = []
    unheard: list[int] = []

    def recurse(number: int = 1) -> None:
        before = len(pokes)
        try:
            pool.resize(number % 2, number)
        except RecursionError:
            refused.append(number)
            raise
        if number % 2 and len(pokes) == before:
            unheard.append(number)
        recurse(number + 1)

    def dive() -> None:
        refused.clear()
        try:
            recurse()
        finally:
            assert pool.maxconn not in refused, "what failed has been done all the same"

    try_all_depths(pool, dive)
    assert unheard, "there was stack enough for each poke"
    pokes.clear()
    pool.resize(1, 1)
    assert pokes == [pool]


@pytest.mark.parametrize("error", [RecursionError("too deep"), MemoryError("none"), KeyboardInterrupt("stop")])
@pytest.mark.parametrize("method", ["__hash__", "__eq__"])
def test_a_key_that_cannot_be_asked_now_keeps_no_connection_that_is_named(
    our_class: Any, server: FakeServer, method: str, error: BaseException
) -> None:
    class Key:
        armed = ""

        def __hash__(self) -> int:
            if self.armed == "__hash__":
                raise error
            return 7

        def __eq__(self, other: object) -> bool:
            if self.armed == "__eq__":
                raise error
            return isinstance(other, Key)

    pool = our_class(1, 2)
    lent_under, key = Key(), Key()
    connection = pool.getconn(lent_under)
    # As a dict does, the ledger asks the key that it has.
    lent_under.armed = key.armed = method
    with pytest.raises(type(error)):
        pool.putconn(connection, key)
    assert counts(pool)["lent"] == 0
    assert server.open == 0
