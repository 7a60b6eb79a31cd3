"""A server that has too many connections: how a pool knows, in all of PostgreSQL's languages, and what it does."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs._core import advance_clock
from pgpool_rs._server_full import is_server_full
from pgpool_rs.testing import PATIENCE, FakeServer
from tests.lib.pools import assert_sound, give_back
from tests.lib.waits import Task, counts, wait_for_waiters, wait_until

HEAD = 'connection to server at "127.0.0.1", port 5432 failed: FATAL:  '

FULL = [
    "sorry, too many clients already",
    "remaining connection slots are reserved for non-replication superuser connections",
    "remaining connection slots are reserved for roles with the SUPERUSER attribute",
    'too many connections for role "web"',
    'too many connections for database "shop"',
    "no more connections allowed (max_client_conn)",
    "client connections exceeded (max_db_client_connections)",
    "client connections exceeded (max_user_client_connections)",
    'number of requested standby connections exceeds "max_wal_senders" (currently 10)',
    "die Anzahl angeforderter Standby-Verbindungen überschreitet »max_wal_senders« (aktuell 10)",
    "tut mir leid, schon zu viele Verbindungen",
    "die verbleibenden Verbindungen sind für Superuser auf Nicht-Replikationsverbindungen reserviert",
    "zu viele Verbindungen von Rolle »web«",
    "lo siento, ya tenemos demasiados clientes",
    "las conexiones restantes están reservadas a superusuarios y no de replicación",
    "demasiadas conexiones para el rol «web»",
    "désolé, trop de clients sont déjà connectés",
    "trop de connexions pour la base de données « shop »",
    "spiacente, troppi client già connessi",
    'troppe connessioni al database "shop"',
    "現在クライアント数が多すぎます",
    'ロール"web"からの接続が多すぎます',
    "უკაცრავად, უკვე მეტისმეტად ბევრი კლიენტია",
    "최대 동시 접속자 수를 초과했습니다.",
    '"shop" 데이터베이스 최대 접속수를 초과했습니다',
    "извините, уже слишком много клиентов",
    'слишком много подключений к БД "shop"',
    "ledsen, för många klienter",
    'för många uppkopplingar till databasen "shop"',
    "вибачте, вже забагато клієнтів",
    'занадто багато підключень до бази даних "shop"',
    "对不起, 已经有太多的客户",
    '由角色"web"发起的连接太多了',
]


@pytest.mark.parametrize("text", FULL)
def test_a_text_of_53300_is_recognized(text: str) -> None:
    assert is_server_full(psycopg2.OperationalError(HEAD + text))


@pytest.mark.parametrize(
    "text",
    [
        'password authentication failed for user "web"',
        'database "shop" does not exist',
        "the database system is starting up",
        "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        "server closed the connection unexpectedly",
    ],
)
def test_any_other_text_is_not(text: str) -> None:
    assert not is_server_full(psycopg2.OperationalError(HEAD + text))


def test_a_code_of_its_own_is_enough_and_an_error_that_cannot_be_read_is_none() -> None:
    class Coded(psycopg2.OperationalError):
        pgcode = "53300"

    class Unreadable(psycopg2.OperationalError):
        def __str__(self) -> str:
            raise ValueError

    assert is_server_full(Coded())
    assert not is_server_full(Unreadable())


# --- what the pool does -----------------------------------------------------------------------------------------------

ERROR = psycopg2.OperationalError(HEAD + FULL[0])


@pytest.mark.parametrize("grow", ["caller", "workers"])
@pytest.mark.parametrize("backoff", [None, (60.0, 60.0)])
def test_a_caller_with_a_timeout_waits_for_a_loan_while_the_server_is_full(
    server: FakeServer, grow: Any, backoff: Any
) -> None:
    pool = ThreadedConnectionPool(0, 3, grow=grow, reconnect_backoff=backoff)
    lent = pool.getconn()
    server.fail("connect", ERROR)
    waiter = Task(pool.getconn, timeout=PATIENCE)
    wait_for_waiters(pool, 1)
    wait_until(lambda: len(server.arguments) == 2 and not counts(pool)["opening"])
    with pytest.raises(psycopg2.OperationalError, match="too many clients"):
        pool.getconn(timeout=0)
    pool.putconn(lent)
    assert waiter.result() is lent
    assert len(server.arguments) == 2, "while others wait, a caller that does not wait is told their error"
    pool.putconn(lent)
    advance_clock(60.0)
    assert_sound(pool, server)


def test_a_waiter_tries_again_while_the_server_is_full(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 3)
    lent = pool.getconn()
    server.fail("connect", ERROR, ERROR)
    got = pool.getconn(timeout=PATIENCE)
    assert len(server.arguments) == 4
    give_back(pool, [lent, got])
    assert_sound(pool, server)


@pytest.mark.parametrize("grow", ["caller", "workers"])
def test_a_caller_gets_the_error_of_a_full_server_if_nothing_is_lent(server: FakeServer, grow: Any) -> None:
    pool = ThreadedConnectionPool(0, 3, grow=grow)
    server.fail("connect", ERROR)
    with pytest.raises(psycopg2.OperationalError, match="too many clients"):
        pool.getconn(timeout=PATIENCE)
    pool.putconn(pool.getconn())
    assert_sound(pool, server)
