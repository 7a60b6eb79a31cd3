"""Which errors of a connect say that the server has too many connections, in all languages that PostgreSQL speaks."""

from __future__ import annotations

import psycopg2
import pytest

from pgpool_rs._server_full import is_server_full

HEAD = 'connection to server at "127.0.0.1", port 5432 failed: FATAL:  '

FULL = [
    "sorry, too many clients already",
    "remaining connection slots are reserved for non-replication superuser connections",
    "remaining connection slots are reserved for roles with the SUPERUSER attribute",
    'too many connections for role "web"',
    'too many connections for database "shop"',
    "no more connections allowed (max_client_conn)",
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
