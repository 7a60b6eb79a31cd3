"""Servers that load the application, and open its connections, before they fork their workers: gunicorn and uWSGI.

uWSGI is the one that forks in C: without options of its own, none of Python's hooks run in its workers, and Python
believes that the master's threads run there too.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from dev.sockets import visit
from pgpool_rs.testing import PATIENCE
from tests.lib.programs import ROOT, Group, group
from tests.lib.waits import wait_until

WORKERS = 2
THREADS = 4
MOST_SESSIONS = 3  # of a pool, as wsgi_app.py makes it
BIN = Path(sys.executable).parent

APPLICATION = "tests.lib.wsgi_app:application"
GUNICORN = [sys.executable, "-m", "gunicorn", APPLICATION, "--preload", "--worker-class", "gthread"]
GUNICORN += ["--workers", str(WORKERS), "--threads", str(THREADS), "--graceful-timeout", "5", "--bind", "unix:http"]
GUNICORN += ["--no-control-socket"]
UWSGI = [sys.executable, "-c", "import pyuwsgi; pyuwsgi.run()", "--module", APPLICATION, "--master"]
UWSGI += ["--processes", str(WORKERS), "--threads", str(THREADS), "--http-socket", "http", "--need-app"]
UWSGI += ["--die-on-term", "--worker-reload-mercy", "5", "--disable-logging"]
HALF_HOOKED = "uwsgi calling Python's hook"
SERVERS = {
    "gunicorn": GUNICORN,
    "uwsgi": UWSGI,
    HALF_HOOKED: [*UWSGI, "--py-call-osafterfork"],
    "uwsgi calling all of Python's hooks": [*UWSGI, "--py-call-uwsgi-fork-hooks"],
}
# So uWSGI 2.0.30 calls PyOS_AfterFork_Child without PyOS_BeforeFork, which takes the lock of imports. Therefore CPython
# 3.13 ends the worker: "_PyRecursiveMutex_Unlock: unlocking a recursive mutex that is not owned by the current thread".
NOT_ON_3_13 = pytest.mark.skipif(
    sys.version_info[:2] == (3, 13), reason="CPython 3.13 ends the workers of a uWSGI with --py-call-osafterfork"
)
EACH_SERVER = [pytest.param(server, marks=NOT_ON_3_13 if server == HALF_HOOKED else ()) for server in SERVERS]
# Where no hook makes CPython's own locks whole, a fork in the midst of other threads' work is CPython's to lose.
SERVERS_WITH_BUSY_MASTERS = ("gunicorn", "uwsgi calling all of Python's hooks")


class Site:
    """A running server of web pages, as its visitors and the database see it."""

    def __init__(self, running: Group, folder: Path, name: str, dsn: str) -> None:
        """Visit the server whose sockets stand in this folder."""
        self.running = running
        self.master = running.process.pid
        self._folder = folder
        self._name = name
        self._dsn = dsn

    def get(self, path: str) -> dict[str, Any]:
        """Ask for a page."""
        _, body = visit(str(self._folder / "http"), path, timeout=2 * PATIENCE)
        answer: dict[str, Any] = json.loads(body)
        assert "error" not in answer, answer
        return answer

    def get_many(self, path: str, number: int) -> list[dict[str, Any]]:
        """Ask for a page this many times, by more visitors at once than there are connections."""
        with ThreadPoolExecutor(2 * WORKERS * THREADS) as visitors:
            return list(visitors.map(self.get, [path] * number))

    def visit_every_worker(self, path: str) -> list[dict[str, Any]]:
        """Ask for a page until every worker has answered a good number of times."""
        answers: list[dict[str, Any]] = []
        deadline = time.monotonic() + 2 * PATIENCE
        while True:
            answers += self.get_many(path, 40)
            counts = [sum(answer["process"] == worker for answer in answers) for worker in self.workers(answers)]
            if len(counts) >= WORKERS and min(counts) >= 10:
                return answers
            assert time.monotonic() < deadline, f"only {counts} answers of the workers"

    @staticmethod
    def workers(answers: list[dict[str, Any]]) -> set[int]:
        """Tell which processes have answered."""
        return {answer["process"] for answer in answers}

    def ask_master(self, word: str = "tell") -> dict[str, Any]:
        """Ask the process that loaded the application what lives of what it had opened."""
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(2 * PATIENCE)
            caller.connect(str(self._folder / "master"))
            caller.sendall(word.encode())
            answer: dict[str, Any] = json.loads(caller.makefile("rb").read())
        return answer

    def sessions(self, process: int) -> dict[int, str]:
        """List the database's processes that serve this one of ours, with their states."""
        observer = psycopg2.connect(self._dsn)
        try:
            with observer.cursor() as cursor:
                query = "select pid, state from pg_stat_activity where application_name = %s"
                cursor.execute(query, [f"{self._name} {process}"])
                return dict(cursor.fetchall())
        finally:
            observer.close()

    def wait_for_housekeeping(self, worker: int) -> None:
        """Wait until a worker has one session, in no transaction, as its pool is to keep it when nobody visits."""
        wait_until(lambda: list(self.sessions(worker).values()) == ["idle"], f"the housekeeping of {worker}")

    def is_up(self) -> bool:
        """Tell whether the application answers."""
        if self.running.process.poll() is not None:
            self.running.fail("the server has ended")
        try:
            self.get("/query")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End the server as its operator does."""
        self.ask_master("rest")
        self.running.process.send_signal(signal.SIGTERM)
        status = self.running.wait(2 * PATIENCE)
        assert status == 0, f"exit status {status}\n{self.running.output}"


@contextmanager
def serving(server: str, dsn: str, *, busy: bool = False) -> Iterator[Site]:
    """Run the application under a server; leave no process of it."""
    name = f"{server[-30:]} {time.monotonic_ns()}"
    with tempfile.TemporaryDirectory(prefix="site_") as temporary:
        folder = Path(temporary)
        environment = {
            "APP_DSN": dsn,
            "APP_NAME": name,
            "APP_SOCKET": str(folder / "master"),
            "APP_BUSY": str(int(busy)),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        with group(SERVERS[server], folder=folder, environment=environment) as running:
            site = Site(running, folder, name, dsn)
            try:
                wait_until(site.is_up, "the server's first answer")
                yield site
            except BaseException as error:
                running.fail(repr(error))
            site.stop()


@pytest.mark.parametrize(
    ("server", "busy"),
    [
        *(pytest.param(*server.values, False, marks=server.marks) for server in EACH_SERVER),
        *((server, True) for server in SERVERS_WITH_BUSY_MASTERS),
    ],
)
def test_each_worker_has_a_pool_of_its_own_and_the_masters_connections_live_on(
    server: str, busy: bool, dsn: str
) -> None:
    with serving(server, dsn, busy=busy) as site:
        first = site.ask_master()
        assert first["work"] == 7, first

        answers = site.visit_every_worker("/query")
        backends = {
            worker: {answer["backend"] for answer in answers if answer["process"] == worker}
            for worker in site.workers(answers)
        }
        assert site.master not in backends
        assert len({backend for own in backends.values() for backend in own}) == sum(map(len, backends.values()))
        for worker, own in backends.items():
            assert not own & {first["lent"], first["other"]}, "a worker was lent the master's session"
            threads = {answer["thread"] for answer in answers if answer["process"] == worker}
            assert len(threads) > 1 or len(own) == 1
            # Surplus is closed after a while, so that there may have been more in all.
            assert len(site.sessions(worker)) <= MOST_SESSIONS

        # What was lent in the master is forgotten in each worker once, and unknown then; their counts began with them.
        inherited = site.visit_every_worker("/inherited")
        for worker in backends:
            refused = [name for answer in inherited if answer["process"] == worker for name in answer["refused"]]
            assert sorted(refused, key=str) == [None, *["PoolError"] * (len(refused) - 1)]
        for answer in inherited:
            statistics = answer["statistics"]
            assert statistics["pool_max"] == MOST_SESSIONS
            assert statistics["connections_num"] - statistics["connections_errors"] == statistics["pool_size"] + sum(
                number for reason, number in statistics.items() if reason.startswith("closed_")
            )

        # The housekeeping runs in every worker: what comes back in a transaction is rolled back, and surplus closed.
        for worker in site.workers(site.visit_every_worker("/open")):
            site.wait_for_housekeeping(worker)

        last = site.ask_master()
        assert (last["work"], last["lent"]) == (7, first["lent"])
        assert site.sessions(site.master)[first["lent"]] == "idle in transaction"
        if not busy:
            assert last == first


@pytest.mark.parametrize("server", EACH_SERVER)
def test_a_worker_that_is_killed_is_replaced_by_one_that_works(server: str, dsn: str) -> None:
    """The new worker is forked when the master has long been running, with a pool whose housekeeping is asleep."""
    with serving(server, dsn) as site:
        first = site.ask_master()
        old = site.workers(site.visit_every_worker("/query"))
        for victim in old:
            os.kill(victim, signal.SIGKILL)

        def replaced() -> bool:
            try:
                return len(site.workers(site.get_many("/query", 20)) - old) == WORKERS
            except (OSError, http.client.HTTPException):
                return False  # asked a worker that was being killed

        wait_until(replaced, "the new workers")
        for worker in site.workers(site.visit_every_worker("/open")):
            site.wait_for_housekeeping(worker)
        for victim in old:
            assert site.sessions(victim) == {}
        assert site.ask_master() == first
