"""A recorder: a pool whose calls are written down."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, final

from psycopg2.pool import PoolError

from pgpool_rs.errors import PoolClosed, PoolExhausted, PoolTimeout
from pgpool_rs.testing.history.operation import History, Operation, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

# Calls that keep a pool busy and change nothing that a borrower may rely on.
UPKEEP = frozenset({"drain", "check", "maintain"})


def outcome_of(error: BaseException) -> Outcome:
    """Tell what an exception of `getconn`, `putconn` or `closeall` stands for, in psycopg2.pool or pgpool_rs."""
    if isinstance(error, PoolTimeout):
        return Outcome.TIMED_OUT
    if isinstance(error, PoolExhausted):
        return Outcome.REFUSED
    if isinstance(error, PoolClosed):
        return Outcome.CLOSED
    if isinstance(error, PoolError):
        # psycopg2.pool has one class for all of them.
        text = str(error)
        if text == "connection pool is closed":
            return Outcome.CLOSED
        if text == "connection pool exhausted" or text.startswith("trying to put "):
            return Outcome.REFUSED
    return Outcome.FAILED


@final
class Recorder:
    """Stand before a pool, pass every call on, and write down what was called and what came of it.

    What is written down: getconn, putconn, closeall, resize, drain, check, maintain, and `connection()` as a getconn
    and an `exit`. Anything else is passed on, and not seen. Any number of threads may use it at once.
    """

    def __init__(
        self,
        pool: Any,
        *,
        outcome: Callable[[BaseException], Outcome] = outcome_of,
        identify: Callable[[Any], Any] | None = None,
    ) -> None:
        """Stand before this pool, whatever its class.

        :param outcome: tells what an exception of this pool's stands for. The default knows those of psycopg2.pool and
            of pgpool_rs, and takes every other for `Outcome.FAILED`, of which little is asked.
        :param identify: gives the connection itself, for a pool that lends a new wrapper each time.
        """
        self._pool = pool
        self._outcome = outcome
        self._identify = identify
        # A record stands here twice: where the call began, and where it returned. Appending to a list is one step,
        # with a GIL or without, so that the places in it are an order that all threads agree on.
        self._records: list[_Record] = []
        self._numbers = _Numbers()

    def __getattr__(self, name: str) -> Any:
        # A recorder that is being copied or unpickled has nothing yet.
        if name == "_pool":
            raise AttributeError(name)
        found = getattr(self._pool, name)
        if name not in UPKEEP:
            return found

        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self._call(_Record(name), found, *args, **kwargs)

        return recorded

    def getconn(self, key: Hashable = None, **kwargs: Any) -> Any:
        """Borrow a connection from the pool."""
        args = () if key is None else (key,)
        return self._call(_Record("getconn", key), self._pool.getconn, *args, **kwargs)

    def putconn(self, conn: Any = None, key: Hashable = None, close: object = False) -> None:
        """Give a connection back to the pool."""
        record = _Record("putconn", key, close=bool(close))
        self._note(record, conn)
        # Nothing that was not given: a wrapper's putconn may take no more than the connection.
        given: dict[str, object] = {} if key is None else {"key": key}
        if close is not False:
            given["close"] = close
        self._call(record, self._pool.putconn, conn, **given)

    def closeall(self) -> None:
        """Close the pool."""
        self._call(_Record("closeall"), self._pool.closeall)

    def resize(self, minconn: int, maxconn: int) -> None:
        """Give the pool other limits, if it has this method."""
        self._call(_Record("resize", maxconn=maxconn), self._pool.resize, minconn, maxconn)

    def connection(self, key: Hashable = None, **kwargs: Any) -> _Block:
        """Borrow a connection for a block: through the pool's own `connection`, or its getconn if it has none."""
        return _Block(self, key, kwargs)

    @property
    def history(self) -> History:
        """Tell what has been called up to now. Calls that have not returned are there as pending."""
        records = list(self._records)
        threads: dict[int, int] = {}
        began: dict[_Record, int] = {}
        ended: dict[_Record, int] = {}
        for place, record in enumerate(records):
            (ended if record in began else began)[record] = place
            threads.setdefault(record.thread, len(threads) + 1)
        return History(
            record.operation(threads[record.thread], called, ended.get(record)) for record, called in began.items()
        )

    def _call(self, record: _Record, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._records.append(record)
        try:
            answer = method(*args, **kwargs)
            if record.name == "getconn":
                self._note(record, answer)
                record.outcome = Outcome.LENT
        except BaseException as error:
            record.outcome = self._outcome(error)
            record.error = type(error).__name__
            raise
        finally:
            self._records.append(record)
        return answer

    def _note(self, record: _Record, conn: Any) -> None:
        if conn is not None:
            record.connection = self._numbers.of(conn if self._identify is None else self._identify(conn))


@final
class _Record:
    """A call, from its beginning on."""

    __slots__ = ("close", "connection", "error", "key", "maxconn", "name", "outcome", "thread")

    def __init__(self, name: str, key: Hashable = None, *, close: bool = False, maxconn: int | None = None) -> None:
        self.thread = threading.get_ident()
        self.name = name
        self.key = key
        self.close = close
        self.maxconn = maxconn
        self.connection: int | None = None
        self.outcome = Outcome.DONE
        self.error: str | None = None

    def operation(self, thread: int, called: int, returned: int | None) -> Operation:
        """Say the same as plain data."""
        outcome, connection, error = self.outcome, self.connection, self.error
        if returned is None:
            outcome, connection, error = Outcome.PENDING, None if self.name == "getconn" else connection, None
        given = self.key, self.close, self.maxconn
        return Operation(thread, self.name, called, returned, outcome, connection, *given, error)


@final
class _Numbers:
    """Gives each connection a number of its own.

    A connection's address is given to another one once it is gone, and a recorder that kept connections alive would
    change what it watches: psycopg2's are closed when they are dropped. So each is known by a weak reference, and an
    address whose connection is gone gets a new number. What cannot be referred to weakly is kept.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Callable[[], Any], int]] = {}
        self._last = 0
        # A connection's __del__ may call the recorder while its thread holds this.
        self._lock = threading.RLock()

    def of(self, conn: Any) -> int:
        known = self._known.get(id(conn))
        if known is not None and known[0]() is conn:
            return known[1]
        try:
            refer: Callable[[], Any] = weakref.ref(conn)
        except TypeError:
            refer = _always(conn)
        with self._lock:
            known = self._known.get(id(conn))
            if known is None or known[0]() is not conn:
                self._last += 1
                known = self._known[id(conn)] = (refer, self._last)
            return known[1]


def _always(conn: Any) -> Callable[[], Any]:
    """Refer to an object and keep it."""
    return lambda: conn


@final
class _Block:
    """A connection that is lent for one block."""

    def __init__(self, recorder: Recorder, key: Hashable, kwargs: dict[str, Any]) -> None:
        self._recorder = recorder
        self._key = key
        self._kwargs = kwargs
        self._loan: Any = None
        self._conn: Any = None

    def __enter__(self) -> Any:
        recorder = self._recorder
        if not hasattr(recorder._pool, "connection"):
            self._conn = recorder.getconn(self._key, **self._kwargs)
            return self._conn
        args = () if self._key is None else (self._key,)
        loan = recorder._pool.connection(*args, **self._kwargs)
        self._conn = recorder._call(_Record("getconn", self._key), loan.__enter__)
        self._loan = loan
        return self._conn

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        conn, self._conn = self._conn, None
        if self._loan is None:
            self._recorder.putconn(conn)
            return None
        loan, self._loan = self._loan, None
        record = _Record("exit")
        self._recorder._note(record, conn)
        answer: bool | None = self._recorder._call(record, loan.__exit__, exc_type, exc_value, traceback)
        return answer
