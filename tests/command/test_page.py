from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pgpool_rs._command import doctor, server

PAGE = (Path(__file__).parents[2] / "docs" / "command.md").read_text()
SHOWN = re.findall(r"^```sh\n(python -m pgpool_rs [^\n]*)\n```\n\n```text\n(.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)
# What differs from server to server and from time to time, and where a line is broken.
VARIES = [
    (r"port \d+", "port 5432"),
    (r"PostgreSQL \d+\.\d+", "PostgreSQL 18.6"),
    (r"\d+\s+open\s+now", "1 open now"),
    (r"\d+\.\d{3}\b", "1.234"),
    (r"as long as \d+ round trips", "as long as 90 round trips"),
    (r"\s+", " "),
]


@pytest.fixture
def service(dsn: str) -> Iterator[str]:
    """Give the connection string of a service with a role of its own, which knows most of what it should."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE ROLE shop LOGIN")
        yield f"{dsn} user=shop connect_timeout=5 keepalives_idle=30 keepalives_interval=5 keepalives_count=3"
        cursor.execute("DROP ROLE shop")


def normal(text: str) -> str:
    for pattern, usual in VARIES:
        text = re.sub(pattern, usual, text)
    return text.strip()


def test_each_command_has_an_output() -> None:
    assert [shlex.split(command)[3] for command, _ in SHOWN] == ["doctor", "size", "check"]


def test_what_the_doctor_assumes_is_what_the_page_says() -> None:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    rows = re.findall(r"^\| `(--[\w-]+)` \| (\d+|none) \|", PAGE, re.MULTILINE)
    defaults = [(name, parser.get_default(name[2:].replace("-", "_"))) for name, _ in rows]
    assert [(name, "none" if default is None else f"{default:g}") for name, default in defaults] == rows
    assert [name for name, _ in rows] == [
        name for name in parser._option_string_actions if name not in {"-h", "--help"}
    ]
    assert f"A connect may take {server.CONNECT_TIMEOUT} s" in PAGE


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_the_output_is_the_one_that_the_page_shows(command: str, output: str, service: str) -> None:
    _, *words = shlex.split(command)
    environment = {"DATABASE_URL": service, "PYTHONIOENCODING": "utf-8"}
    ran = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.stderr, ran.returncode) == ("", "error " in output or "warning " in output)
    assert normal(ran.stdout) == normal(output)
