"""gunicorn with the service of `metrics_app`, and its figures, read as Prometheus reads them."""

from __future__ import annotations

import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from dev.sockets import free_port
from pgpool_rs.testing import PATIENCE
from tests.lib.programs import ROOT, Group, group
from tests.lib.waits import wait_until

APP = "tests.lib.metrics_app"


class Site:
    """The running service."""

    def __init__(self, running: Group, port: int) -> None:
        self.running, self.port = running, port

    def get(self, path: str) -> str:
        """Ask for a page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
        return text

    def is_up(self) -> bool:
        """Tell whether it answers."""
        if self.running.process.poll() is not None:
            self.running.fail("the server has ended")
        try:
            self.get("/query")
        except OSError:
            return False
        return True

    def figure(self, name: str, **labels: str) -> float:
        """Read one figure; several that have these labels are added up."""
        families = text_string_to_metric_families(self.get("/metrics"))
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@contextmanager
def serving(dsn: str, *, workers: int) -> Iterator[Site]:
    """Run the service; leave no process of it."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", f"{APP}:application", "--config", f"python:{APP}", "--preload"]
    command += ["--worker-class", "gthread", "--threads", "4", "--workers", str(workers), "--no-control-socket"]
    command += ["--bind", f"127.0.0.1:{port}"]
    with tempfile.TemporaryDirectory(prefix="figures_") as folder:
        environment = {"APP_DSN": dsn, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": folder}
        with group(command, folder=Path(folder), environment=environment) as running:
            site = Site(running, port)
            wait_until(site.is_up, "the service's first answer")
            yield site
