"""What a pool says of a mistake: the parameter, the pool, what was given and what to do, and no secret."""

from __future__ import annotations

import copy
import pickle
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.pool
import pytest

from pgpool_rs import (
    PoolClosed,
    PoolError,
    PoolExhausted,
    PoolTimeout,
    SimpleConnectionPool,
    ThreadedConnectionPool,
    TooManyRequests,
    _keywords,
)
from pgpool_rs.pool import _OPTIONS
from pgpool_rs.testing import FakeServer, Gate
from tests.lib.waits import Task, held, wait_for_waiters, waiting_task

SECRET = "hunter2"
URL = f"postgresql://app:{SECRET}@db/shop"
takes_notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes from Python 3.11 on")


def note(raised: pytest.ExceptionInfo[Any]) -> str:
    """Give the one note of an exception."""
    (text,) = raised.value.__notes__
    return str(text)


# --- sizes -----------------------------------------------------------------------------------------------------------


class Sized:
    def __init__(self, size: int) -> None:
        self.size = size

    def __int__(self) -> int:
        return self.size


@pytest.mark.parametrize("size", ["2", " 2 ", b"2", 2.9, Sized(2)])
def test_what_int_takes_is_a_size_everywhere(our_class: Any, server: FakeServer, size: Any) -> None:
    pool = our_class(size, size)
    assert (pool.minconn, pool.maxconn) == (2, 2)
    pool.minconn = pool.maxconn = 1
    pool.minconn, pool.maxconn = size, size
    pool.resize(size, size)
    assert (pool.minconn, pool.maxconn) == (2, 2)


@pytest.mark.parametrize(
    "wrong", [URL, URL.encode(), [URL], {"password": SECRET}, None, float("inf"), float("nan"), 1j]
)
@pytest.mark.parametrize("name", ["minconn", "maxconn"])
def test_what_is_no_size_is_refused_by_its_name_and_not_repeated(
    our_class: Any, server: FakeServer, name: str, wrong: Any
) -> None:
    pool = our_class(0, 1)
    sizes = {"minconn": 0, "maxconn": 1, name: wrong}
    for call in (lambda: our_class(**sizes), lambda: setattr(pool, name, wrong), lambda: pool.resize(**sizes)):
        with pytest.raises((TypeError, ValueError), match=rf"^{name} must be a whole number, not ") as raised:
            call()
        shown = f"{raised.value!r} {raised.value.__context__!r} {raised.value.__cause__!r}"
        assert SECRET not in shown
        assert "inf" not in shown
    assert server.log == []


def test_the_connection_string_in_the_place_of_the_sizes(our_class: Any) -> None:
    with pytest.raises(ValueError, match=r"^minconn must be a whole number, not a str$"):
        our_class(URL, 1, 2)


def test_an_error_of_a_sizes_own_passes_through(our_class: Any, server: FakeServer) -> None:
    class Stubborn:
        def __int__(self) -> int:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        our_class(0, Stubborn())


@pytest.mark.parametrize("wrong", [URL, URL.encode(), [URL]])
def test_a_timeout_that_may_be_a_connection_string_is_not_repeated(server: FakeServer, wrong: Any) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    for call in (pool.getconn, pool.connection):
        with pytest.raises(TypeError, match="timeout must be a number of seconds") as raised:
            call(timeout=wrong)
        assert SECRET not in str(raised.value)


# --- names of options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_idel", "'max_idel' is no option of the pool nor of psycopg2.connect; did you mean max_idle?"),
        ("pasword", "'pasword' is no option of the pool nor of psycopg2.connect; did you mean password?"),
        ("max_conn", "'max_conn' is no option of the pool nor of psycopg2.connect; did you mean maxconn?"),
        ("max_sise", "'max_sise' is no option of the pool nor of psycopg2.connect; did you mean maxconn?"),
        ("pool_events", "'pool_events' is no option of the pool nor of psycopg2.connect"),
        ("xyzzy", "'xyzzy' is no option of the pool nor of psycopg2.connect"),
        ("size", "size is called minconn (and maxconn) here"),
        ("max_uses", "max_uses does not exist here: max_lifetime replaces a connection by its age"),
    ],
)
def test_an_unknown_option_is_found_by_the_constructor(our_class: Any, name: str, text: str) -> None:
    for value in (60, URL, None):
        with pytest.raises(TypeError) as raised:
            our_class(0, 1, "host=nowhere.invalid", **{name: value})
        assert str(raised.value) == text


@pytest.mark.parametrize("name", _keywords._ELSEWHERE)
def test_another_pools_name_leads_to_a_name_that_exists(name: str) -> None:
    given: dict[str, Any] = {name: 60}
    ours = _keywords._ELSEWHERE[name]
    word = ours.partition(" ")[0]
    assert word in {"minconn", "maxconn", *_OPTIONS} or _keywords.is_known(word)
    with pytest.raises(TypeError, match=f"^{name} is called {re.escape(ours)} here$"):
        ThreadedConnectionPool(0, 1, **given)


@pytest.mark.parametrize("name", _keywords._NOWHERE)
def test_what_only_other_pools_have_is_told(name: str) -> None:
    given: dict[str, Any] = {name: 60}
    with pytest.raises(TypeError, match=f"^{name} does not exist here: {_keywords._NOWHERE[name]}$"):
        ThreadedConnectionPool(0, 1, **given)


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {"min_size": 1, "max_size": 2}, "min_size is called minconn here"),
        ((1,), {"dsn": URL, "max_size": 2}, "max_size is called maxconn here"),
        ((), {"minconn": 1, "max_overflow": 2}, "max_overflow is called maxconn (pool_size included) here"),
    ],
)
def test_a_missing_size_that_is_given_under_another_name_is_named(
    our_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError) as raised:
        our_class(*args, **kwargs)
    assert str(raised.value) == text


@pytest.mark.parametrize(
    ("args", "kwargs", "missing"),
    [
        ((), {}, "2 required positional arguments: 'minconn' and 'maxconn'"),
        ((), {"pool_timeout": 2}, "2 required positional arguments: 'minconn' and 'maxconn'"),
        ((1,), {"min_size": 1}, "1 required positional argument: 'maxconn'"),
        ((), {"maxconn": 1}, "1 required positional argument: 'minconn'"),
    ],
)
def test_a_missing_size_is_python_s_own_error(
    our_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any], missing: str
) -> None:
    with pytest.raises(TypeError) as raised:
        our_class(*args, **kwargs)
    assert str(raised.value) == f"AbstractConnectionPool.__init__() missing {missing}"


def test_what_libpq_and_psycopg2_know_is_taken(our_class: Any) -> None:
    known = {"sslmode": "disable", "tcp_user_timeout": 5, "passfile": None, "options": "-c a=b", "database": "d"}
    factories = {"connection_factory": None, "cursor_factory": None, "async_": 0, "async": 0}
    pool = our_class(0, 1, dsn="host=h", **known, **factories)
    assert pool._kwargs == {"dsn": "host=h", **known, **factories}


def test_where_a_program_connects_by_itself_it_may_give_what_it_likes(
    our_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(our_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            return self._kwargs

    def connect(*_: object, **given: object) -> object:
        return given

    assert Own(0, 1, max_idel=5).getconn() == {"max_idel": 5}
    assert our_class(0, 1, "a+b://", connect=connect, max_idel=5).getconn() == {"max_idel": 5}
    monkeypatch.setattr(psycopg2, "connect", connect)
    assert our_class(0, 1, "a+b://", max_idel=5).getconn() == {"max_idel": 5}


@pytest.mark.parametrize("word", [SECRET, "mysql://h", "shop "])
def test_a_connection_string_without_an_equals_sign_is_told_what_one_looks_like(our_class: Any, word: str) -> None:
    with pytest.raises(psycopg2.ProgrammingError) as raised:
        our_class(0, 1, word)
    assert str(raised.value) == 'invalid dsn: it is neither "dbname=... host=..." nor "postgresql://..."'


@pytest.mark.parametrize(
    "dialect", ["postgresql+psycopg2", "postgres+asyncpg", "mysql+pymysql", " postgresql+psycopg2"]
)
@pytest.mark.parametrize("by_name", [False, True])
def test_an_sqlalchemy_url_is_named(our_class: Any, dialect: str, by_name: bool) -> None:
    url = URL.replace("postgresql", dialect)
    with pytest.raises(
        psycopg2.ProgrammingError, match=r"an SQLAlchemy URL: drop [+]" + dialect.rpartition("+")[2]
    ) as raised:
        our_class(0, 1, dsn=url) if by_name else our_class(0, 1, url)
    assert SECRET not in f"{raised.value!r} {raised.value.__context__!r}"


@pytest.mark.parametrize("wrong", [f'"{URL}"', URL.replace("postgresql", "mysql"), f"host=h password={SECRET} x"])
def test_a_connection_string_that_cannot_be_read_is_not_repeated(our_class: Any, wrong: str) -> None:
    with pytest.raises(psycopg2.ProgrammingError, match=r"^invalid dsn: ") as raised:
        our_class(0, 1, wrong)
    assert SECRET not in f"{raised.value!r} {raised.value.__context__!r}"


class Packed(bytes):
    """Bytes of a program's own."""

    __slots__ = ()

    def decode(self, *_: object) -> str:
        return "host=h"


@pytest.mark.parametrize("kind", [bytes, Packed])
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (URL.replace("://", "+psycopg2://").encode(), r"this is an SQLAlchemy URL: drop \+psycopg2"),
        (f"host=h password={SECRET} x".encode(), 'missing "=" after'),
        (SECRET.encode(), "it is neither"),
        (f"host=h password=\xe4{SECRET}".encode("latin-1"), "it cannot be encoded as UTF-8"),
    ],
)
def test_a_connection_string_in_bytes_is_checked_as_one_in_a_str(
    our_class: Any, kind: type[bytes], by_name: bool, wrong: bytes, text: str
) -> None:
    given = kind(wrong)
    with pytest.raises(psycopg2.ProgrammingError, match=f"^invalid dsn: {text}") as raised:
        our_class(0, 1, dsn=given) if by_name else our_class(0, 1, given)
    assert SECRET not in f"{raised.value!r} {raised.value.__context__!r}"


@pytest.mark.parametrize("kind", [bytearray, memoryview, list])
def test_a_connection_string_that_psycopg2_does_not_take_is_not_repeated(
    our_class: Any, kind: Callable[[bytes], object]
) -> None:
    with pytest.raises(TypeError) as raised:
        our_class(1, 1, kind(URL.encode()))
    assert SECRET not in f"{raised.value!r} {raised.value.__context__!r}"


# --- what a refusal says beyond psycopg2.pool's words ----------------------------------------------------------------


def test_the_repr_names_the_pool_and_shows_no_secret(our_class: Any, server: FakeServer) -> None:
    assert repr(our_class(0, 1, name="it's")).startswith(f'<pgpool_rs.pool.{our_class.__name__} "it\'s" idle=0 ')
    pool = our_class(0, 1, URL, name=URL)
    assert SECRET not in f"{pool!r} {pool.name}"


def known(raised: pytest.ExceptionInfo[Any]) -> tuple[object, ...]:
    error = raised.value
    return error.pool_name, error.lent, error.opening, error.waiting


def test_an_exhausted_pool_says_what_is_lent(our_class: Any, server: FakeServer) -> None:
    pool = our_class(0, 2, name="shop")
    Task(pool.getconn).result()
    pool.getconn()
    with pytest.raises(PoolExhausted) as raised:
        pool.getconn()
    assert str(raised.value) == "connection pool exhausted"
    assert not isinstance(raised.value, psycopg2.OperationalError)
    assert known(raised) == ("shop", 2, 0, 0)
    assert raised.value.waited == 0


@takes_notes
def test_the_note_of_an_exhausted_pool_names_the_oldest_borrower(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2, name="shop")
    lent, over = threading.Event(), threading.Event()

    def borrow() -> None:
        pool.getconn()
        lent.set()
        over.wait()

    borrower = threading.Thread(target=borrow, name="first")
    borrower.start()
    lent.wait()
    pool.getconn()
    with pytest.raises(PoolExhausted) as raised:
        pool.getconn()
    over.set()
    borrower.join()
    assert note(raised) == (
        "pool 'shop' has lent 2 of 2, the oldest for 0 s by first; give timeout=, or see pool.loans()"
    )
    with pytest.raises(PoolExhausted) as raised:
        pool.getconn()
    assert "the oldest for 0 s by thread " in note(raised)


@takes_notes
def test_a_simple_pool_is_not_told_to_wait(server: FakeServer) -> None:
    pool = SimpleConnectionPool(0, 1, name="shop")
    pool.getconn()
    with pytest.raises(PoolExhausted) as raised:
        pool.getconn()
    assert note(raised) == "pool 'shop' has lent 1 of 1, the oldest for 0 s by MainThread; see pool.loans()"


def test_those_who_waited_in_vain_and_those_who_may_not_wait_are_told_the_pool(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, name="shop", max_waiting=1)
    connection = pool.getconn()
    with pytest.raises(
        PoolTimeout, match=r"^connection pool exhausted: waited .* for one of 1 connections .* in pool 'shop'"
    ) as raised:
        pool.getconn(timeout=0.001)
    assert known(raised) == ("shop", 1, 0, 0) or known(raised) == ("shop", 1, 0, 1)
    assert raised.value.waited is not None
    assert raised.value.waited > 0
    assert isinstance(raised.value, psycopg2.OperationalError)
    waiter = waiting_task(pool)
    with pytest.raises(
        TooManyRequests, match="1 caller waits for a connection of pool 'shop', and no more may"
    ) as crowd:
        pool.getconn(timeout=5)
    assert known(crowd) == ("shop", 1, 0, 1)
    if sys.version_info >= (3, 11):
        assert note(crowd).endswith("; raise max_waiting=, or see pool.loans()")
    assert isinstance(crowd.value, psycopg2.OperationalError)
    pool.putconn(connection)
    pool.putconn(waiter.result())


def test_a_pool_that_is_closed_says_so_to_all(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, name="shop")
    connection = pool.getconn()
    waiter: Task[Any] = Task(pool.getconn, timeout=None)
    wait_for_waiters(pool, 1)
    pool.closeall()
    waiter.wait()
    assert isinstance(waiter.error, PoolClosed)
    assert waiter.error.pool_name == "shop"
    assert waiter.error.waited is not None
    assert waiter.error.waited > 0
    calls = (pool.getconn, pool.closeall, pool.check, pool.wait, pool.__enter__, lambda: pool.putconn(connection))
    for call in (*calls, pool._getconn, pool._connect, pool._closeall):
        with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$") as raised:
            call()
        assert raised.value.pool_name == "shop"
        if sys.version_info >= (3, 11):
            assert note(raised) == "pool 'shop' is closed"


class Rude:
    """Raises whatever it is asked."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError


class WrappedCursor(Rude):
    """The cursor of a tracing library."""


def test_a_connect_that_a_closed_pool_has_no_place_for_says_whose(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, name="shop")
    with held(server.hold("connect"), pool._connect) as opening:
        pool.closeall()
    opening.wait()
    assert isinstance(opening.error, PoolClosed)
    assert opening.error.pool_name == "shop"


def test_a_block_that_is_refused_says_of_which_pool(our_class: Any, server: FakeServer) -> None:
    class Sharing(our_class):  # type: ignore[misc]
        def getconn(self, key: object = None, **options: Any) -> Any:
            return self._used["k"] if key == "shared" else super().getconn(key, **options)

    pool = Sharing(0, 2, name="shop")
    pool.getconn("k")
    for key in ("k", "shared"):
        with pytest.raises(PoolError, match="a block needs its own") as raised, pool.connection(key):
            pass
        assert known(raised) == ("shop", 1, 0, 0)
        if sys.version_info >= (3, 11):
            assert note(raised) == "pool 'shop' refused"


def test_what_closeall_has_closed_is_lent_no_more(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 3)
    connection = pool.getconn()
    pool.getconn("k")
    pool.closeall()
    assert " closed idle=0 lent=0 " in repr(pool)
    assert (pool.get_stats()["pool_lent"], len(pool.loans())) == (0, 2), "loans() names what was not returned"
    with pytest.raises(PoolClosed) as raised:
        pool.putconn(connection)
    assert raised.value.lent == 0
    assert connection in pool._used.values(), "as psycopg2.pool lists it"


GIVEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "nothing": (lambda pool: None, "got None: is there a connection to return?"),
    "an idle one": (lambda pool: pool._pool[0], "has this connection already: it was returned before"),
    "a loan": (lambda pool: pool.connection(), "a Loan: it is its `with` block that returns the connection"),
    "a string": (lambda pool: URL, "has not lent what it got, a str"),
    "a connection of a kind that we do not know": (
        lambda pool: FakeServer().connect(),
        "FakeConnection: if it is a connection, it was returned before, is another pool's, or was made without a pool",
    ),
    "a cursor of a kind that we do not know": (
        lambda pool: WrappedCursor(),
        "a WrappedCursor: return the connection, which is cursor.connection",
    ),
}


@pytest.mark.parametrize("given", GIVEN)
def test_what_is_wrongly_returned_is_named_and_not_shown(our_class: Any, server: FakeServer, given: str) -> None:
    pool = our_class(1, 1, name="shop")
    make, text = GIVEN[given]
    with pytest.raises(PoolError) as raised:
        pool.putconn(make(pool))
    assert str(raised.value) == "trying to put unkeyed connection"
    assert type(raised.value) is PoolError
    assert raised.value.pool_name == "shop"  # type: ignore[attr-defined]
    if sys.version_info >= (3, 11):
        assert note(raised).startswith("pool 'shop' ")
        assert note(raised).endswith(text)
        assert SECRET not in note(raised)


@takes_notes
def test_psycopg2s_own_things_that_are_wrongly_returned_are_known(our_class: Any, dsn: str) -> None:
    pool = our_class(0, 1, dsn, name="shop")
    connection = pool.getconn()
    other = psycopg2.connect(dsn)
    whose = "it was returned before, is another pool's, or was made without a pool"
    for thing, text in (
        (connection.cursor(), "return the connection, which is cursor.connection"),
        (other, f"has not lent what it got, a connection: {whose}"),
    ):
        with pytest.raises(PoolError) as raised:
            pool.putconn(thing)
        assert text in note(raised)
    other.close()
    with pytest.raises(PoolError) as raised:
        pool.putconn(other)
    assert note(raised) == f"pool 'shop' has not lent what it got, a connection that is closed: {whose}"
    pool.closeall()


def test_a_wrong_key_is_not_shown(our_class: Any, server: FakeServer) -> None:
    pool = our_class(0, 2, name="shop")
    connection = pool.getconn("a")
    for arguments in ((connection, URL), (None, URL)):
        with pytest.raises(PoolError, match="trying to put") as raised:
            pool.putconn(*arguments)
        assert SECRET not in f"{raised.value} {getattr(raised.value, '__notes__', '')}"
    pool.putconn(connection, "a")


def test_a_note_that_cannot_be_made_is_left_out(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = our_class(0, 1)
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(Rude())
    pool.getconn()
    monkeypatch.setattr(threading, "_active", Rude())
    with pytest.raises(PoolExhausted) as raised:
        pool.getconn()
    assert str(raised.value) == "connection pool exhausted"
    assert raised.value.lent == 1


def test_a_lock_of_the_threading_module_that_is_held_stops_no_refusal(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.getconn()
    gate = Gate()

    def hold() -> None:
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            gate.pass_through()

    with held(gate, hold) as holder, pytest.raises(PoolExhausted):
        pool.getconn()
    holder.result()


@pytest.mark.parametrize("error_class", [PoolClosed, PoolExhausted, PoolTimeout, TooManyRequests])
def test_the_exceptions_can_be_pickled_and_copied(error_class: Any) -> None:
    error = error_class("text")
    assert error.pool_name is None
    error.pool_name, error.lent = "shop", 3
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(other), other.args, vars(other)) == (error_class, ("text",), {"pool_name": "shop", "lent": 3})
        assert other.pgcode is None


def test_an_exception_that_was_raised_can_be_pickled(our_class: Any, server: FakeServer) -> None:
    with pytest.raises(PoolExhausted) as raised:
        our_class(0, 0, name="shop").getconn()
    assert vars(pickle.loads(pickle.dumps(raised.value))) == vars(raised.value)


def test_who_is_below_which_error_of_psycopg2() -> None:
    assert issubclass(PoolTimeout, psycopg2.OperationalError)
    assert issubclass(TooManyRequests, psycopg2.OperationalError)
    assert issubclass(TooManyRequests, PoolExhausted)
    assert not issubclass(TooManyRequests, PoolTimeout)
    assert not issubclass(PoolExhausted, psycopg2.OperationalError)
    assert not issubclass(PoolClosed, psycopg2.OperationalError)
    for error_class in (PoolClosed, PoolExhausted, PoolTimeout, TooManyRequests):
        assert issubclass(error_class, psycopg2.pool.PoolError)


# --- a few mistakes more ---------------------------------------------------------------------------------------------


def test_a_loan_that_is_taken_for_its_connection_says_what_to_write(our_class: Any, server: FakeServer) -> None:
    loan = our_class(0, 1).connection()
    for name in ("cursor", "commit", "autocommit", "closed"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; use `with pool.connection.. as conn:`"):
            getattr(loan, name)
        assert not hasattr(loan, name)
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'$"):
        _ = loan.xyzzy


@pytest.mark.parametrize("edit", [lambda loan, name: setattr(loan, name, True), delattr])
def test_an_edit_of_a_loan_that_is_taken_for_its_connection_says_what_to_write(
    our_class: Any, server: FakeServer, edit: Callable[[Any, str], None]
) -> None:
    loan = our_class(0, 1).connection()
    for name in ("autocommit", "readonly", "cursor", "isolation_level"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; use `with pool.connection.. as conn:`"):
            edit(loan, name)
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'$"):
        edit(loan, "xyzzy")


@pytest.mark.parametrize("timeout", [0.5, 600, None])
def test_a_pool_without_room_refuses_at_once(server: FakeServer, timeout: float | None) -> None:
    pool: Any = ThreadedConnectionPool(0, 0, timeout=timeout)
    for _ in range(2):
        with pytest.raises(PoolExhausted, match="exhausted") as raised:
            pool.getconn()
        assert raised.value.waited == 0
        pool = ThreadedConnectionPool(1, 1, timeout=timeout)
        pool.getconn()
        pool.maxconn = 0


def test_a_missing_key_is_looked_up_and_no_dict_of_all_loans_is_made(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = our_class(0, 5)
    connections = {key: pool.getconn(key) for key in ("a", 7)}
    automatic = pool.getconn()
    used = pool._used
    monkeypatch.delattr(type(used), "_pairs")
    (number,) = {1, 2, 3} & {key for key in (1, 2, 3) if key in used}
    assert used[number] is automatic
    assert {key: used[key] for key in connections} == connections
    for missing in ("b", 8, -1, 2**64, 2**70, 1.5, None, (1, 2)):
        assert missing not in used
        assert used.get(missing) is None
