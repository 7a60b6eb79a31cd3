"""Each query of docs/assets/grafana-dashboard.json finds figures in a real Prometheus that watches a busy service."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.servers import debian
from dev.servers.postgres import ThrowawayPostgres
from dev.sockets import free_port
from tests.lib.metrics_site import Site, serving
from tests.lib.programs import ROOT, group

BOARD = ROOT / "docs" / "assets" / "grafana-dashboard.json"
PATIENCE = 120.0
CONFIG = """
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: service
    static_configs: [{targets: ["127.0.0.1:%d"]}]
"""


def prometheus() -> str:
    """Find Prometheus, or unpack Debian's."""
    installed = shutil.which("prometheus")
    if installed:
        return installed
    folder = ROOT / "target" / "prometheus"
    try:
        debian.unpack(["prometheus"], folder)
    except debian.UnavailableError as error:
        pytest.skip(f"there is no Prometheus: {error}")
    return str(folder / "usr/bin/prometheus")


def expressions() -> dict[str, str]:
    """List the queries of the board, by their panels and letters, with Grafana's variables put in."""
    board = json.loads(BOARD.read_text())
    return {
        f"{panel['title']}, {target['refId']}": target["expr"].replace("$__rate_interval", "10s").replace("$pool", ".*")
        for panel in board["panels"]
        for target in panel["targets"]
    }


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/api/v1/query?"

    def ask(self, query: str) -> list[Any]:
        """Give what a query finds, without what is no number."""
        try:
            with urllib.request.urlopen(self._address + urllib.parse.urlencode({"query": query}), timeout=10) as answer:
                result = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        except OSError:
            return []  # It has not started yet.
        return [each for each in result if each["value"][1] != "NaN"]


@contextmanager
def watching(site: Site, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus, which asks the service each second."""
    config, port = folder / "prometheus.yml", free_port()
    config.write_text(CONFIG % site.port)
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with group([prometheus(), *options, f"--web.listen-address=127.0.0.1:{port}"], folder=folder):
        yield Prometheus(port)


@contextmanager
def visited(site: Site) -> Iterator[None]:
    """Ask the service for its pages all the time."""
    over = threading.Event()

    def visit(path: str, pause: float) -> None:
        while not over.wait(pause):
            site.get(path)

    ways = [("/query", 0.01), ("/query", 0.01), ("/busy", 0.3)]
    threads = [threading.Thread(target=visit, args=way, daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_each_query_of_the_board_finds_something(tmp_path: Path) -> None:
    prometheus()
    with ExitStack() as stack:
        server = stack.enter_context(ThrowawayPostgres())
        site = stack.enter_context(serving(server.dsn, workers=2))
        watcher = stack.enter_context(watching(site, tmp_path))
        stack.enter_context(visited(site))
        wanting = expressions()
        deadline = time.monotonic() + PATIENCE
        while wanting and time.monotonic() < deadline:
            wanting = {name: query for name, query in wanting.items() if not watcher.ask(query)}
            time.sleep(0.5)
        assert not wanting
        assert watcher.ask('pgpool_connections_max{pool="web"}')[0]["value"][1] == "12", "two workers and the master"
        assert float(watcher.ask("sum(rate(pgpool_requests_total[10s]))")[0]["value"][1]) > 1
