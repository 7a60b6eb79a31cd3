from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from pgpool_rs._command import main
from tests.lib.waits import wait_until

STEPS = ["resolve", "connect", "first query", "rollback", "return", "second loan", "query", "return"]
SECRET = "open-sesame"


def steps(capsys: pytest.CaptureFixture[str], dsn: str, status: int = 0) -> Any:
    assert main(["check", dsn, "--json"]) == status
    captured = capsys.readouterr()
    assert captured.err == ""
    assert SECRET not in captured.out
    return json.loads(captured.out)


def test_every_step_of_a_loan_is_timed_and_the_second_loan_connects_no_more(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = steps(capsys, f"{dsn} password={SECRET}")
    assert [step["step"] for step in answer["steps"]] == STEPS
    times = {step["step"]: step["ms"] for step in answer["steps"]}
    assert min(times.values()) > 0
    assert answer["steps"][STEPS.index("second loan")]["note"] == "the same one"
    assert answer["failure"] is None


def test_no_session_is_left_at_the_server(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    steps(capsys, f"{dsn} application_name=the_check")
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def is_gone() -> bool:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'the_check'")
            return cursor.fetchone() == (0,)

        wait_until(is_gone)


def test_the_step_that_fails_is_named(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = steps(capsys, f"{dsn} dbname=nowhere password={SECRET}", 1)
    assert [(step["step"], step["ms"] is None) for step in answer["steps"]] == [("resolve", False), ("connect", True)]
    assert answer["failure"].endswith('FATAL: database "nowhere" does not exist\nCheck the names, and their case.')
    assert [step["step"] for step in steps(capsys, "host=no.invalid", 1)["steps"]] == ["resolve"]
    assert [step["step"] for step in steps(capsys, "host=no..name", 1)["steps"]] == ["resolve"]
    assert main(["check", "host=no.invalid"]) == 1
    assert "resolve   -  failed\n" in capsys.readouterr().out


def test_one_host_that_has_an_address_is_enough(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = psycopg2.extensions.parse_dsn(dsn)["port"]
    answer = steps(capsys, f"{dsn} host=no.invalid,127.0.0.1 port={port},{port}")
    assert answer["steps"][0]["note"] == "127.0.0.1"
    assert steps(capsys, f"{dsn} hostaddr=127.0.0.1")["steps"][0]["note"] == "no name to look up"


def test_a_loan_over_tls_says_so(tls_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert steps(capsys, tls_dsn)["steps"][1]["note"] == "with TLS"


def test_a_wrong_connection_string_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"password='{SECRET}"]) == 2
    assert SECRET not in capsys.readouterr().err


def test_without_an_argument_the_environment_names_the_server(dsn: str) -> None:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "pgpool_rs", "check"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    parameters = psycopg2.extensions.parse_dsn(dsn)
    for environment in ({"DATABASE_URL": dsn}, {variable: parameters[name] for name, variable in names.items()}):
        ran = run(**environment)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.split()[:4] == ["step", "ms", "note", "resolve"]
    # What the pool logs of a failed connect is not printed beside the answer.
    ran = run(PGHOST="127.0.0.1", PGPORT="1")
    assert (ran.returncode, ran.stderr) == (1, "")
