"""Starlette and FastAPI: a connection for a request that waits for it in the event loop, and in no thread.

    db = Database(2, 10, os.environ["DATABASE_URL"], timeout=5)
    app = FastAPI(lifespan=db.lifespan)

    @app.get("/orders")
    def orders(conn: Annotated[Any, Depends(db, scope="function")]) -> int:
        with conn.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM orders")
            return cursor.fetchone()[0]

Starlette's endpoints say `async with db.connection() as conn`. The guide is at
<https://pgpool-rs.readthedocs.io/en/latest/starlette.html>.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from starlette.exceptions import HTTPException

from pgpool_rs.errors import PoolClosed, PoolExhausted
from pgpool_rs.pool import ThreadedConnectionPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Database"]

_CLOSING = 10.0  # Seconds for what the program has borrowed beside its requests to come back at its end.


class _Block:
    """A `connection()` block whose begin and end run in different threads, the end perhaps before the begin is over."""

    def __init__(self, pool: ThreadedConnectionPool, timeout: float) -> None:
        self._loan = pool.connection(timeout=timeout)
        self._lock = threading.Lock()
        self._entered = self._left = False

    def begin(self) -> Any:
        with self._lock:
            if self._left:
                return None
            connection = self._loan.__enter__()
            self._entered = True
            return connection

    def end(self, error: BaseException | None) -> None:
        with self._lock:
            self._left = True
            if self._entered:
                self._loan.__exit__(*((type(error), error, error.__traceback__) if error else (None, None, None)))


class Database:
    """Lend connections to the requests of an application.

    A request waits in the event loop while `maxconn` others have connections. So the threads are free for those, which
    need one to go on, and a request that is cancelled leaves the queue at once.
    """

    def __init__(
        self, minconn: int, maxconn: int, *args: Any, timeout: float | None = 5, retry_after: int = 1, **options: Any
    ) -> None:
        """Make the pool, from what `ThreadedConnectionPool` takes. `lifespan` opens it.

        :param timeout: how many seconds a request waits; then it is answered with 503. None waits for ever.
        :param retry_after: the number of seconds that the 503 names in `Retry-After`.
        """
        options = {"reconnect_backoff": (0.1, 2), **options, "timeout": timeout, "open": False}
        self._make = functools.partial(ThreadedConnectionPool, minconn, maxconn, *args, **options)
        self._timeout = timeout
        self._max_waiting: int = options.get("max_waiting", 0)
        self._headers = {"Retry-After": str(retry_after)}
        self.pool = self._make()
        """The pool. Each start of the application after the first makes a new one."""
        self._limiter: RunVar[CapacityLimiter] = RunVar(f"pgpool_rs {id(self)}")

    @contextlib.asynccontextmanager
    async def lifespan(self, _: object) -> AsyncIterator[None]:
        """Open the pool, and close it at the end of the application."""
        if self.pool.closed:
            self.pool = self._make()
        try:
            await to_thread.run_sync(self.pool.open)
            yield
        finally:
            await _in_a_thread(self.pool.close, _CLOSING)

    async def __call__(self) -> AsyncIterator[Any]:
        """Lend a connection, as a dependency of FastAPI's: `Depends(db, scope="function")`.

        The end commits, or rolls back if the request raised or was cancelled, and returns the connection. Without
        `scope="function"` FastAPI has answered by then, and nobody learns that a commit has failed.
        """
        async with self.connection() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a connection for the block, which commits at its end, or rolls back if it raised or was cancelled.

        :raises HTTPException: none came free in time; it is answered with 503 and `Retry-After`.
        """
        limiter, place = self._places(), object()
        full = 0 < self._max_waiting <= limiter.statistics().tasks_waiting
        with anyio.move_on_after(0 if full else self._timeout) as wait:
            await limiter.acquire_on_behalf_of(place)
        try:
            # Without a place no time is left: unless a connection is idle, the pool refuses, counts that and says why.
            block = _Block(self.pool, max(0.0, wait.deadline - anyio.current_time()))
            try:
                try:
                    connection = await to_thread.run_sync(block.begin, limiter=CapacityLimiter(1))
                except PoolExhausted as error:
                    raise HTTPException(503, "no database connection came free in time", self._headers) from error
                except PoolClosed as error:
                    error.args = (str(error).replace("call open()", "give the application lifespan=db.lifespan"),)
                    raise
                yield connection
            except BaseException as error:
                await _in_a_thread(block.end, error)
                raise
            await _in_a_thread(block.end, None)
        finally:
            if not wait.cancelled_caught:
                limiter.release_on_behalf_of(place)

    def _places(self) -> CapacityLimiter:
        """Give the queue of this event loop, with as many places as the pool has connections now."""
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = CapacityLimiter(self.pool.maxconn)
            self._limiter.set(limiter)
        limiter.total_tokens = self.pool.maxconn
        return limiter


async def _in_a_thread(call: Callable[..., object], *args: Any) -> None:
    """Call in a thread of its own, since all those of the framework may be taken, and be cancelled no earlier."""
    with CancelScope(shield=True):
        await to_thread.run_sync(call, *args, limiter=CapacityLimiter(1))
