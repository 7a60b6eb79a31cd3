"""No password in a repr, a log line or an error of the pool's."""

from __future__ import annotations

import logging
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolTimeout, ThreadedConnectionPool

SECRET = "p@ss/w0rd#x"
PARTS = (SECRET, "ss/w0rd", "w0rd#x", "ss/")


def said(*texts: object) -> None:
    """Assert that nothing that was said has a part of the secret in it."""
    for text in map(str, texts):
        assert not [part for part in PARTS if part in text], text


@pytest.mark.parametrize(
    "wrong",
    [
        f"postgresql://app:{SECRET}@127.0.0.1:1/db",
        f"postgresql://app:{SECRET}@nowhere.invalid/db",
        f"host=127.0.0.1 port=1 user=app password={SECRET} nonsense",
        f"host=127.0.0.1 port=1 password='{SECRET}",
        f"host=127.0.0.1 port={SECRET}",
    ],
)
def test_a_failed_connect_is_not_repeated_to_others_where_it_may_quote_the_password(wrong: str, dsn: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, dsn)
    connection = pool.getconn()
    pool.maxconn = 2
    pool._args = (wrong,)
    with pytest.raises(psycopg2.Error):
        pool.getconn()
    pool.maxconn = 1
    with pytest.raises(PoolTimeout, match="last connect error") as raised:
        pool.getconn(timeout=0.01)
    said(raised.value, repr(raised.value), repr(pool))
    pool.putconn(connection)
    pool.closeall()


def test_what_the_server_says_is_repeated(dsn: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, dsn)
    pool.getconn()
    pool._kwargs["dbname"] = "nowhere"
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    pool.maxconn = 1
    with pytest.raises(PoolTimeout, match='database "nowhere" does not exist'):
        pool.getconn(timeout=0.01)
    pool.closeall()


def test_neither_logs_nor_reprs_have_the_password(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pool: Any = ThreadedConnectionPool(1, 1, dsn, password=SECRET)
    connection = pool.getconn()
    connection.cursor().execute("SELECT 1")
    other = psycopg2.connect(dsn)
    other.cursor().execute("SELECT pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))
    other.close()
    pool.putconn(connection)
    assert caplog.records, "a failed rollback is logged"
    said(repr(pool), repr(pool._pool), repr(pool._used), caplog.text)
    pool.closeall()
