"""SQLAlchemy's own tests, with PgPool in QueuePool's place."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import final

import psycopg2
import pytest

from dev.sdists import unpacked
from dev.servers.postgres import ThrowawayPostgres
from tests.lib.profile import NIGHTLY
from tests.lib.programs import ROOT
from tests.lib.statements import execute

# Each test that does not pass as with QueuePool, and why.
DIFFERENT = {
    "test_pool.QueuePoolTest.test_dispose_closes_pooled": "dispose() also closes what is lent then, when it comes back",
    "test_reconnect.PrePingRealTest.test_pre_ping_db_stays_shutdown": "a record that cannot reconnect is dropped",
    **{
        f"test_pool.QueuePoolTest.test_error_on_pooled_reconnect_cleanup_{how}": "the same"
        for how in ("invalidate", "recycle", "wcheckout_event[plain]")
    },
}


@pytest.fixture(scope="module")
def databases() -> Iterator[dict[str, str]]:
    """Give the addresses of two databases with the schemas that the tests use, so that two runs go on at once."""
    with ThrowawayPostgres(settings={"max_prepared_transactions": "10"}) as server:
        found = {}
        for name in ("ours", "stock"):
            admin = psycopg2.connect(server.dsn)
            admin.autocommit = True
            execute(admin, f"create database {name}")
            admin.close()
            with psycopg2.connect(**{**server.dsn_kwargs, "dbname": name}) as connection:
                execute(connection, "create schema test_schema; create schema test_schema_2")
            connection.close()
            found[name] = f"postgresql+psycopg2://postgres@127.0.0.1:{server.port}/{name}?gssencmode=disable"
        yield found


@final
class Run:
    """A run of SQLAlchemy's tests in a process of its own, which ends with the block."""

    def __init__(self, folder: Path, database: str, files: list[str], *arguments: str) -> None:
        self._report = folder / "report.xml"
        self._output = folder / "output"
        sources = unpacked(f"SQLAlchemy=={version('SQLAlchemy')}")
        command = [sys.executable, "-s", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--dburi", database]
        command += [f"--junit-xml={self._report}", *arguments, *(f"test/engine/{name}.py" for name in files)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=sources, env={**environment, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def outcomes(self) -> dict[str, str]:
        """Wait for the end; give what came of each test, by its name."""
        self._process.wait(1200)
        assert self._report.exists(), self._output.read_text()
        found = {}
        for case in ET.parse(self._report).iter("testcase"):
            module, _, test_class = case.get("classname", "").removeprefix("test.engine.").partition(".")
            # Some classes' names end with the server's.
            name = f"{module}.{test_class.partition('_postgresql')[0]}.{case.get('name')}"
            found[name] = next((child.tag for child in case if child.tag in {"failure", "error", "skipped"}), "passed")
        return found


PLUGIN = ("-p", "tests.lib.queue_pool")


def test_the_tests_of_queue_pool_pass(databases: dict[str, str], tmp_path: Path) -> None:
    with Run(tmp_path, databases["ours"], ["test_pool"], *PLUGIN, "--exclude-tag", "timing-intensive") as run:
        outcomes = run.outcomes()
    assert len(outcomes) > 100
    failed = {name for name, outcome in outcomes.items() if outcome not in {"passed", "skipped"}}
    assert failed == {name for name in DIFFERENT if name in outcomes}


@pytest.mark.skipif(not NIGHTLY, reason="runs in `make prove`")
def test_each_test_has_the_outcome_that_it_has_with_queue_pool(databases: dict[str, str], tmp_path: Path) -> None:
    files = ["test_pool", "test_reconnect", "test_transaction", "test_execute"]
    folders = {name: tmp_path / name for name in databases}
    for folder in folders.values():
        folder.mkdir()
    with (
        Run(folders["stock"], databases["stock"], files) as stock,
        Run(folders["ours"], databases["ours"], files, *PLUGIN) as ours,
    ):
        with_queue_pool, with_pg_pool = stock.outcomes(), ours.outcomes()
    assert len(with_queue_pool) > 500
    assert with_queue_pool.keys() == with_pg_pool.keys()
    assert {name for name, outcome in with_pg_pool.items() if outcome != with_queue_pool[name]} == DIFFERENT.keys()
    assert "failure" not in with_queue_pool.values()
