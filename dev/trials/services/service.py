"""Run a service under gunicorn, and visit it."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from dev.servers.postgres import ThrowawayPostgres, _children
from dev.servers.standby import ask
from dev.sockets import visit

ROOT = Path(__file__).resolve().parents[3]
WORKERS = 2
THREADS = 12  # More than connections, so that requests wait for each other.
MAXCONN = 3
PATIENCE = 60.0
GUNICORN = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--bind", "unix:http", "--no-control-socket"]
GUNICORN += ["--graceful-timeout", "20", "--pythonpath", str(ROOT)]
SERVICES = {
    "django": ["--worker-class", "gthread", "--threads", str(THREADS), "dev.trials.services.with_django:app"],
    "flask": ["--worker-class", "gthread", "--threads", str(THREADS), "dev.trials.services.with_flask:app"],
    "fastapi": ["--worker-class", "uvicorn_worker.UvicornWorker", "dev.trials.services.with_fastapi:app"],
}

_serials = itertools.count(1)


@final
@dataclass(frozen=True)
class Answer:
    """Tells how one request went."""

    status: int | None
    """None where the server broke it off."""
    retry_after: str | None
    body: Any
    error: str = ""


@final
class Service:
    """Owns a service with its workers, and leaves nothing of it behind."""

    def __init__(self, kind: str, server: ThrowawayPostgres, *, timeout: float) -> None:
        self.name = f"{kind} {next(_serials)} of {os.getpid()}"
        self._kind = kind
        self._server = server
        self._timeout = timeout
        self._folder = tempfile.TemporaryDirectory(prefix="service_")

    def __enter__(self) -> Service:
        self._log = Path(self._folder.name) / "log"
        with self._log.open("ab") as log:
            self.master = subprocess.Popen(
                [*GUNICORN, *SERVICES[self._kind]],
                cwd=self._folder.name,
                env={
                    **os.environ,
                    "SERVICE_DSN": self._server.dsn,
                    "SERVICE_NAME": self.name,
                    "SERVICE_MAXCONN": str(MAXCONN),
                    "SERVICE_TIMEOUT": str(self._timeout),
                    "PYTHONPATH": str(ROOT),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self.visit("/work").status == 200, "the service's first answer", self)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.master.pid, signal.SIGKILL)
        self.master.wait()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """Give what the service has said."""
        return self._log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """List its worker processes."""
        return _children(self.master.pid)

    def visit(self, path: str, *, timeout: float = PATIENCE) -> Answer:
        """Ask for a page."""
        try:
            answer, body = visit(str(Path(self._folder.name) / "http"), path, timeout=timeout)
            is_json = answer.headers.get_content_type() == "application/json"
            return Answer(answer.status, answer.headers["Retry-After"], json.loads(body) if is_json else body)
        except (OSError, http.client.HTTPException) as error:
            return Answer(None, None, None, repr(error))

    def leave(self, path: str) -> float:
        """Ask for a page, and hang up before it comes; return the seconds to pause then, since the service goes on."""
        self.visit(path, timeout=0.01)
        return 0.2

    def sessions(self) -> int:
        """Count its sessions, as the server does."""
        query = "select count(*) from pg_stat_activity where application_name = %s"
        return int(ask(self._server, query, self.name))

    def whole(self) -> dict[int, Any]:
        """Visit each worker, and let it lend all of its pool at once; give what each says."""
        told: dict[int, Any] = {}
        workers: list[int] = []

        def all_have_told() -> bool:
            answer = self.visit("/whole")
            if answer.status == 200:
                told[answer.body["process"]] = answer.body
            workers[:] = self.workers
            return len(workers) == WORKERS and told.keys() >= {*workers}

        wait_until(all_have_told, "the whole pool of each worker", self)
        return {worker: told[worker] for worker in workers}

    def stop(self) -> int:
        """End it as its operator does, and give its exit status."""
        self.master.send_signal(signal.SIGTERM)
        return self.master.wait(PATIENCE)


def wait_until(condition: Callable[[], bool], what: str, service: Service) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline or service.master.poll() is not None:
            raise AssertionError(f"{what} never came\n{service.log[-5000:]}")
        time.sleep(0.01)
