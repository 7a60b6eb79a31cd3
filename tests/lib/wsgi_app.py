"""A web application with one pool, made where this is imported: before the fork, in a server that loads it first.

What it needs to know comes in the environment: `APP_DSN`, `APP_NAME` (its sessions are called that, with the process id
behind it), `APP_SOCKET` and `APP_BUSY`. A thread of the process that imported it, of which a fork makes no copy,
answers on the Unix socket APP_SOCKET whether what was opened before the fork still lives; with APP_BUSY=1 others use
the pool there all the time.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

import psycopg2

from pgpool_rs import PoolError, ThreadedConnectionPool
from tests.lib.programs import SHOW_STACKS
from tests.lib.statements import execute

MOST = 3
NAME = os.environ["APP_NAME"]
IMPORTED_BY = os.getpid()
busy: list[threading.Thread] = []
resting = threading.Event()

faulthandler.register(SHOW_STACKS, all_threads=True)


def connect(*args: Any, **kwargs: Any) -> Any:
    """Open a connection that bears this process's name."""
    return psycopg2.connect(*args, **kwargs, application_name=f"{NAME} {os.getpid()}")


pool = ThreadedConnectionPool(
    1, MOST, os.environ["APP_DSN"], timeout=10, max_idle=0.2, background=True, check_after=0.01, connect=connect
)
# Lent before the fork, in a transaction that goes on.
lent = pool.getconn()
execute(lent, "create temp table work as select 7 as n")
# Idle before the fork.
pool.putconn(pool.getconn())


def say_what_lives(listener: socket.socket) -> None:
    """Answer each caller. `rest` lets the busy threads end: libpq bears no connect at a process's end."""
    while True:
        caller, _ = listener.accept()
        with caller:
            if caller.recv(10) == b"rest":
                resting.set()
                for thread in busy:
                    thread.join(10)
            try:
                with pool.connection() as connection:
                    answer = {
                        "work": execute(lent, "select n from work"),
                        "lent": execute(lent, "select pg_backend_pid()"),
                    }
                    answer["other"] = execute(connection, "select pg_backend_pid()")
            except Exception as error:
                answer = {"error": repr(error)}
            caller.sendall(json.dumps(answer).encode())
            caller.shutdown(socket.SHUT_WR)  # a worker that is being forked may hold a copy of it open


def be_busy() -> None:
    """Use the pool without a pause, in all its ways."""
    while not resting.is_set():
        for close in (False, True):
            connection = pool.getconn()
            execute(connection, "select 1")
            pool.putconn(connection, close=close)


def begin() -> None:
    """Start the threads that no fork copies."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ["APP_SOCKET"])
    listener.listen()
    threading.Thread(target=say_what_lives, args=(listener,), daemon=True).start()
    if os.environ["APP_BUSY"] == "1":
        busy.extend(threading.Thread(target=be_busy, daemon=True) for _ in range(4))
        for thread in busy:
            thread.start()


def answer_query() -> dict[str, Any]:
    """Use a connection as most requests do."""
    with pool.connection() as connection:
        backend = execute(connection, "select pg_backend_pid() from pg_sleep(0.005)")
    return {"backend": backend}


def answer_open() -> dict[str, Any]:
    """Return a connection with its transaction open."""
    connection = pool.getconn()
    backend = execute(connection, "select pg_backend_pid()")
    pool.putconn(connection)
    return {"backend": backend}


def answer_inherited() -> dict[str, Any]:
    """Return twice what was lent before the fork, which this process's pool forgets once and must not know then."""
    refused: list[str | None] = []
    for _ in range(2):
        try:
            pool.putconn(lent)
            refused.append(None)
        except PoolError as error:
            refused.append(type(error).__name__)
    return {"refused": refused, "statistics": pool.get_stats()}


ANSWERS: dict[str, Callable[[], dict[str, Any]]] = {
    "/query": answer_query,
    "/open": answer_open,
    "/inherited": answer_inherited,
}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request in JSON."""
    answer: dict[str, Any] = {"process": os.getpid(), "thread": threading.get_ident()}
    status = "200 OK"
    try:
        answer.update(ANSWERS[environ["PATH_INFO"]]())
    except Exception as error:
        status = "500 Internal Server Error"
        answer["error"] = repr(error)
    body = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


begin()
