"""The dependency of Starlette and FastAPI, in real applications on a real server."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import anyio
import httpx2
import psycopg2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs import PoolClosed, ThreadedConnectionPool
from pgpool_rs.starlette import Database, _Block
from pgpool_rs.testing import PATIENCE, Gate
from tests.lib.postgres import Connects, admin, backends, opened
from tests.lib.statements import execute
from tests.lib.waits import counts

T = TypeVar("T")


def run(body: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run in an event loop, with a bound."""

    async def bounded() -> T:
        return await asyncio.wait_for(body(), PATIENCE)

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, in this event loop and with a bound of `run`'s."""
    while not condition():  # noqa: ASYNC110  (what happens in other threads sets no event here)
        await asyncio.sleep(0.001)


def queued(db: Database) -> int:
    """Count the requests that wait in this event loop."""
    return db._limiter.get().statistics().tasks_waiting


def site(db: Database) -> FastAPI:
    """Make an application that needs a connection for each request."""
    app = FastAPI()

    @app.get("/")
    def page(conn: Annotated[Any, Depends(db, scope="function")]) -> int:
        return int(execute(conn, "select 1 from pg_sleep(0.005)"))

    return app


@asynccontextmanager
async def visiting(app: Any, db: Database) -> AsyncIterator[httpx2.AsyncClient]:
    """Start the application, visit it, and end it: nothing may be lent then."""
    async with db.lifespan(app):
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://site", timeout=PATIENCE) as client:
            yield client
        await until(lambda: counts(db.pool)["lent"] == 0)


Start = Callable[[Coroutine[Any, Any, T]], "asyncio.Task[T]"]


@asynccontextmanager
async def tasks() -> AsyncIterator[Start[Any]]:
    """Give a function that starts tasks, and leave none behind."""
    started: list[asyncio.Task[Any]] = []

    def start(job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        started.append(asyncio.create_task(job))
        return started[-1]

    try:
        yield start
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)


@pytest.fixture
def table(dsn: str, request: pytest.FixtureRequest) -> str:
    """Make an empty table."""
    name = f"starlette_{request.node.name.partition('[')[0][-50:]}"
    with admin(dsn) as connection:
        execute(connection, f"drop table if exists {name}")
        execute(connection, f"create table {name} (n int unique deferrable initially deferred)")
    return name


def size(dsn: str, table: str) -> int:
    """Count what was committed."""
    with admin(dsn) as connection:
        return int(execute(connection, f"select count(*) from {table}"))


def test_the_lifespan_opens_and_closes_the_pool(dsn: str) -> None:
    db = Database(2, 4, dsn, application_name="lifespan")

    async def body() -> None:
        with pytest.raises(PoolClosed, match=r"is not open: give the application lifespan=db.lifespan"):
            async with db.connection():
                raise AssertionError("it was lent before the start")
        for _ in range(2):
            async with db.lifespan(None):
                assert backends(dsn, "lifespan") == 2
                pool = db.pool
            assert pool.closed
            await until(lambda: backends(dsn, "lifespan") == 0)

    run(body)


def test_a_start_that_fails_leaves_no_open_pool(dsn: str) -> None:
    def connect(*args: Any, **options: Any) -> Any:
        if not db.pool.closed and counts(db.pool)["idle"]:
            raise psycopg2.OperationalError("down")
        return psycopg2.connect(*args, **options)

    db = Database(2, 4, dsn, application_name="no start", connect=connect)

    async def body() -> None:
        with pytest.raises(psycopg2.OperationalError, match="down"):
            async with db.lifespan(None):
                raise AssertionError("it has started")
        assert db.pool.closed
        await until(lambda: backends(dsn, "no start") == 0)

    run(body)


def test_what_a_pool_does_not_know_is_refused_before_the_start() -> None:
    with pytest.raises(TypeError, match="max_conn"):
        Database(1, 2, max_conn=3)


def test_200_of_200_requests_are_answered_with_4_connections_and_40_threads(dsn: str) -> None:
    db = Database(4, 4, dsn, timeout=PATIENCE)
    app = site(db)

    async def body() -> tuple[list[int], dict[str, int]]:
        async with visiting(app, db) as client:
            answers = await asyncio.gather(*(client.get("/") for _ in range(200)))
            return [answer.status_code for answer in answers], db.pool.get_stats()

    statuses, stats = run(body)
    assert statuses == [200] * 200
    assert (stats["requests_num"], stats["requests_queued"], stats["requests_errors"]) == (200, 0, 0)


def test_requests_that_wait_take_no_thread(dsn: str) -> None:
    """All threads but one are taken. With generators in threads, nobody could come back."""
    db = Database(1, 1, dsn, timeout=PATIENCE)
    app = site(db)

    async def body() -> list[int]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1
        async with visiting(app, db) as client:
            return [answer.status_code for answer in await asyncio.gather(*(client.get("/") for _ in range(30)))]

    assert run(body) == [200] * 30


def test_begin_and_end_need_none_of_the_frameworks_threads(dsn: str) -> None:
    db, gate = Database(1, 1, dsn), Gate()

    async def body() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1
        async with db.lifespan(None), tasks() as start:
            with gate:
                start(run_in_threadpool(gate.pass_through))
                await until(lambda: gate.arrived == 1)
                async with db.connection():
                    assert counts(db.pool)["lent"] == 1
                assert counts(db.pool)["lent"] == 0

    run(body)


@pytest.mark.parametrize("failing", ["no", "endpoint", "commit"])
def test_the_end_of_the_request_commits_or_rolls_back_before_the_answer(dsn: str, table: str, failing: str) -> None:
    db = Database(1, 2, dsn)
    app = FastAPI()

    @app.get("/")
    def page(conn: Annotated[Any, Depends(db, scope="function")]) -> str:
        for _ in range(2 if failing == "commit" else 1):
            execute(conn, f"insert into {table} values (1)")
        if failing == "endpoint":
            raise HTTPException(404)
        return "done"

    async def body() -> int:
        async with visiting(app, db) as client:
            return (await client.get("/")).status_code

    assert run(body) == {"no": 200, "endpoint": 404, "commit": 500}[failing]
    assert size(dsn, table) == (1 if failing == "no" else 0)


def test_a_starlette_endpoint_borrows_in_a_block(dsn: str, table: str) -> None:
    db = Database(1, 2, dsn)

    async def page(request: Request) -> PlainTextResponse:
        async with db.connection() as conn:
            await run_in_threadpool(execute, conn, f"insert into {table} values (1)")
            if request.url.path == "/fails":
                raise StarletteHTTPException(404)
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", page), Route("/fails", page)], lifespan=db.lifespan)

    async def body() -> list[int]:
        async with visiting(app, db) as client:
            return [(await client.get(path)).status_code for path in ("/fails", "/")]

    assert run(body) == [404, 200]
    assert size(dsn, table) == 1


@pytest.mark.parametrize(
    "options", [{"timeout": 0.05}, {"timeout": 0}, {"timeout": PATIENCE, "max_waiting": 1}], ids=str
)
def test_a_full_pool_answers_503_and_when_to_come_again(dsn: str, options: Any) -> None:
    db = Database(1, 1, dsn, **{"timeout": PATIENCE, "retry_after": 7, **options})
    app = site(db)

    async def body() -> None:
        async with visiting(app, db) as client, tasks() as start:
            async with db.connection():
                if "max_waiting" in options:
                    waiting = start(client.get("/"))
                    await until(lambda: queued(db) == 1)
                refused = await client.get("/")
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "7")
                assert db.pool.get_stats()["requests_errors"] == 1, "operators see it"
            if "max_waiting" in options:
                assert (await waiting).status_code == 200
            assert (await client.get("/")).status_code == 200

    run(body)


def test_while_the_server_is_down_few_requests_connect(own_server: ThrowawayPostgres) -> None:
    connect = Connects()
    db = Database(0, 8, own_server.dsn, timeout=PATIENCE, check_after=0, connect=connect)
    app = site(db)

    async def body() -> Counter[int]:
        async with visiting(app, db) as client, tasks() as start:
            await asyncio.to_thread(own_server.stop)
            visits = [start(client.get("/")) for _ in range(40)]
            await until(lambda: len(connect.failed) > 2)
            await asyncio.to_thread(own_server.start)
            return Counter([(await visit).status_code for visit in visits])

    assert run(body) == {500: len(connect.failed), 200: 40 - len(connect.failed)}
    assert len(connect.failed) < 20


def test_a_pool_that_others_have_emptied_answers_503(dsn: str) -> None:
    db = Database(1, 1, dsn, timeout=0.05)

    async def body() -> None:
        async with db.lifespan(None):
            held = db.pool.getconn()
            with pytest.raises(StarletteHTTPException) as raised:
                async with db.connection():
                    raise AssertionError("it was lent twice")
            assert raised.value.status_code == 503
            db.pool.putconn(held)
            async with db.connection() as conn:
                assert await run_in_threadpool(execute, conn, "select 1") == 1

    run(body)


def test_a_resized_pool_lends_what_it_has(dsn: str) -> None:
    db = Database(1, 1, dsn, timeout=2 * PATIENCE)

    async def body() -> None:
        async with db.lifespan(None), db.connection():
            db.pool.resize(1, 2)
            async with db.connection():
                assert counts(db.pool)["lent"] == 2

    run(body)


def test_one_request_may_hold_two_connections(dsn: str) -> None:
    db = Database(1, 2, dsn)

    async def body() -> None:
        async with db.lifespan(None), db.connection() as first, db.connection() as second:
            assert first is not second

    run(body)


def test_each_event_loop_has_a_queue_of_its_own(dsn: str) -> None:
    db = Database(1, 1, dsn)

    async def body() -> int:
        async with db.lifespan(None), db.connection() as conn:
            return int(await run_in_threadpool(execute, conn, "select 1"))

    assert [run(body), run(body)] == [1, 1]


def by_scope(task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    """Cancel as Starlette's middleware does."""
    scope.cancel()


def by_task(task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    """Cancel as asyncio's time limits and uvicorn's end do."""
    task.cancel()


Cancel = Callable[[asyncio.Task[Any], anyio.CancelScope], None]


@pytest.mark.parametrize("cancel", [by_scope, by_task])
@pytest.mark.parametrize("moment", ["queued", "connecting", "using", "committing"])
def test_a_request_that_is_cancelled_loses_nothing(dsn: str, table: str, moment: str, cancel: Cancel) -> None:
    gate = Gate()

    ended_in = set()

    class Connection(psycopg2.extensions.connection):
        def commit(self) -> None:
            ended_in.add(threading.get_ident())
            if moment == "committing":
                gate.pass_through()
            super().commit()

        def rollback(self) -> None:
            ended_in.add(threading.get_ident())
            super().rollback()

    def connect(*args: Any, **kwargs: Any) -> Any:
        if moment == "connecting":
            gate.pass_through()
        return psycopg2.connect(*args, connection_factory=Connection, **kwargs)

    db = Database(0, 1, dsn, timeout=PATIENCE, max_idle=None, connect=connect)
    used = threading.Event()

    async def request(scope: anyio.CancelScope) -> None:
        with scope:
            async with db.connection() as conn:
                await run_in_threadpool(execute, conn, f"insert into {table} values (1)")
                used.set()
                if moment == "using":
                    await anyio.sleep_forever()

    async def body() -> None:
        async with db.lifespan(None), tasks() as start:
            scope = anyio.CancelScope()
            if moment == "queued":
                async with db.connection():
                    task = start(request(scope))
                    await until(lambda: queued(db) == 1)
                    cancel(task, scope)
                    await asyncio.wait([task])
            elif moment == "using":
                task = start(request(scope))
                await until(used.is_set)
                cancel(task, scope)
            else:
                with gate:
                    task = start(request(scope))
                    await asyncio.to_thread(gate.wait_for)
                    cancel(task, scope)
                    await asyncio.sleep(0.01)
            await asyncio.wait([task])
            await until(lambda: counts(db.pool)["lent"] == counts(db.pool)["opening"] == 0)
            async with db.connection() as conn:
                assert await run_in_threadpool(execute, conn, "select 1") == 1
            assert db.pool.get_stats()["connections_num"] == 1, "the connection came back"

    run(body)
    assert threading.get_ident() not in ended_in, "the network was waited for in the event loop"
    # A commit that had begun is whole.
    assert size(dsn, table) == (1 if moment == "committing" else 0)


def test_a_begin_that_comes_after_its_end_borrows_nothing(dsn: str) -> None:
    """So it is where asyncio cancels a task before its thread has come to anything."""
    with opened(ThreadedConnectionPool(0, 1, dsn)) as pool:
        block = _Block(pool, 0)
        block.end(None)
        assert block.begin() is None
        assert counts(pool)["lent"] == 0
