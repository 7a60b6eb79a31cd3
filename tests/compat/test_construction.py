"""What a constructor does, in which order, and what it raises."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import psycopg2.pool
import pytest

from pgpool_rs.testing import FakeServer


class Sized:
    """A size that tells when it is converted."""

    def __init__(self, name: str, value: int, told: list[str]) -> None:
        self.name, self.value, self.told = name, value, told

    def __int__(self) -> int:
        self.told.append(self.name)
        return self.value


@pytest.mark.parametrize("missing", [(), (1,)])
def test_a_missing_size_is_a_type_error_that_names_it(
    pool_class: Any, server: FakeServer, missing: tuple[int, ...]
) -> None:
    expected = "'minconn' and 'maxconn'" if not missing else "'maxconn'"
    with pytest.raises(TypeError, match=rf"__init__\(\) missing {2 - len(missing)} required positional.*{expected}"):
        pool_class(*missing)


def test_a_whole_configuration_may_be_given_by_name(pool_class: Any, server: FakeServer) -> None:
    settings = {"minconn": 1, "maxconn": 2, "host": "h", "port": 1, "dbname": "d", "user": "u", "password": "p"}
    pool = pool_class(**settings)
    assert (pool.minconn, pool.maxconn) == (1, 2)
    assert pool._kwargs == {"host": "h", "port": 1, "dbname": "d", "user": "u", "password": "p"}
    assert server.arguments == [((), {"host": "h", "port": 1, "dbname": "d", "user": "u", "password": "p"})]


@pytest.mark.parametrize(("given", "taken"), [("2", 2), (" 2 ", 2), (2.9, 2), (True, 1), (b"2", 2)])
def test_sizes_are_converted_by_int(pool_class: Any, server: FakeServer, given: object, taken: int) -> None:
    pool = pool_class(given, given)
    assert (pool.minconn, pool.maxconn) == (taken, taken)
    assert type(pool.minconn) is int
    assert type(pool.maxconn) is int
    assert len(pool._pool) == taken


@pytest.mark.parametrize("bad", [None, "x", float("inf"), float("nan"), [], object()])
@pytest.mark.parametrize("where", ["minconn", "maxconn"])
def test_what_int_refuses_is_refused(pool_class: Any, server: FakeServer, bad: object, where: str) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)) as expected:
        int(bad)  # type: ignore[call-overload]
    with pytest.raises((TypeError, ValueError, OverflowError)) as raised:
        pool_class(**{"minconn": 0, "maxconn": 1, where: bad})
    assert type(raised.value) in (type(expected.value), ValueError)
    assert server.log == []


def test_minconn_is_converted_first_and_both_before_anything_is_opened(pool_class: Any, server: FakeServer) -> None:
    told: list[str] = []
    server.on("connect", lambda _: told.append("connect"))
    pool_class(Sized("minconn", 1, told), Sized("maxconn", 1, told))
    assert told == ["minconn", "maxconn", "connect"]


def test_minconn_connections_are_opened_one_after_the_other_in_the_callers_thread(
    pool_class: Any, server: FakeServer
) -> None:
    threads: list[int] = []
    server.on("connect", lambda _: threads.append(threading.get_ident()))
    pool = pool_class(3, 5, "somewhere", option=1)
    assert threads == [threading.get_ident()] * 3
    assert [connection.serial for connection in pool._pool] == [1, 2, 3]
    assert server.arguments == [(("somewhere",), {"option": 1})] * 3


def test_maxconn_zero_opens_nothing_and_always_refuses(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 0)
    with pytest.raises(psycopg2.pool.PoolError, match=r"(?m)^connection pool exhausted$"):
        pool.getconn()
    assert server.log == []


def test_the_arguments_are_read_again_for_each_connection(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 3, "first")
    pool.getconn()
    pool._args = ("second",)
    pool._kwargs["password"] = "renewed"
    pool.getconn()
    pool._kwargs = {"host": "h"}
    pool.getconn()
    assert server.arguments == [
        (("first",), {}),
        (("second",), {"password": "renewed"}),
        (("second",), {"host": "h"}),
    ]


def test_a_pool_can_be_initialised_again(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    pool.getconn()
    pool.__init__(2, 3)
    assert (pool.minconn, pool.maxconn, pool._keys) == (2, 3, 0)
    assert [connection.serial for connection in pool._pool] == [2, 3]
    assert len(pool._used) == 0
