"""`_pool`, `_used` and `_rused` are put to uses that a list and two dicts bear, in psycopg2.pool and here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
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


def sought(idle: Any, missing: object) -> None:
    with suppress(ValueError):
        idle.index(missing)


READS: dict[str, Callable[[Any, Any], object]] = {
    "in the idle list": lambda pool, missing: missing in pool._pool,
    "over the idle list": lambda pool, missing: [*iter(pool._pool)],
    "back over the idle list": lambda pool, missing: [*reversed(pool._pool)],
    "how often in the idle list": lambda pool, missing: pool._pool.count(missing),
    "where in the idle list": lambda pool, missing: sought(pool._pool, missing),
    "in the values": lambda pool, missing: missing in pool._used.values(),
    "in the keys": lambda pool, missing: missing in pool._used.keys(),  # noqa: SIM118
    "in the items": lambda pool, missing: ("a key", missing) in pool._used.items(),
    "in the values of the other": lambda pool, missing: missing in pool._rused.values(),
}
EDITS: dict[str, Callable[[Any, Any], object]] = {
    "append to the idle list": lambda pool, more: pool._pool.append(more),
    "extend the idle list": lambda pool, more: pool._pool.extend([object() for _ in pool._pool]),
    "clear the keys": lambda pool, more: pool._used.clear(),
    "clear the connections": lambda pool, more: pool._rused.clear(),
}


def asked(pool: Any, monkeypatch: pytest.MonkeyPatch, use: Callable[[Any, Any], object]) -> int:
    """Count how often one use of a view copies a list of the ledger."""
    calls = 0

    def counted(ask: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            return ask(*arguments)

        return count

    with monkeypatch.context() as patch:
        for name in ("idle", "lent"):
            patch.setattr(_core, name, counted(getattr(_core, name)))
        use(pool, object())
    return calls


@pytest.mark.parametrize("use", READS | EDITS)
def test_a_use_of_a_view_copies_as_often_for_many_connections_as_for_few(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    few, many = our_class(2, 8), our_class(20, 80)
    for pool, loans in ((few, 2), (many, 20)):
        for _ in range(loans):
            pool._connect(object())
    call = (READS | EDITS)[use]
    assert asked(many, monkeypatch, call) == asked(few, monkeypatch, call)


@pytest.mark.parametrize("use", READS)
def test_a_view_may_be_read_while_other_threads_borrow_and_return(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    pool = our_class(4, 4)
    lent = [pool.getconn(key) for key in ("a key", "another")]

    def overtaken(ask: Callable[[Any], Any], pool: Any) -> Any:
        answer = ask(pool)
        if lent:
            pool.putconn(lent.pop())
            pool.putconn(lent.pop())
            for _ in range(4):
                pool.getconn(object())
        return answer

    for name in ("idle", "lent", "count_lent"):
        monkeypatch.setattr(_core, name, partial(overtaken, getattr(_core, name)))
    READS[use](pool, object())
    monkeypatch.undo()
    assert use in {"in the keys", "in the items"} or not lent


@pytest.mark.parametrize("view", ["_used", "_rused"])
@pytest.mark.parametrize("call", ["pop", "popitem", "clear"])
def test_a_loan_that_is_returned_while_a_program_takes_it_out_is_not_there(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch, view: str, call: str
) -> None:
    pool = our_class(0, 2)
    first, last = pool.getconn("first"), pool.getconn("last")
    strike_loan = _core.strike_loan

    def strike(pool: Any, key: Any) -> Any:
        if key == "last" and "last" in pool._used:
            pool.putconn(last)
        return strike_loan(pool, key)

    monkeypatch.setattr(_core, "strike_loan", strike)
    loans = getattr(pool, view)
    key, value = ("first", first) if view == "_used" else (id(first), "first")
    if call == "pop":
        assert loans.pop("last" if view == "_used" else id(last), None) is None
        assert loans.pop(key) == value
        with pytest.raises(KeyError):
            loans.pop(key)
    elif call == "popitem":
        assert loans.popitem() == (key, value)
        with pytest.raises(KeyError):
            loans.popitem()
    else:
        loans.clear()
    assert not loans


def test_an_automatic_key_may_be_given_as_its_number(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 2)
    first, second = pool.getconn(), pool.getconn()
    keys = [int(key) for key in pool._used]
    assert pool._used.pop(keys[0]) is first
    assert pool._rused.pop(id(first)) == keys[0]
    del pool._used[keys[1]]
    del pool._rused[id(second)]
    assert (dict(pool._used), dict(pool._rused)) == ({}, {})
