"""`_pool`, `_used` and `_rused` are put to uses that a list and two dicts bear, in psycopg2.pool and here."""

from __future__ import annotations

from typing import Any

import pytest

from pgpool_rs import _core
from pgpool_rs.testing import FakeServer


def test_the_idle_list_is_added_to_a_list_on_either_side(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(2, 2)
    first, second = list(pool._pool)
    more = ["more"]
    assert pool._pool + more == [first, second, "more"]
    assert more + pool._pool == ["more", first, second]
    assert list(pool._pool) == [first, second]


def test_the_views_are_shown_as_a_list_and_two_dicts_are(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2)
    connection = pool.getconn("a key")
    pool._connect()
    assert repr(pool._pool) == repr(list(pool._pool))
    assert repr(pool._used) == repr({"a key": connection})
    assert repr(pool._rused) == repr({id(connection): "a key"})


def test_a_copy_of_the_loans_stays_as_it_is(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2)
    connection = pool.getconn("a key")
    used, rused = pool._used.copy(), pool._rused.copy()
    pool.putconn(connection)
    assert (used, rused) == ({"a key": connection}, {id(connection): "a key"})
    assert not pool._used
    assert not pool._rused


def test_a_loan_is_entered_in_both_views_in_either_order(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 2)
    first, second = server.connect(), server.connect()
    pool._used["first"] = first
    pool._rused[id(first)] = "first"
    pool._rused[id(second)] = "second"
    pool._used["second"] = second
    assert dict(pool._used) == {"first": first, "second": second}
    assert dict(pool._rused) == {id(first): "first", id(second): "second"}
    pool.putconn(first)
    pool.putconn(second)
    assert not pool._used


def test_an_edit_of_the_idle_list_is_made_on_what_another_has_left_of_it(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = our_class(2, 2)
    first, second = list(pool._pool)
    replace_idle = _core.replace_idle
    borrowed: list[Any] = []

    def overtaken(*arguments: Any) -> bool:
        if not borrowed:
            borrowed.append(pool.getconn())
        return replace_idle(*arguments)

    monkeypatch.setattr(_core, "replace_idle", overtaken)
    pool._pool.insert(0, "more")
    assert (borrowed, list(pool._pool)) == ([second], ["more", first])


def test_a_loan_that_another_thread_returns_while_it_is_deleted_is_in_neither_view(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn("a key")
    strike_loan = _core.strike_loan

    def strike(pool: Any, key: Any) -> Any:
        pool.putconn(connection)
        return strike_loan(pool, key)

    monkeypatch.setattr(_core, "strike_loan", strike)
    with pytest.raises(KeyError):
        del pool._rused[id(connection)]
    assert (dict(pool._used), dict(pool._rused)) == ({}, {})
    assert pool.getconn() is connection
