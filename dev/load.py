"""Make load: threads that repeat a job, such as the requests of a pool's users, whose outcomes are recorded.

    prepare(server.dsn)
    outcomes: list[Outcome] = []
    with pool_load(pool, outcomes.append):
        ...  # disturb the server
    failed = [outcome for outcome in outcomes if outcome.failure]

A pool may be pgpool_rs's or psycopg2.pool's.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import psycopg2
import psycopg2.errors
from psycopg2 import extensions

ACCOUNTS = 500
PATIENCE = 60.0  # Seconds in which a job ends, whatever the fault was; a longer one counts as hanging.
FAILURE_PAUSE = 0.05  # Seconds that a thread pauses after a failed request.

_IN_TRANSACTION = (
    extensions.TRANSACTION_STATUS_ACTIVE,
    extensions.TRANSACTION_STATUS_INTRANS,
    extensions.TRANSACTION_STATUS_INERROR,
)

Phase = Literal["borrow", "use", "return"]


class WrongAnswerError(Exception):
    """Says that a connection had two borrowers, was lent in a transaction, or gave a wrong answer."""


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """Tells how a request failed."""

    phase: Phase
    """What it was doing: borrowing, using, or giving the connection back (a commit after a good use included)."""
    error: type[Exception]
    sqlstate: str | None
    text: str
    """What the error says, in one line."""

    def __str__(self) -> str:
        return f"{self.phase}: {self.error.__name__}({self.sqlstate or 'no SQLSTATE'}): {self.text}"


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """Tells what became of one request. All times are of time.monotonic()."""

    work: str
    began: float
    lent: float | None
    """When it got its connection, or None if it got none."""
    ended: float
    pid: int | None
    """The server's process behind its connection."""
    failure: Failure | None

    @property
    def seconds(self) -> float:
        """Tell how long it took in all."""
        return self.ended - self.began


@final
@dataclass(frozen=True)
class Work:
    """Names something that is done with a connection, and the errors that it raises on purpose."""

    name: str
    do: Callable[[Any, random.Random], object]
    expects: tuple[type[Exception], ...] = ()


def read(connection: Any, choice: random.Random) -> None:
    """Read one account in a short transaction."""
    account = choice.randrange(ACCOUNTS)
    _compare(_execute(connection, "select id from load_accounts where id = %s", account), account)
    connection.commit()


def write(connection: Any, choice: random.Random) -> None:
    """Write one account in a short transaction."""
    account = choice.randrange(ACCOUNTS)
    answer = _execute(connection, "update load_accounts set visits = visits + 1 where id = %s returning id", account)
    _compare(answer, account)
    connection.commit()


def linger(connection: Any, choice: random.Random) -> None:
    """Let the server work for up to 40 ms."""
    _execute(connection, "select pg_sleep(%s)", choice.uniform(0.0, 0.04))
    connection.commit()


def leave_open(connection: Any, choice: random.Random) -> None:
    """End in the midst of a transaction."""
    account = choice.randrange(ACCOUNTS)
    _compare(_execute(connection, "select id from load_accounts where id = %s", account), account)


def leave_failed(connection: Any, _: random.Random) -> None:
    """End in a failed transaction, with an error."""
    _execute(connection, "select 1 / %s", 0)


READ = Work("read", read)
WRITE = Work("write", write)
LINGER = Work("linger", linger)
LEAVE_OPEN = Work("leave open", leave_open)
LEAVE_FAILED = Work("leave failed", leave_failed, (psycopg2.errors.DivisionByZero,))
MIXED = (READ, READ, READ, WRITE, WRITE, LINGER, LEAVE_OPEN, LEAVE_FAILED)
"""What a thread chooses from, each with the same chance."""

Way = Callable[[Any], AbstractContextManager[Any]]


def by_block(pool: Any) -> AbstractContextManager[Any]:
    """Borrow as pgpool_rs's users do, in a `connection()` block, which commits."""
    block: AbstractContextManager[Any] = pool.connection()
    return block


@contextmanager
def by_pair(pool: Any) -> Iterator[Any]:
    """Borrow as psycopg2.pool's users do, with getconn and putconn."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


def prepare(dsn: str) -> None:
    """Make the table that the work is done on, anew."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("drop table if exists load_accounts")
            cursor.execute("create table load_accounts (id int primary key, visits int not null default 0)")
            cursor.execute("insert into load_accounts select generate_series(0, %s)", [ACCOUNTS - 1])
    finally:
        connection.close()


Job = Callable[[], float | None]
"""Does something once; returns the seconds to pause before the next time, if any."""


@final
class Load:
    """Owns threads, each of which repeats a job of its own until stop()."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Prepare one thread for each job. They start with start() or with the context."""
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._rest_wanted = False
        self._resting = 0
        self._error: BaseException | None = None
        self._gate = threading.Barrier(len(jobs) + 1)
        self._threads = [
            threading.Thread(target=self._run, args=[job], name=f"load {number}", daemon=True)
            for number, job in enumerate(jobs)
        ]

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all threads. They begin to work when the last of them runs."""
        for thread in self._threads:
            thread.start()
        self._gate.wait()

    def stop(self) -> None:
        """Let every thread end its job and leave. Raises AssertionError if one hangs, or the error that ended one."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        hanging = [thread.name for thread in self._threads if thread.is_alive()]
        if hanging:
            raise AssertionError(f"these threads hang: {', '.join(hanging)}")
        if self._error is not None:
            raise self._error

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Start no job during this block, which begins when every thread has ended its own."""
        with self._changed:
            self._rest_wanted = True
            if not self._changed.wait_for(lambda: self._resting == len(self._threads), PATIENCE):
                raise AssertionError("a job hangs")
        try:
            yield
        finally:
            with self._changed:
                self._rest_wanted = False
                self._changed.notify_all()

    def _run(self, job: Job) -> None:
        self._gate.wait()
        try:
            while not self._stopped.is_set():
                pause = job()
                if pause:
                    self._stopped.wait(pause)
                if self._rest_wanted:
                    self._rest()
        except BaseException as error:  # noqa: BLE001  stop() raises it
            self._error = error

    def _rest(self) -> None:
        with self._changed:
            self._resting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._rest_wanted or self._stopped.is_set())
            self._resting -= 1


def pool_load(
    pool: Any,
    record: Callable[[Outcome], object],
    *,
    threads: int = 16,
    works: Sequence[Work] = MIXED,
    ways: Sequence[Way] | None = None,
    pause: float = 0.004,
    seed: int = 0,
) -> Load:
    """Make threads that use a pool. Each passes its outcomes to `record`.

    The threads take turns at the `ways`: by default blocks and pairs, or pairs alone if the pool has no blocks. Between
    two requests a thread pauses for `pause` seconds on average, or for FAILURE_PAUSE after a failure.
    """
    chosen = ways or ((by_block, by_pair) if hasattr(pool, "connection") else (by_pair,))

    def job(number: int) -> Job:
        choice = random.Random(f"{seed} {number}")
        way = chosen[number % len(chosen)]

        def use() -> float:
            outcome = request(pool, way, choice.choice(works), choice)
            record(outcome)
            return FAILURE_PAUSE if outcome.failure else choice.uniform(0.0, 2 * pause)

        return use

    return Load([job(number) for number in range(threads)])


@final
@dataclass(frozen=True, slots=True)
class Throughput:
    """Tells how often threads did their jobs."""

    rate: float
    """Jobs in a second, all threads together."""
    spread: float
    """The busiest thread's jobs, divided by the idlest's."""


def throughput(jobs: Sequence[Callable[[], object]], seconds: float) -> Throughput:
    """Repeat each job in a thread of its own, without pause, and count for so many seconds how often it is done.

    If no job is done in that time, go on until one is.
    """
    counts = [0] * len(jobs)

    def counted(number: int, job: Callable[[], object]) -> Job:
        def count() -> None:
            job()
            counts[number] += 1

        return count

    with Load([counted(number, job) for number, job in enumerate(jobs)]):
        before, began = counts.copy(), time.perf_counter()
        time.sleep(seconds)
        while counts == before:
            time.sleep(seconds)
        after, ended = counts.copy(), time.perf_counter()
    done = [late - early for early, late in zip(before, after, strict=True)]
    return Throughput(sum(done) / (ended - began), max(done) / max(1, min(done)))


def request(pool: Any, way: Way, work: Work, choice: random.Random) -> Outcome:
    """Borrow a connection, do the work, give it back; tell what became of it. No Exception comes out."""
    began = time.monotonic()
    phase: Phase = "borrow"
    lent: float | None = None
    pid: int | None = None
    failure: Failure | None = None
    try:
        with way(pool) as connection:
            lent = time.monotonic()
            phase = "use"
            pid = connection.info.backend_pid
            with _alone_with(connection):
                work.do(connection, choice)
            phase = "return"
    except work.expects:
        pass
    except Exception as error:  # noqa: BLE001  what it was is for the record's reader to judge
        sqlstate = error.pgcode if isinstance(error, psycopg2.Error) else None
        failure = Failure(phase, type(error), sqlstate, " ".join(str(error).split()))
    return Outcome(work.name, began, lent, time.monotonic(), pid, failure)


_users: dict[int, object] = {}


@contextmanager
def _alone_with(connection: Any) -> Iterator[None]:
    """Raise WrongAnswerError if another thread uses this connection now, or has left a transaction open."""
    user = object()
    if _users.setdefault(id(connection), user) is not user:
        raise WrongAnswerError("it is lent to another thread")
    try:
        if connection.info.transaction_status in _IN_TRANSACTION:
            raise WrongAnswerError("it was lent in a transaction")
        yield
    finally:
        del _users[id(connection)]


def _execute(connection: Any, query: str, parameter: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, [parameter])
        row = cursor.fetchone()
        return row[0] if row else None


def _compare(answer: object, asked: object) -> None:
    if answer != asked:
        raise WrongAnswerError(f"asked for account {asked}, and got {answer}")
