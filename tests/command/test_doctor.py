from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest

from dev.servers.postgres import ThrowawayPostgres
from dev.servers.standby import ask
from pgpool_rs._command import main
from pgpool_rs._command.doctor import Plan, findings
from pgpool_rs._command.facts import Facts

MAX_CONNECTIONS, RESERVED, RESERVED_FOR_SUPERUSERS = 60, 4, 3
SECRET = "open-sesame"
# Everything but the numbers of sessions is as it should be.
WELL = (
    "connect_timeout=5 keepalives_idle=30 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=15000 "
    "gssencmode=disable options='-c idle_in_transaction_session_timeout=60000'"
)


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayPostgres]:
    with ThrowawayPostgres(max_connections=MAX_CONNECTIONS, settings={"reserved_connections": str(RESERVED)}) as server:
        yield server


@contextmanager
def role(server: ThrowawayPostgres, *settings: str) -> Iterator[str]:
    """Make a role, and give the string that connects as it."""
    for statement in ("CREATE ROLE shop LOGIN", *settings):
        ask(server, statement)
    try:
        yield f"{server.dsn} user=shop password={SECRET} {WELL}"
    finally:
        ask(server, "DROP ROLE shop")


def found(capsys: pytest.CaptureFixture[str], dsn: str, *words: str) -> dict[str, Any]:
    """Give the findings by what they are about."""
    status = main(["doctor", dsn, "--json", *words])
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    answer = json.loads(captured.out)
    assert status == (answer["severity"] != "ok")
    assert answer["severity"] in {finding["severity"] for finding in answer["findings"]}
    return {finding["about"]: finding for finding in answer["findings"]}


def of(severity: str, among: dict[str, Any]) -> list[str]:
    return [about for about, finding in among.items() if finding["severity"] == severity]


def test_a_server_with_room_and_a_careful_connection_string_are_well(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with role(server) as dsn:
        among = found(capsys, dsn)
        assert {finding["severity"] for finding in among.values()} == {"ok"}, among
        assert all(finding["advice"] == "" for finding in among.values())
        assert main(["doctor", dsn]) == 0
        assert capsys.readouterr().out.startswith(f"127.0.0.1, port {server.port}, database postgres, role shop; Post")


@pytest.mark.parametrize(("maxconn", "severity"), [(26, "ok"), (27, "warning"), (53, "warning"), (54, "error")])
def test_a_rolling_deploy_needs_twice_what_is_left_after_reserved_slots(
    maxconn: int, severity: str, server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with role(server) as dsn, closing(psycopg2.connect(server.dsn)):
        finding = found(capsys, dsn, "--maxconn", str(maxconn))["server"]
    assert finding["severity"] == severity
    left = MAX_CONNECTIONS - RESERVED - RESERVED_FOR_SUPERUSERS
    assert finding["read"].startswith(f"{left} sessions (max_connections {MAX_CONNECTIONS}, 7 reserved for others), ")
    # The doctor's and the test's own at least, which the role may count without seeing what they do.
    assert int(finding["read"].split(" open now")[0].split()[-1]) >= 2
    assert finding["read"].endswith(f"1 x 1 x {maxconn} = {maxconn}, in a rolling deploy {2 * maxconn}")
    assert ("set maxconn to 26 and a timeout" in finding["advice"]) == (severity != "ok")


def test_hosts_and_processes_multiply(server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]) -> None:
    with role(server) as dsn:
        plan = ("--hosts", "2", "--processes", "3")
        assert found(capsys, dsn, *plan, "--maxconn", "4")["server"]["severity"] == "ok"
        finding = found(capsys, dsn, *plan, "--maxconn", "5")["server"]
        assert (finding["severity"], finding["advice"]) == (
            "warning",
            "Raise the limit, or set maxconn to 4 and a timeout.",
        )
        many = found(capsys, dsn, "--processes", "60", "--maxconn", "1")["server"]
        assert (many["severity"], many["advice"]) == ("error", "Raise the limit, or put PgBouncer before the server.")


def test_a_host_limit_holds_in_a_deploy_too(server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]) -> None:
    with role(server) as dsn:
        plan = ("--hosts", "2", "--processes", "60", "--maxconn", "2", "--minconn", "1", "--host-limit")
        well = found(capsys, dsn, *plan, "20")
        assert (well["server"]["severity"], well["host limit"]["severity"]) == ("ok", "error")
        assert well["server"]["read"].endswith("2 x (20 or 60 x 2) = 40, in a rolling deploy 40")
        finding = found(capsys, dsn, *plan, "90")["server"]
        assert (finding["severity"], finding["advice"]) == ("error", "Raise the limit, or set the host limit to 26.")
        few = found(capsys, dsn, "--processes", "6", "--maxconn", "4", "--host-limit", "30")["server"]
        assert few["read"].endswith("1 x (30 or 6 x 4) = 24, in a rolling deploy 30")


@pytest.mark.parametrize(("minconn", "severity"), [(0, "ok"), (2, "ok"), (3, "warning"), (5, "warning"), (6, "error")])
def test_what_processes_keep_must_fit_into_the_host_limit(
    minconn: int, severity: str, server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with role(server) as dsn:
        plan = ("--processes", "4", "--host-limit", "20", "--minconn", str(minconn))
        finding = found(capsys, dsn, *plan)["host limit"]
    assert finding["severity"] == severity
    read = f"20 connections; processes x minconn: 4 x {minconn} = {4 * minconn}, in a rolling deploy {8 * minconn}"
    assert finding["read"] == read
    assert ("set minconn to 2" in finding["advice"]) == (severity != "ok")


def test_a_role_that_may_use_reserved_connections_has_more(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with role(server, "GRANT pg_use_reserved_connections TO shop") as dsn:
        assert found(capsys, dsn)["server"]["read"].startswith(f"{MAX_CONNECTIONS - RESERVED_FOR_SUPERUSERS} sessions")
        # The server lets it in where the reserved slots begin.
    left = MAX_CONNECTIONS - RESERVED - RESERVED_FOR_SUPERUSERS
    with role(server) as dsn:
        held = []
        try:
            with pytest.raises(psycopg2.OperationalError, match="remaining connection slots are reserved"):
                while True:
                    held.append(psycopg2.connect(dsn))
            assert len(held) == left
            assert main(["doctor", dsn]) == 1
            assert "\nThe limit is reached: look into pg_stat_activity" in capsys.readouterr().err
        finally:
            for connection in held:
                connection.close()


def test_limits_of_the_role_and_of_the_database_are_compared(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        with role(server, "ALTER ROLE shop CONNECTION LIMIT 15", "ALTER DATABASE postgres CONNECTION LIMIT 9") as dsn:
            among = found(capsys, dsn)
    finally:
        ask(server, "ALTER DATABASE postgres CONNECTION LIMIT -1")
    assert (of("warning", among), of("error", among)) == (["role"], ["database"])
    assert among["role"]["read"].startswith("CONNECTION LIMIT 15; ")
    assert among["database"]["read"].startswith("CONNECTION LIMIT 9; ")


def test_a_superuser_is_told_to_leave_reserved_slots_alone(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(server, "ALTER ROLE postgres CONNECTION LIMIT 1")
    among = found(capsys, f"{server.dsn} {WELL}")
    ask(server, "ALTER ROLE postgres CONNECTION LIMIT -1")
    assert of("warning", among) == ["superuser"]
    assert among["server"]["read"].startswith(f"{MAX_CONNECTIONS} sessions ")
    assert among["role"]["read"] == "CONNECTION LIMIT 1, which a superuser need not keep"


def test_the_server_must_not_end_idle_sessions_before_the_pool(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with role(server, "ALTER ROLE shop SET idle_session_timeout = '100s'") as dsn:
        among = found(capsys, dsn)
        assert of("warning", among) == ["idle sessions"]
        assert among["idle sessions"]["advice"] == "Set max_idle below 100, and minconn to 0."
        assert found(capsys, dsn, "--max-idle", "99")["idle sessions"]["severity"] == "ok"


@pytest.mark.parametrize(
    ("changes", "about", "read"),
    [
        ("options=''", "idle in transaction", "idle_in_transaction_session_timeout=0: "),
        ("connect_timeout=0", "connect_timeout", "not set: "),
        ("tcp_user_timeout=0", "tcp_user_timeout", "not set: "),
        ("keepalives=0", "keepalives", "off: "),
        ("keepalives_idle=600", "keepalives", "the kernel notices a dead connection after 615 s (600 + 5 x 3)"),
        ("gssencmode=prefer", "gssencmode", "prefer: "),
        ("options='-c default_transaction_read_only=on -c idle_in_transaction_session_timeout=1000'", "writes",
         "a primary that takes no writes"),
    ],
)  # fmt: skip
def test_each_weakness_is_one_warning_with_an_advice(
    changes: str, about: str, read: str, server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with role(server) as dsn:
        among = found(capsys, f"{dsn} {changes}")
    assert of("warning", among) == [about]
    assert among[about]["read"].startswith(read)
    assert among[about]["advice"]


def test_what_is_not_set_is_the_kernels_and_the_doctors_own_time_limit_is_none_of_the_users(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    among = found(capsys, server.dsn)
    assert of("warning", among) == [
        "superuser", "idle in transaction", "connect_timeout", "keepalives", "tcp_user_timeout",
    ]  # fmt: skip
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert found(capsys, server.dsn)["connect_timeout"]["read"] == "7 s"


def test_a_unix_socket_needs_no_care_of_the_network(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    among = found(capsys, server.socket_dsn)
    assert among["network"]["severity"] == "ok"
    assert not among.keys() & {"keepalives", "connect_timeout", "gssencmode"}


def test_a_standby_is_named_unless_it_is_asked_for(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with role(server), ThrowawayPostgres(standby_of=server, max_connections=MAX_CONNECTIONS) as standby:
        dsn = f"{standby.dsn} user=shop {WELL}"
        among = found(capsys, dsn)
        assert of("warning", among) == ["writes"]
        assert among["writes"]["read"].startswith("a hot standby that takes no writes")
        assert found(capsys, f"{dsn} target_session_attrs=prefer-standby")["writes"]["severity"] == "ok"


FACTS = Facts(
    settings={"max_connections": "100", "transaction_read_only": "off"},
    is_superuser=False,
    may_use_reserved=False,
    role_limit=-1,
    database_limit=-1,
    sessions=1,
    is_standby=False,
    is_local=True,
    parameters={},
    pooler={"name": "PgBouncer 1.25.0", "pool_mode": "session", "max_client_conn": "100", "client_idle_timeout": "0"},
)


@pytest.mark.parametrize(
    ("pooler", "severities"),
    [
        ({}, {"pooler": "ok", "clients": "ok", "idle clients": "ok"}),
        ({"pool_mode": "transaction"}, {"pooler": "warning"}),
        ({"max_client_conn": "30"}, {"clients": "warning"}),
        ({"max_client_conn": "15"}, {"clients": "error"}),
        ({"client_idle_timeout": "300"}, {"idle clients": "warning"}),
        ({"client_idle_timeout": "301.5"}, {"idle clients": "ok"}),
    ],
)
def test_behind_a_pooler_its_limits_count_and_not_the_servers(
    pooler: dict[str, str], severities: dict[str, str]
) -> None:
    facts = Facts(**{**vars(FACTS), "pooler": {**(FACTS.pooler or {}), **pooler}})
    judged = {finding.about: finding.severity for finding in findings(facts, Plan(1, 2, 10, 300.0))}
    assert {about: judged[about] for about in severities} == severities
    assert "server" not in judged


def test_a_pooler_whose_console_is_closed_to_the_role_is_compared_by_the_user() -> None:
    facts = Facts(**{**vars(FACTS), "pooler": {"name": "a pooler", "pool_mode": "transaction"}})
    judged = {finding.about: finding for finding in findings(facts, Plan(1, 2, 10, 300.0))}
    assert judged["clients"].severity == "warning"
    assert judged["clients"].advice == "Compare its max_client_conn with 20, in a rolling deploy 40."


@pytest.mark.parametrize("dsn", ["host=127.0.0.1 port=1", "postgresql://127.0.0.1:1/x", "host=no.invalid"])
def test_a_server_that_cannot_be_reached_is_said_without_the_password(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)
    for words, stream in (([], "err"), (["--json"], "out")):
        assert main(["doctor", dsn, *words]) == 1
        captured = capsys.readouterr()
        said = getattr(captured, stream)
        assert "Connection refused" in said or "could not translate host name" in said
        assert SECRET not in captured.out + captured.err


@pytest.mark.parametrize(
    ("dsn", "status"),
    [
        (f"password='{SECRET}", 2),
        (f"postgresql+psycopg2://u:{SECRET}@h/d", 2),
        # libpq takes the password for a port, which it quotes when it connects.
        (f"postgresql://u:{SECRET}/word@h/d", 1),
    ],
)
def test_a_connection_string_that_libpq_cannot_read_is_a_wrong_usage(
    dsn: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["--json"]):
        assert main(["doctor", dsn, *words]) == status
        captured = capsys.readouterr()
        assert captured.err.startswith("pgpool_rs: ") or json.loads(captured.out)["error"]
        assert SECRET not in captured.out + captured.err


def test_a_way_to_the_server_that_fails_later_is_a_failure_too(
    server: ThrowawayPostgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgpool_rs._command.facts._SETTINGS", "SELECT pg_terminate_backend(pg_backend_pid())")
    assert main(["doctor", server.dsn]) == 1
    assert "server closed the connection unexpectedly" in capsys.readouterr().err
