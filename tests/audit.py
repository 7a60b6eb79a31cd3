"""What must hold of a pool on a fake server whenever it is quiet, what it has logged, and what its callbacks may do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import QueryCanceledError
from psycopg2.pool import PoolError

from pgpool_rs.testing import ACTIVE, INERROR, INTRANS, FakeServer, Gate
from support import assert_whole, counts, wait_until

# --- books -----------------------------------------------------------------------------------------------------------

DOWN = psycopg2.OperationalError("down")


def filled(pool_class: Any, number: int, maxconn: int | None = None, **options: Any) -> Any:
    """Make a pool with so many idle connections and a minconn of 0: it keeps them, and opens none by itself."""
    pool = pool_class(0, number if maxconn is None else maxconn, **{"max_idle": None, **options})
    for connection in [pool.getconn() for _ in range(number)]:
        pool.putconn(connection)
    wait_for_quiet(pool)
    return pool


def closes(pool: Any) -> dict[str, int]:
    """Tell how many connections were closed, by reason; reasons that were none are left out."""
    stats = pool.get_stats()
    return {name.removeprefix("closed_"): n for name, n in stats.items() if name.startswith("closed_") and n}


def wait_for_quiet(pool: Any) -> None:
    """Wait until nothing is being opened or returned, and nobody waits."""
    busy = ("opening", "returning", "waiting")
    wait_until(lambda: not any(counts(pool)[name] for name in busy), "quiet")


def assert_balanced(pool: Any, server: FakeServer) -> None:
    """Assert that each connection that was opened is open, or counted as closed; and that the server agrees."""
    stats, seen = _at_one_moment(pool, server)
    opened = stats["connections_num"] - stats["connections_errors"]
    assert opened == stats["pool_size"] + sum(closes(pool).values()), stats
    assert seen == stats["pool_size"], f"the server sees {seen}: {stats}"


def _at_one_moment(pool: Any, server: FakeServer) -> tuple[dict[str, int], int]:
    """Read the statistics, and how many connections the server sees, with no refill in between."""
    while True:
        stats, seen = pool.get_stats(), server.open
        if pool.get_stats() == stats:
            return stats, seen


def assert_sound(pool: Any, server: FakeServer, **options: Any) -> None:
    """Assert, of an open pool that has nothing lent, that no slot is lost and that no connection was ever too many.

    A pool that has a timeout of its own needs timeout=0 here.
    """
    wait_for_quiet(pool)
    assert_balanced(pool, server)
    assert_whole(pool, **options)
    wait_for_quiet(pool)
    assert_balanced(pool, server)
    assert server.peak <= pool.maxconn, f"{server.peak} connections were open at once"


# --- log -------------------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    """Keeps what a pool logs, and raises when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []
        self.error: BaseException | None = None
        self.where = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.lines.append((record.levelno, text))
        if self.error is not None and self.where in text:
            raise self.error

    def fail(self, error: BaseException, where: str = "") -> None:
        """Raise this from each line that has `where` in it."""
        self.error, self.where = error, where

    @property
    def texts(self) -> list[str]:
        """Give the lines without their levels."""
        return [text for _, text in self.lines]

    def wait_for(self, number: int) -> None:
        """Wait until so many lines have been logged: by another thread, that may come after what they tell."""
        wait_until(lambda: len(self.lines) >= number, f"line {number}")


@contextmanager
def listening(name: str, level: int = logging.DEBUG) -> Iterator[Lines]:
    """Collect what the pool of this name logs, from this level on."""
    logger = logging.getLogger(f"pgpool_rs.{name}")
    lines = Lines()
    before, logger.propagate = logger.propagate, False
    logger.setLevel(level)
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(logging.NOTSET)
        logger.propagate = before


# --- callbacks -------------------------------------------------------------------------------------------------------

Act = Callable[[Any, Any], object]


class Callback:
    """A check, configure, reset or connect that passes, unless it has been told to do something else once."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.acts: list[Callable[[Any], object]] = []

    def __call__(self, connection: Any) -> None:
        self.calls.append(connection)
        if self.acts:
            self.acts.pop(0)(connection)

    def then(self, act: Callable[[Any], object], times: int = 1) -> None:
        """Do this in the next call, or calls."""
        self.acts += [act] * times

    def raises(self, *errors: BaseException) -> None:
        """Raise these in the next calls."""
        for error in errors:
            self.then(_raiser(error))


def gated(callback: Callback, act: Callable[[Any], object] = lambda _: None) -> Gate:
    """Make a gate for the next call, which then does something."""
    gate = Gate()

    def hold(connection: Any) -> None:
        gate.pass_through()
        act(connection)

    callback.then(hold)
    return gate


class Killed(BaseException):
    """What a greenlet's end looks like."""


def _raiser(error: BaseException) -> Callable[[Any], object]:
    def do(_: Any) -> None:
        raise error

    return do


def _loses(connection: Any, _: Any) -> None:
    connection.set_closed(2)
    raise psycopg2.OperationalError("server closed the connection unexpectedly")


def _leaves(status: int) -> Act:
    def do(connection: Any, _: Any) -> None:
        connection.status = status

    return do


def _fails(error: BaseException) -> Act:
    raiser = _raiser(error)
    return lambda connection, _: raiser(connection)


# What a callback may do to its connection so that it is of no use, and what is raised then, if anything.
FAILURES: dict[str, tuple[Act, type[BaseException] | None]] = {
    "raises": (_fails(psycopg2.DatabaseError("no good")), psycopg2.DatabaseError),
    "loses it": (_loses, psycopg2.OperationalError),
    "closes it": (lambda connection, _: connection.close(), None),
    "breaks it": (lambda connection, _: connection.set_closed(2), None),
}
# What is raised by the call of the pool that it came in, whoever called.
STRONG_FAILURES: dict[str, tuple[Act, type[BaseException] | None]] = {
    "has a bug": (_fails(ValueError("no good")), ValueError),
    "is cancelled": (_fails(QueryCanceledError("no good")), QueryCanceledError),
    "is interrupted": (_fails(KeyboardInterrupt("now")), KeyboardInterrupt),
    "exits": (_fails(SystemExit("now")), SystemExit),
    "is killed": (_fails(Killed("now")), Killed),
}
# What it may leave behind.
LEFTOVERS: dict[str, Act] = {
    "leaves a transaction": _leaves(INTRANS),
    "leaves a failed transaction": _leaves(INERROR),
    "leaves a statement": _leaves(ACTIVE),
}


def _borrows(_: Any, pool: Any) -> None:
    pool.putconn(pool.getconn())


def _borrows_by_key(_: Any, pool: Any) -> None:
    pool.putconn(pool.getconn("inner"), "inner")


def _closes_another(_: Any, pool: Any) -> None:
    pool.putconn(pool.getconn(), close=True)


def _returns_it(connection: Any, pool: Any) -> None:
    try:
        pool.putconn(connection)
    except PoolError:
        return
    raise AssertionError("it was taken back while it was in nobody's hands")


def _resizes(_: Any, pool: Any) -> None:
    least, most = pool.minconn, pool.maxconn
    pool.resize(0, 1)
    pool.resize(least, most)


def _reads(_: Any, pool: Any) -> None:
    for read in (pool.get_stats, pool.loans, lambda: repr(pool), lambda: list(pool._pool), lambda: dict(pool._used)):
        read()


# How it may call the pool, which must have room for two.
CALLS_BACK: dict[str, Act] = {
    "borrows": _borrows,
    "borrows by key": _borrows_by_key,
    "closes another": _closes_another,
    "returns it": _returns_it,
    "resizes": _resizes,
    "reads": _reads,
    "drains": lambda _, pool: pool.drain(),
    "checks": lambda _, pool: pool.check(),
    "maintains": lambda _, pool: pool.maintain(),
}


# --- loans -----------------------------------------------------------------------------------------------------------


def borrow(pool: Any) -> None:
    """Borrow a connection and return it."""
    pool.putconn(pool.getconn())


def borrow_by_key(pool: Any) -> None:
    """Borrow a connection by a key and return it."""
    pool.putconn(pool.getconn("key"), "key")


def borrow_in_a_block(pool: Any) -> None:
    """Borrow a connection for a block."""
    with pool.connection():
        pass


BORROWS: dict[str, Callable[[Any], object]] = {
    "getconn": borrow,
    "key": borrow_by_key,
    "block": borrow_in_a_block,
}


def lend(pool: Any, number: int) -> list[Any]:
    """Borrow so many."""
    return [pool.getconn() for _ in range(number)]


def give_back(pool: Any, connections: list[Any]) -> None:
    """Return them in this order."""
    for connection in connections:
        pool.putconn(connection)


def idle(pool: Any) -> list[int]:
    """List the numbers of the idle connections, the next to be lent last."""
    return [connection.serial for connection in pool._pool]
