"""The end of the interpreter, with the pool in the midst of something."""

from __future__ import annotations

import pytest

from tests.lib.programs import run_program

WORKERS = """
import threading
import time

import psycopg2

from pgpool_rs.testing import INTRANS, FakeServer
from pgpool_rs import PoolError, ThreadedConnectionPool

server = FakeServer()
psycopg2.connect = server.connect
begun = threading.Semaphore(0)
"""

AT_WORK = {
    "lending": """
pool = ThreadedConnectionPool(2, 8)
def work():
    pool.putconn(pool.getconn())
""",
    "rolling back": """
server.on("rollback", lambda _: time.sleep(0.002))
pool = ThreadedConnectionPool(2, 8)
def work():
    connection = pool.getconn()
    connection.status = INTRANS
    pool.putconn(connection)
""",
    "connecting": """
server.on("connect", lambda _: time.sleep(0.002))
pool = ThreadedConnectionPool(0, 8)
def work():
    pool.putconn(pool.getconn())
""",
    "waiting": """
pool = ThreadedConnectionPool(1, 1, timeout=0.002)
held = pool.getconn()
def work():
    pool.getconn()
""",
}

END = """
def work_for_ever():
    while True:
        begun.release()
        try:
            work()
        except PoolError:
            pass

for _ in range(6):
    threading.Thread(target=work_for_ever, daemon=True).start()
for _ in range(60):
    begun.acquire()

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.05)  # the threads go on while the interpreter ends

slow = Slow()
"""


@pytest.mark.parametrize("doing", AT_WORK)
def test_a_process_ends_well_with_daemon_threads_at_work_in_the_pool(doing: str) -> None:
    for _ in range(3):
        assert run_program(WORKERS + AT_WORK[doing] + END) == ""


def test_a_proxy_that_puts_back_when_the_interpreter_ends_does_no_harm() -> None:
    run_program("""
import sys

import psycopg2

import pgpool_rs
from pgpool_rs.testing import BareFakeConnection, FakeServer

psycopg2.connect = FakeServer(BareFakeConnection).connect

class Proxy:
    def __init__(self, pool):
        self.pool = pool
        self.connection = pool.getconn()

    def __del__(self):
        self.pool.putconn(self.connection)

sys.proxy = Proxy(pgpool_rs.ThreadedConnectionPool(1, 2))
""")


def test_a_pool_error_is_a_pool_error_until_the_very_end() -> None:
    output = run_program("""
import os
import sys

import psycopg2

from pgpool_rs.testing import FakeServer
from pgpool_rs import PoolError, ThreadedConnectionPool

psycopg2.connect = FakeServer().connect

class App:
    def __init__(self):
        self.pool = ThreadedConnectionPool(1, 2)
        self.pool.closeall()
        self.myself = self

    def __del__(self, PoolError=PoolError, write=os.write):
        try:
            self.pool.closeall()
        except PoolError as error:
            write(1, f"{error}\\n".encode())

sys.modules["app"] = App()
""")
    assert output == "connection pool is closed\n"


# What some of them do in a thread or by a query cannot be done any more.
OPTIONS = [
    "check=check_query, check_after=0",
    "reset='discard'",
    "grow='workers', timeout=1",
    "open=False, open_workers=2",
    "max_idle=60, limit=SharedLimit(9)",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_an_object_that_uses_pools_when_the_interpreter_ends_is_served(dsn: str, options: str) -> None:
    output = run_program(
        f"""
import os
import sys

from pgpool_rs import SharedLimit, ThreadedConnectionPool, check_query

def make(SharedLimit=SharedLimit, check_query=check_query):
    return ThreadedConnectionPool(1, 2, {dsn!r}, {options})

class App:
    def __init__(self):
        self.pool = make()

    def __del__(self, make=make, write=os.write):
        for pool in (self.pool, make()):
            pool.open()
            lent = [pool.getconn(), pool.getconn()]
            for connection in lent:
                pool.putconn(connection)
            pool.closeall()
        write(1, b"served")

sys.modules["app"] = App()
""",
        timeout=60,
    )
    assert output == "served"
