"""The PgBouncer of the trials: `pytest dev`. It is not part of `make test`, since it may have to be downloaded."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from dev.servers import pgbouncer
from dev.servers.pgbouncer import Mode, PgBouncer
from dev.servers.postgres import PostgresError, ThrowawayPostgres

pytestmark = pytest.mark.timeout(120)


def ask(connection: Any, query: str) -> Any:
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("pgbouncer_*"))


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_it_leads_to_its_server_and_leaves_nothing_behind(server: ThrowawayPostgres, mode: Mode) -> None:
    before = folders()
    with PgBouncer(server, mode) as bouncer, closing(psycopg2.connect(**bouncer.dsn_kwargs)) as connection:
        assert ask(connection, "select inet_server_port()") == server.port
        assert {pool["pool_mode"] for pool in bouncer.show("POOLS") if pool["database"] == "postgres"} == {mode}
        pid = bouncer.pid
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    assert folders() <= before


def test_in_transaction_mode_clients_share_a_session_and_in_session_mode_they_do_not(server: ThrowawayPostgres) -> None:
    for mode, number in (("transaction", 1), ("session", 2)):
        with PgBouncer(server, mode) as bouncer:  # type: ignore[arg-type]
            clients = [psycopg2.connect(**bouncer.dsn_kwargs) for _ in range(2)]
            assert len({ask(client, "select pg_backend_pid()") for client in clients}) == number
            for client in clients:
                client.close()


def test_its_clients_can_be_counted_by_their_name(server: ThrowawayPostgres) -> None:
    with PgBouncer(server, "transaction") as bouncer:
        clients = [psycopg2.connect(**bouncer.dsn_kwargs, application_name="counted") for _ in range(3)]
        assert [client["application_name"] for client in bouncer.show("CLIENTS")].count("counted") == 3
        for client in clients:
            client.close()


@pytest.mark.parametrize("end", [PgBouncer.stop, PgBouncer.kill], ids=["stopped", "killed"])
def test_it_is_gone_until_it_is_started_again_on_the_same_port(server: ThrowawayPostgres, end: Any) -> None:
    with PgBouncer(server, "session") as bouncer:
        port = bouncer.port
        client = psycopg2.connect(**bouncer.dsn_kwargs)
        end(bouncer)
        assert bouncer.pid is None
        with pytest.raises((psycopg2.OperationalError, psycopg2.InterfaceError)):
            ask(client, "select 1")
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            psycopg2.connect(**bouncer.dsn_kwargs)
        bouncer.start()
        bouncer.start()
        assert bouncer.port == port
        with closing(psycopg2.connect(**bouncer.dsn_kwargs)) as connection:
            assert ask(connection, "select 1") == 1


def test_a_setting_that_it_refuses_is_reported_with_its_log(server: ThrowawayPostgres) -> None:
    before = folders()
    with pytest.raises(PostgresError, match="auth_type"):
        PgBouncer(server, "session", {"auth_type": "nonsense"}).start()
    assert folders() <= before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another account, which may not reach the program")
def test_a_program_in_a_closed_folder_is_usable(server: ThrowawayPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgbouncer, "is_open_to_others", lambda _: False)
    with PgBouncer(server, "session") as bouncer, closing(psycopg2.connect(**bouncer.dsn_kwargs)) as connection:
        assert ask(connection, "select 1") == 1
