"""One of two pools that are compared, the faults that both suffer, and how the keys of one are said to the other."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import psycopg2
from hypothesis.stateful import RuleBasedStateMachine, invariant
from psycopg2.pool import PoolError

import pgpool_rs
from pgpool_rs.testing import FakeServer

MILLION = 1_000_000


class Odd(Exception):
    """Something that neither psycopg2 nor a pool raises by itself."""


class Stop(BaseException):
    """Something like KeyboardInterrupt that hypothesis takes for no interrupt."""


class Colliding:
    """A key whose hash is that of all others of its kind, and which equals each one of the same name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Colliding({self.name!r})"

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Colliding) and other.name == self.name


FAULTS: dict[str, Callable[[], BaseException]] = {
    "down": lambda: psycopg2.OperationalError("server closed the connection unexpectedly"),
    "odd": lambda: Odd("odd"),
    "stop": lambda: Stop("stop"),
}
# -1 and -2 have the same hash in CPython, too.
USER_KEYS = [0, 0.0, False, "", (), "a", "b", -1, -2, 1, True, 1.0, 2, 3, 4.5, MILLION]
USER_KEYS += [Colliding("x"), Colliding("y"), Colliding("x")]
UNHASHABLE: list[Any] = [[], {}]
OURS = {"connection pool is closed": pgpool_rs.PoolClosed, "connection pool exhausted": pgpool_rs.PoolExhausted}


def theirs(key: Any) -> Any:
    """Give the key that psycopg2.pool is given in place of this one (difference 4)."""
    return key + MILLION if isinstance(key, int | float) and key >= 1 else key


def from_theirs(key: Any) -> Any:
    """Give the key that stands behind one of psycopg2.pool's."""
    return key - MILLION if isinstance(key, int | float) and key > MILLION else key


def is_automatic(key: Any) -> bool:
    """Tell whether pgpool_rs made this key up."""
    return isinstance(key, int) and type(key) not in (int, bool)


HOOKS = ("_connect", "_getkey", "_getconn", "_putconn", "_closeall")


class Warnings(logging.Handler):
    """Counts what is logged of returns that failed."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count it, if it is one."""
        self.count += "failed; the connection was dropped" in record.getMessage()


class Side:
    """One of the two pools, with its server."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.pool: Any = None
        self.trace: list[tuple[Any, ...]] = []

    def hook(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make a method that notes its call and passes it on to the original one."""

        def hook(pool: Any, *args: Any) -> Any:
            self.trace.append((name, *map(self.shown, args[:2]), *map(repr, args[2:])))
            return original(pool, *args)

        return hook

    def shown(self, argument: Any) -> Any:
        """Show what a hook was given: a connection by its number, a key as pgpool_rs has it."""
        return from_theirs(getattr(argument, "serial", argument))

    def try_(self, call: Callable[[], Any]) -> tuple[Any, ...]:
        """Make a call; tell what came of it, with connections as numbers."""
        try:
            result = call()
        except PoolError as error:
            return ("PoolError", str(error), type(error))
        except (Exception, Stop) as error:
            return ("raised", type(error), str(error))
        return ("returned", getattr(result, "serial", result))

    def number(self, connection: Any) -> int:
        """Give the number of a connection."""
        assert connection.server is self.server
        return int(connection.serial)

    def views(self) -> dict[str, Any]:
        """Show all that is to be equal."""
        pool = self.pool
        return {
            "_pool": [self.number(connection) for connection in pool._pool],
            "_used": [(key, self.number(connection)) for key, connection in pool._used.items()],
            "_rused": sorted(
                ((self.number(self.by_id(ident)), key) for ident, key in pool._rused.items()), key=lambda pair: pair[0]
            ),
            "_keys": pool._keys,
            "closed": pool.closed,
            "minconn": pool.minconn,
            "maxconn": pool.maxconn,
            "log": self.server.log,
        }

    def by_id(self, ident: int) -> Any:
        """Find a lent connection by its id."""
        (connection,) = (connection for connection in self.server.connections if id(connection) == ident)
        return connection


class Comparison(RuleBasedStateMachine):
    """Compares the two pools: what comes of the same call, and their views after each step."""

    class_name = ""
    # How many there have been: operations made on both and compared, and those that pgpool_rs alone had to refuse.
    counters: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Side(), Side()
        self.connect = psycopg2.connect
        setattr(psycopg2, "connect", lambda side: side.server.connect())  # noqa: B010  mypy knows its signatures
        self.warnings = Warnings()
        self.logger = logging.getLogger("pgpool_rs")
        self.logger.addHandler(self.warnings)
        self.logger.propagate = False

    def teardown(self) -> None:
        psycopg2.connect = self.connect
        self.logger.removeHandler(self.warnings)
        self.logger.propagate = True

    @property
    def numbers(self) -> list[int]:
        return [self.left.number(connection) for connection in self.left.server.connections]

    @property
    def lent(self) -> list[int]:
        return [self.left.number(connection) for connection in self.left.pool._used.values()]

    def pick(self, side: Side, number: int) -> Any:
        (connection,) = (connection for connection in side.server.connections if connection.serial == number)
        return connection

    def agree(self, call: Callable[[Side], Any]) -> tuple[Any, ...]:
        """Make a call on both sides and compare what came of it; return it."""
        expected = self.left.try_(lambda: call(self.left))
        got = self.right.try_(lambda: call(self.right))
        self.compare(expected, got)
        return got

    def compare(self, expected: tuple[Any, ...], got: tuple[Any, ...]) -> None:
        """Compare what came of an operation, and count it."""
        self.counters["compared"] += 1
        if expected[0] == "PoolError":
            assert got == (*expected[:2], OURS.get(expected[1], PoolError))
        elif expected[0] == "raised" and issubclass(expected[1], TypeError):
            assert got[:2] == expected[:2]
            assert "unhashable" in got[2]
            assert "unhashable" in expected[2]
        else:
            assert got == expected

    def refused(self, error: type[Exception], call: Callable[[], Any]) -> None:
        """Make a call on pgpool_rs alone, which must refuse it and change nothing."""
        self.counters["refused"] += 1
        before, traced = repr(self.right.views()), len(self.right.trace)
        got = self.right.try_(call)
        del self.right.trace[traced:]
        assert got[0] == "PoolError" if error is PoolError else got[:2] == ("raised", error), got
        assert repr(self.right.views()) == before

    @invariant()
    def the_views_are_equal(self) -> None:
        if self.left.pool is None or self.right.pool is None:
            return
        left, right = self.left.views(), self.right.views()
        left["_used"] = [(from_theirs(key), number) for key, number in left["_used"]]
        left["_rused"] = [(number, from_theirs(key)) for number, key in left["_rused"]]
        assert right == left
        for (their_key, _), (our_key, _) in zip(self.left.pool._used.items(), right["_used"], strict=True):
            assert is_automatic(our_key) == (type(their_key) is int and 0 < their_key < MILLION)
        assert self.right.server.open == self.left.server.open
        assert self.right.trace == self.left.trace
        for side in (self.left, self.right):
            side.trace.clear()
