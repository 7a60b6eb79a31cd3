"""What importing the package says and brings."""

from __future__ import annotations

from tests.lib.programs import run_program


def test_without_psycopg2_the_import_error_says_what_to_install() -> None:
    output = run_program("""
import sys

sys.modules["psycopg2"] = None
try:
    import pgpool_rs
except ImportError as error:
    print(error)
""")
    assert "install psycopg2-binary (nothing to compile) or psycopg2 (compiled here)" in output


def test_importing_imports_no_server_tools_and_starts_no_thread() -> None:
    run_program("""
import sys
import threading

import pgpool_rs

assert threading.active_count() == 1
assert not {"asyncio", "gevent", "psycopg2.extras"} & set(sys.modules)
""")


def test_the_module_can_take_the_place_of_psycopg2_pool() -> None:
    run_program("""
import sys

import pgpool_rs.pool

sys.modules["psycopg2.pool"] = pgpool_rs.pool
from psycopg2.pool import PoolError, SimpleConnectionPool, ThreadedConnectionPool

assert ThreadedConnectionPool is pgpool_rs.ThreadedConnectionPool
assert PoolError is pgpool_rs.PoolError
""")
