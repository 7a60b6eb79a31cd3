"""The usage patterns of the documentation run as they stand there, on the real server.

The programs in documented_patterns/ are the documentation's own: only the import and the connection arguments were
changed. An empty dsn takes the address from the environment. Each runs a second time with psycopg2.pool imported, so
that what is expected here is what psycopg2.pool does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.pool
import pytest

PROGRAMS = Path(__file__).parent / "documented_patterns"

SCHEMA = """
    create table users (id serial primary key, name text not null);
    create table logs (message text not null, level text);
    create table profiles (user_id int not null references users, bio text);
    insert into users (name) values ('Ada'), ('Grace'), ('Edsger');
"""

Run = Callable[[str], tuple[list[str], str]]
Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def query(dsn: str) -> Query:
    """Make a database with the tables that the programs use; run queries in it."""
    with closing(psycopg2.connect(dsn)) as admin:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("drop database if exists patterns with (force)")
            cursor.execute("create database patterns")

    def ask(text: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(dsn, dbname="patterns")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(text)
                return cursor.fetchall() if cursor.description else []

    ask(SCHEMA)
    return ask


@pytest.fixture
def run(dsn: str, query: Query, pool_module: ModuleType) -> Run:
    """Run a program with one module or the other; give its lines and what it wrote to standard error."""

    def run(name: str) -> tuple[list[str], str]:
        source = (PROGRAMS / name).read_text()
        assert source.count("from pgpool_rs import") == 1
        if pool_module is psycopg2.pool:
            source = source.replace("from pgpool_rs import", "from psycopg2.pool import")
        address = psycopg2.extensions.parse_dsn(dsn)
        environment = {
            **os.environ,
            "PGHOST": address["host"],
            "PGPORT": address["port"],
            "PGUSER": address["user"],
            "PGDATABASE": "patterns",
            "PGGSSENCMODE": address["gssencmode"],
        }
        finished = subprocess.run(
            [sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.splitlines(), finished.stderr

    return run


def test_a_simple_pool(run: Run, query: Query) -> None:
    assert run("simple.py") == (["Total users: 3"], "")
    assert query("select message, level from logs") == [("User query", None)]


def test_threaded_workers(run: Run) -> None:
    lines, errors = run("threaded.py")
    assert errors == ""
    assert lines[-1] == "All workers completed"
    # Threads print through one another: a line may begin before the one before it has ended.
    said = re.findall(r"Worker \d (?:got connection|completed: \d|returned connection)", "\n".join(lines[:-1]))
    assert sorted(said) == sorted(
        f"Worker {number} {what}"
        for number in range(5)
        for what in ("got connection", f"completed: {number}", "returned connection")
    )


def test_a_managed_pool(run: Run, query: Query) -> None:
    lines, errors = run("managed.py")
    assert lines == ["User: Ada", "User: Grace", "User: Edsger", "Inserted 1 rows"]
    assert "error" not in errors.lower()
    assert errors.count("Connection acquired from pool") == errors.count("Connection returned to pool") == 3
    assert errors.rstrip().endswith("Pool closed")
    assert query("select message, level from logs") == [("Application started", "INFO")]
    assert query("select name, bio from users join profiles on user_id = id") == [("Alice", "Bio")]


def test_a_monitored_pool(run: Run) -> None:
    """Ten threads and six connections: threads that come too late get a PoolError, as the program lets them."""
    lines, errors = run("monitored.py")
    stats, health = lines
    numbers = {name: int(number) for name, number in re.findall(r"'(\w+)': (\d+)", stats)}
    refused = numbers["active_connections"]
    assert refused <= 4
    assert numbers == {
        "connections_created": 0,
        "connections_borrowed": 10,
        "connections_returned": 10 - refused,
        "active_connections": refused,
    }
    # Threads write their tracebacks through one another, so that no more can be said of these.
    assert ("connection pool exhausted" in errors) == (refused > 0)
    assert health.startswith("Health check: Pool healthy - PostgreSQL")


def test_a_resilient_pool(run: Run) -> None:
    assert run("resilient.py") == (["Query result: (1, 'Ada')"], "")
