"""The doctor behind a PgBouncer, which may have to be downloaded: `pytest dev`."""

from __future__ import annotations

import json
from typing import Any

import psycopg2
import pytest

from dev.servers.pgbouncer import Mode, PgBouncer
from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs._command import main

pytestmark = pytest.mark.timeout(120)


def found(capsys: pytest.CaptureFixture[str], address: dict[str, Any], *words: str) -> dict[str, Any]:
    main(["doctor", psycopg2.extensions.make_dsn(**address), "--json", *words])
    return {finding["about"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_doctor_asks_the_console_for_mode_and_limits(
    mode: Mode, server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with PgBouncer(server, mode, {"max_client_conn": "150", "client_idle_timeout": "60"}) as bouncer:
        among = found(capsys, bouncer.dsn_kwargs, "--maxconn", "76")
    assert among["pooler"]["read"].startswith("PgBouncer 1.")
    assert among["pooler"]["read"].endswith(f", pool_mode {mode}")
    assert among["pooler"]["severity"] == ("ok" if mode == "session" else "warning")
    assert (among["clients"]["severity"], among["idle clients"]["severity"]) == ("warning", "warning")
    assert "server" not in among


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_two_clients_find_out_the_mode_where_the_console_is_closed(
    mode: Mode, server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> dict[str, str]:
        raise psycopg2.OperationalError("not allowed")

    monkeypatch.setattr("pgpool_rs._command.facts._console", closed)
    with PgBouncer(server, mode) as bouncer:
        assert found(capsys, bouncer.dsn_kwargs)["pooler"]["read"] == f"a pooler, pool_mode {mode}"


def test_a_server_without_a_pooler_has_none(server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]) -> None:
    assert "pooler" not in found(capsys, server.dsn_kwargs)
