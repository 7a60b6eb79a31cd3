from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgpool_rs._command import main
from pgpool_rs.testing import PATIENCE
from tests.lib.programs import ROOT
from tests.lib.publishers import publisher, wait_for_loans
from tests.lib.waits import wait_until


@contextmanager
def exporter(folder: Path) -> Iterator[str]:
    """Run an exporter, and give its address."""
    command = [sys.executable, "-W", "error", "-m", "pgpool_rs", "exporter", "--port", "0", "--folder", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def figures(address: str, name: str) -> dict[tuple[str, str], float]:
    """Read one metric, by process and pool."""
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.labels["process"].partition("-")[0], sample.labels["pool"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def test_one_port_serves_all_processes_and_forgets_a_killed_one(tmp_path: Path) -> None:
    with publisher(tmp_path) as first, publisher(tmp_path) as second, exporter(tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
        one, two = str(first.pid), str(second.pid)
        wait_for_loans(tmp_path, 2)
        expected = {(one, "web"): 4, (one, "jobs"): 2, (two, "web"): 4, (two, "jobs"): 2}
        assert figures(address, "pgpool_connections_max") == expected
        assert figures(address, "pgpool_requests_total")[one, "web"] == 1
        assert figures(address, "pgpool_wait_seconds_count")[two, "web"] == 1
        second.kill()
        second.wait()
        assert figures(address, "pgpool_requests_total").keys() == {(one, "web"), (one, "jobs")}
        first.kill()
        wait_until(lambda: not figures(address, "pgpool_requests_total"), "no process")


def test_without_prometheus_client_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["exporter", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == ("pgpool_rs: exporter needs prometheus_client: pip install prometheus-client\n")


def test_a_port_that_is_taken_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["exporter", "--folder", str(tmp_path), "--port", port]) == 1
    assert f"cannot serve at 127.0.0.1, port {port}: " in capsys.readouterr().err
    assert main(["exporter", "--folder", str(tmp_path), "--port", "99999"]) == 1
