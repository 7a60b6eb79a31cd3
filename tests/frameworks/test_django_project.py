"""A Django project whose backend is `pgpool_rs.django`, under the servers that it runs with."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from dev.servers.postgres import ThrowawayPostgres
from dev.sockets import free_port, visit
from tests.lib.postgres import admin, backends
from tests.lib.programs import Group, group
from tests.lib.statements import execute
from tests.lib.waits import Task, wait_until

FILES = {
    "manage.py": """
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
execute_from_command_line(sys.argv)
""",
    "project/settings.py": """
import os

from pgpool_rs.django import _control

_control.ADDRESS += os.environ["PORT"] + "."  # Tests run beside each other, and none may ask another's processes.
SECRET_KEY = "a project's"
DEBUG = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "project.urls"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]  # It gives lengths: a page that is broken off shows.
USE_TZ = True
INSTALLED_APPS = ["pgpool_rs.django", "project.apps.Project"]
DATABASES = {
    "default": {
        "ENGINE": "pgpool_rs.django",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ["PORT"],
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "application_name": "project",
            "gssencmode": "disable",
            "pool": {"min_size": 1, "max_size": 2, "timeout": 60},
        },
    },
}
""",
    # EARLY: a query before the fork, whose connection is left open.
    "project/apps.py": """
import os

from django.apps import AppConfig


class Project(AppConfig):
    name = "project"

    def ready(self):
        from django.db import connection

        if "EARLY" in os.environ:
            connection.ensure_connection()
""",
    "project/urls.py": """
import os

from django.db import connection
from django.http import JsonResponse
from django.urls import path


def show(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_setting('application_name')")
        session, _ = cursor.fetchone()
    return JsonResponse({"process": os.getpid(), "session": session})


urlpatterns = [path("", show)]
""",
    "project/wsgi.py": """
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()
""",
    "project/tests.py": """
from django.db import connection
from django.test import TestCase, TransactionTestCase


def database():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        return cursor.fetchone()[0]


class InTransactions(TestCase):
    def test_the_database_is_a_clone(self):
        self.assertIn(database(), {"test_postgres_1", "test_postgres_2"})


class OnItsOwn(TransactionTestCase):
    def test_the_database_is_a_clone(self):
        self.assertIn(database(), {"test_postgres_1", "test_postgres_2"})
        self.assertEqual(self.client.get("/").status_code, 200)
""",
    "project/__init__.py": "",
}


class Project:
    """The project's folder, and what runs in it."""

    def __init__(self, folder: Path, server: ThrowawayPostgres) -> None:
        for name, text in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        self.folder = folder
        self.server = server
        self.environment = {"PORT": str(server.port), "PYTHONWARNINGS": "ignore::DeprecationWarning"}

    def manage(self, *words: str, status: int = 0) -> str:
        """Run manage.py; return what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def runs(self, *words: str) -> Any:
        """Run a server."""
        return group([sys.executable, *words], folder=self.folder, environment=self.environment)

    def get(self, place: str) -> dict[str, Any]:
        """Visit the site, by its port or by its Unix socket."""
        answer, body = visit(place, "/", timeout=90)
        assert answer.status == 200, body
        told: dict[str, Any] = json.loads(body)
        return told

    def wait_for(self, running: Group, place: str) -> None:
        """Wait until the site answers."""

        def answers() -> bool:
            assert running.process.poll() is None, running.output
            with suppress(OSError, http.client.HTTPException):
                return bool(self.get(place))
            return False

        wait_until(answers, "an answer")

    def sessions(self) -> list[int]:
        """List the server's processes that serve the project."""
        with admin(self.server.dsn) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'project'")
            return [pid for (pid,) in cursor.fetchall()]


@pytest.fixture
def project(tmp_path: Path, own_server: ThrowawayPostgres) -> Project:
    """Give a project on a server of its own."""
    return Project(tmp_path, own_server)


def test_parallel_tests_use_their_clones_also_after_a_query_at_the_start(project: Project) -> None:
    project.environment["EARLY"] = "1"
    assert "Ran 2 tests" in project.manage("test", "--parallel", "2")
    with admin(project.server.dsn) as connection:
        assert execute(connection, "SELECT count(*) FROM pg_database WHERE datname LIKE 'test_%%'") == 0
    assert backends(project.server.dsn, "project") == 0


def test_workers_of_a_preloading_gunicorn_are_shown_and_drained(project: Project) -> None:
    place = str(project.folder / "http")
    project.environment["EARLY"] = "1"
    words = ["--preload", "--workers", "2", "--worker-class", "gthread", "--threads", "2", "--no-control-socket"]
    with project.runs("-m", "gunicorn", "project.wsgi", *words, "--bind", f"unix:{place}") as running:
        project.wait_for(running, place)
        seen: dict[int, int] = {}

        def both_answer() -> bool:
            told = project.get(place)
            seen[told["process"]] = told["session"]
            return len(seen) == 2

        wait_until(both_answer, "an answer of each worker")
        assert running.process.pid not in seen
        assert len(set(seen.values())) == 2

        def shown(*words: str) -> set[int]:
            lines = project.manage("pgpool", *words).splitlines()
            assert lines[0].split()[:4] == ["pid", "alias", "pool_size", "pool_max"]
            return {int(line.split()[0]) for line in lines[1:] if line.split()[1] == "default"}

        assert set(seen) <= shown()
        before = set(project.sessions())
        with ExitStack() as silent:
            for pid in seen:
                client = silent.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(60)
                client.connect(f"\0pgpool_rs.django.{project.server.port}.{pid}")
            assert set(seen) <= shown("--drain")
            wait_until(lambda: client.recv(999) == b"", "the end of a client that says nothing")
        wait_until(lambda: not {*seen.values()} & {*project.sessions()}, "the end of what was idle")
        assert {*seen.values()} <= before
        project.get(place)
        stopped, other = seen
        os.kill(stopped, signal.SIGSTOP)
        told = project.manage("pgpool", "--drain", status=1)
        os.kill(stopped, signal.SIGCONT)
        assert f"{stopped} does not answer" in told
        assert f"{other} default" in told
        assert "CommandError: 1 of 3 processes do not answer" in told
        running.process.terminate()
        running.wait(60)
    wait_until(lambda: project.sessions() == [], "the end of all sessions")


def test_where_no_process_answers_the_command_says_so_and_a_drain_fails(project: Project) -> None:
    project.environment["EARLY"] = "1"  # The command's own process is none of them.
    for words, status in ((["pgpool"], 0), (["pgpool", "--drain"], 1)):
        assert "no process of this machine answers" in project.manage(*words, status=status)


@pytest.mark.parametrize("ends", [True, False])
def test_a_process_that_breaks_off_fails_a_drain_unless_it_has_ended(project: Project, ends: bool) -> None:
    with socket.socket(socket.AF_UNIX) as process:
        process.bind(f"\0pgpool_rs.django.{project.server.port}.1")
        process.listen()

        def break_off() -> None:
            client, _ = process.accept()
            if ends:
                process.close()
            client.close()

        breaking = Task(break_off)
        told = project.manage("pgpool", "--drain", status=1)
        breaking.result()
    assert ("1 breaks off" in told) is not ends
    assert ("no process of this machine answers" if ends else "1 of 1 processes do not answer") in told


def test_a_reload_of_runserver_ends_the_old_sessions(project: Project) -> None:
    place = f"127.0.0.1:{free_port()}"
    with project.runs("manage.py", "runserver", place, "--skip-checks") as running:
        project.wait_for(running, place)
        first = project.get(place)
        urls = project.folder / "project" / "urls.py"

        def reloaded() -> bool:
            with suppress(OSError, http.client.HTTPException):
                if project.get(place)["process"] != first["process"]:
                    return True
                urls.touch()  # again, since it may not yet be watched
            return False

        wait_until(reloaded, "the reload")
        wait_until(lambda: first["session"] not in project.sessions(), "the end of the old session")
