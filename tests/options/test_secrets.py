"""No password in a repr, a log line or an error of the pool's."""

from __future__ import annotations

import linecache
import logging
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolError, PoolTimeout, ThreadedConnectionPool, TooManyRequests, _housekeeper
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.callbacks import Callback
from tests.lib.pools import wait_for_quiet
from tests.lib.postgres import terminate
from tests.lib.waits import wait_until, waiting_task

SECRET = "p@ss/w0rd#x"
PARTS = (SECRET, "ss/w0rd", "w0rd#x", "ss/")


def said(*texts: object) -> None:
    """Assert that nothing that was said has a part of the secret in it."""
    for text in map(str, texts):
        assert not [part for part in PARTS if part in text], text


@pytest.mark.parametrize(
    "wrong",
    [
        f"postgresql://app:{SECRET}@127.0.0.1:1/db",
        f"postgresql://app:{SECRET}@nowhere.invalid/db",
        f"host=127.0.0.1 port=1 user=app password={SECRET} nonsense",
        f"host=127.0.0.1 port=1 password='{SECRET}",
        f"host=127.0.0.1 port={SECRET}",
    ],
)
def test_a_failed_connect_is_not_repeated_to_others_where_it_may_quote_the_password(wrong: str, dsn: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, dsn)
    connection = pool.getconn()
    pool.maxconn = 2
    pool._args = (wrong,)
    with pytest.raises(psycopg2.Error):
        pool.getconn()
    pool.maxconn = 1
    with pytest.raises(PoolTimeout, match="last connect error") as raised:
        pool.getconn(timeout=0.01)
    said(raised.value, repr(raised.value), repr(pool))
    pool.putconn(connection)
    pool.closeall()


def test_what_the_server_says_is_repeated(dsn: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, dsn)
    pool.getconn()
    pool._kwargs["dbname"] = "nowhere"
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    pool.maxconn = 1
    with pytest.raises(PoolTimeout, match='database "nowhere" does not exist'):
        pool.getconn(timeout=0.01)
    pool.closeall()


def test_neither_logs_nor_reprs_have_the_password(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pool: Any = ThreadedConnectionPool(1, 1, dsn, password=SECRET)
    connection = pool.getconn()
    connection.cursor().execute("SELECT 1")
    terminate(dsn, connection.info.backend_pid)
    pool.putconn(connection)
    assert caplog.records, "a failed rollback is logged"
    said(repr(pool), repr(pool._pool), repr(pool._used), caplog.text)
    pool.closeall()


# --- whatever fails, and whatever its text quotes --------------------------------------------------------------------

GIVEN: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "keyword": ((), {"user": "app", "password": SECRET}),
    "string": ((f"host=h user=app password='{SECRET}'",), {}),
    "uri": ((f"postgresql://app:{quote(SECRET, safe='')}@h/db",), {}),
    "uri, not encoded": ((f"postgresql://app:{SECRET}@h/db",), {}),
    "dsn": ((), {"dsn": f"host=h password='{SECRET}'"}),
    "file": ((), {"user": "app", "sslpassword": SECRET}),
}

# In the words of libpq, where we repeat what it says of a server, and in those of others. test_mask.py has more.
QUOTES = {
    "libpq": (psycopg2.OperationalError, f'connection to server at "ss", port 5432 failed: FATAL: not {SECRET}'),
    "other": (ValueError, f"postgresql://app:{quote(SECRET, safe='')}@h/db is not there, nor is {SECRET!r}"),
}


@pytest.fixture(params=GIVEN)
def given(request: pytest.FixtureRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the arguments of psycopg2.connect, in each way that has a password in it."""
    return GIVEN[request.param]


@pytest.fixture(params=QUOTES)
def error(request: pytest.FixtureRequest) -> Exception:
    """Give an error that quotes the password."""
    error_class, text = QUOTES[request.param]
    error: Exception = error_class(text)
    return error


@pytest.fixture
def make(
    given: tuple[tuple[Any, ...], dict[str, Any]],
    server: FakeServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Give what makes a pool that connects with the password. All is logged."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(_housekeeper, "PAUSE", 0.01)
    args, kwargs = given
    return lambda least, most, **options: ThreadedConnectionPool(least, most, *args, name="shop", **options, **kwargs)


def everything_said(pool: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that neither the log nor anything that the pool shows of itself has the password."""
    said(repr(pool), pool.name, pool.loans(), repr(pool._pool), repr(pool._used), pool.get_stats())
    for record in caplog.records:
        said(record.getMessage(), record.exc_info, record.args)
    said(caplog.text)


def refusal(pool: Any, **options: Any) -> None:
    """Assert that nothing is told to a caller that waits in vain."""
    pool.maxconn = 0
    with pytest.raises(PoolTimeout) as raised:
        pool.getconn(timeout=0.001, **options)
    said(*traceback.format_exception(raised.value))
    said(repr(raised.value), vars(raised.value))


def is_said(error: Exception) -> bool:
    """Tell whether a database says this."""
    return isinstance(error, psycopg2.Error)


def unsaid(error: Exception) -> Any:
    """Expect an error that no database says, which is raised and not logged."""
    return nullcontext() if is_said(error) else pytest.raises(type(error))


def lines(caplog: pytest.LogCaptureFixture, start: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(start)]


def test_a_connect_that_fails(
    make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(0, 1)
    server.fail("connect", error)
    with pytest.raises(type(error)):
        pool.getconn()
    assert lines(caplog, "connect failed: ")
    refusal(pool)
    refusal(pool, key="key")
    everything_said(pool, caplog)


@pytest.mark.parametrize("call", ["maintain", "check", "drain", "wait"])
def test_a_refill_that_fails(
    *, make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    pool = make(1, 1)
    pool.putconn(pool.getconn(), close=True)
    server.fail("connect", error)
    if call == "wait":
        with unsaid(error):
            with pytest.raises(PoolTimeout) as raised:
                pool.wait(0)
            said(*traceback.format_exception(raised.value))
    else:
        with unsaid(error):
            getattr(pool, call)()
    assert lines(caplog, "connect failed: ")
    everything_said(pool, caplog)


def test_a_pool_that_cannot_be_made(
    make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail("connect", error)
    with pytest.raises(type(error)):
        make(1, 1)
    assert lines(caplog, "connect failed: ")
    said(caplog.text)


@pytest.mark.parametrize("option", ["configure", "connect"])
def test_a_callback_of_a_connect_that_fails(
    *, make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    callback = Callback()

    def connect(*args: Any, **kwargs: Any) -> Any:
        callback(None)
        return server.connect(*args, **kwargs)

    pool = make(0, 1, **{option: connect if option == "connect" else callback})
    callback.raises(error)
    with pytest.raises(type(error)):
        pool.getconn()
    assert lines(caplog, "connect failed: ")
    refusal(pool)
    everything_said(pool, caplog)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("call", ["rollback", "close", "reset", "closed", "info"])
def test_a_return_that_fails(
    *,
    make: Callable[..., Any],
    error: Exception,
    server: FakeServer,
    caplog: pytest.LogCaptureFixture,
    call: str,
    background: bool,
) -> None:
    reset = Callback()
    pool = make(1, 1, background=background, reset=reset)
    for block in (False, True):
        caplog.clear()
        if call == "reset":
            reset.raises(error)
        elif call == "close":
            server.fail(call, error)
        with suppress(type(error), ZeroDivisionError):
            if block:
                with pool.connection() as connection:
                    connection.status = INTRANS
                    if call != "reset":
                        server.fail("rollback", error, error)
                    if call in {"closed", "info"}:
                        server.fail(call, error)
                    raise ZeroDivisionError
            else:
                connection = pool.getconn()
                connection.status = INTRANS
                if call != "reset":
                    server.fail("rollback", error)
                if call in {"closed", "info"}:
                    server.fail(call, error)
                pool.putconn(connection, close=call == "close")
        server.calm()
        wait_for_quiet(pool)
        everything_said(pool, caplog)


def test_the_return_after_a_block_that_raised(
    make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Pool(ThreadedConnectionPool):
        def putconn(self, *args: Any, **kwargs: Any) -> None:
            super().putconn(*args, **kwargs)
            raise error

    given = make(0, 1)
    pool: Any = Pool(0, 1, *given._args, name="shop", **given._kwargs)
    with pytest.raises(ZeroDivisionError if is_said(error) else type(error)), pool.connection():
        raise ZeroDivisionError
    assert bool(lines(caplog, "a connection could not be returned: ")) is is_said(error)
    everything_said(pool, caplog)


@pytest.mark.parametrize("way", ["getconn", "check"])
def test_a_check_that_fails(
    *, make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    check = Callback()
    pool = make(0, 1, check=check, check_after=0, max_idle=None)
    pool.putconn(pool.getconn())
    check.raises(error)
    with unsaid(error):
        getattr(pool, way)()
    assert bool(lines(caplog, "connection lost: its check failed: ")) is is_said(error)
    everything_said(pool, caplog)


@pytest.mark.parametrize("call", ["close", "rollback"])
def test_what_the_housekeeping_meets(
    *, make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    pool = make(0, 2, max_idle=100, max_lifetime=1000, leak_after=100, background=True)
    lent = [pool.getconn(), pool.getconn("key")]
    advance_clock(101)
    pool.maintain()
    server.fail(call, error, error)
    for connection in lent:
        connection.status = INTRANS
        pool.putconn(connection)
    wait_for_quiet(pool)
    advance_clock(1001)
    raised = []
    try:
        pool.maintain()
    except ValueError as unsaid_error:
        # It has come before the thread has.
        raised.append(unsaid_error)
    assert not (raised and is_said(error))
    wait_for_quiet(pool)
    assert lines(caplog, "connection not returned: ")
    line = f"{call}() failed" if is_said(error) else "a connection could not be returned: "
    wait_until(lambda: bool(raised or lines(caplog, line)))
    everything_said(pool, caplog)


def test_a_housekeeping_that_fails(
    make: Callable[..., Any], error: Exception, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Pool(ThreadedConnectionPool):
        fails = False

        def _pgpool_maintain(self) -> float | None:
            if self.fails:
                raise error
            return super()._pgpool_maintain()

    given = make(0, 1)
    pool: Any = Pool(1, 1, *given._args, name="shop", max_idle=5, **given._kwargs)
    Pool.fails = True
    _housekeeper.housekeeper.poke(pool)
    try:
        wait_until(lambda: bool(lines(caplog, "the housekeeper failed to maintain shop: ")))
    finally:
        Pool.fails = False  # or it writes a line a second, into later tests
    everything_said(pool, caplog)


def test_who_waits_in_vain(make: Callable[..., Any], server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    pool = make(1, 1, max_waiting=1, leak_after=5)
    connection = pool.getconn(("key", 1))
    waiter = waiting_task(pool)
    with pytest.raises(TooManyRequests) as crowded:
        pool.getconn(timeout=1)
    pool.putconn(connection)
    connection = waiter.result()
    with pytest.raises(PoolTimeout) as timed_out:
        pool.getconn(timeout=0.001)
    with pytest.raises(PoolError) as refused:
        pool.getconn()
    with pytest.raises(PoolError) as unknown:
        pool.putconn(server.connect())
    everything_said(pool, caplog)
    pool.closeall()
    with pytest.raises(PoolClosed) as closed:
        pool.getconn()
    for raised in (crowded, timed_out, refused, unknown, closed):
        said(*traceback.format_exception(raised.value))
    said(caplog.text)


def test_a_forgotten_connection(make: Callable[..., Any], server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    server.keep = False
    pool = make(0, 1, reclaim=True, leak_after=5)
    pool.getconn()
    wait_until(lambda: bool(lines(caplog, "connection reclaimed")), "the line")
    everything_said(pool, caplog)


def test_the_line_that_borrowed_may_have_the_password_in_it(
    make: Callable[..., Any], server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    source = f"connection = pool.getconn()  # of {SECRET}\n"
    linecache.cache["<borrower>"] = (len(source), None, [source], "<borrower>")
    pool = make(0, 1, leak_after=5)
    exec(compile(source, "<borrower>", "exec"), {"pool": pool})
    advance_clock(6)
    pool.maintain()
    (line,) = lines(caplog, "connection not returned: ")
    assert 'File "<borrower>", line 1' in line
    said(caplog.text)


def test_a_key_may_have_the_password_in_it(
    make: Callable[..., Any], server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(0, 1, leak_after=5)
    pool.getconn(("db", SECRET))
    advance_clock(6)
    pool.maintain()
    assert lines(caplog, "connection not returned: ")
    said(caplog.text)
