"""Processes that publish their pools, and end when they are told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pgpool_rs._publishing import Process, read
from tests.lib.programs import ROOT
from tests.lib.waits import wait_until

# Two pools, one of which has lent a connection; the program lives until its standard input ends.
SHOP = """
import sys

import psycopg2

from pgpool_rs import ThreadedConnectionPool, _publishing
from pgpool_rs.testing import FakeServer

psycopg2.connect = FakeServer().connect
web = ThreadedConnectionPool(1, 4, "password=open-sesame", name="web", leak_after=3600)
jobs = ThreadedConnectionPool(0, 2, name="jobs")


def handle_order():
    return web.getconn("customer 17")


lent = handle_order()
sys.stdin.read()
"""


@contextmanager
def publisher(folder: Path, source: str = SHOP) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that publishes in this folder."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source],
        cwd=ROOT,
        env={**os.environ, "PGPOOL_RS_PUBLISH": str(folder)},
        stdin=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(folder: Path, condition: Callable[[list[Process]], bool], what: str) -> list[Process]:
    """Read the folder until this holds."""
    seen: list[Process] = []

    def holds() -> bool:
        seen[:] = read(folder)
        return condition(seen)

    wait_until(holds, what)
    return seen


def wait_for_pids(folder: Path, *pids: int) -> list[Process]:
    """Read the folder until just these processes publish there."""
    return wait_for(folder, lambda seen: sorted(process.pid for process in seen) == sorted(pids), f"just {pids}")


def wait_for_loans(folder: Path, processes: int) -> None:
    """Read the folder until so many shops have published their loan and both pools."""

    def are_there(seen: list[Process]) -> bool:
        return [len(process.pools) for process in seen if process.pools[0].stack] == [2] * processes

    wait_for(folder, are_there, "all loans and pools")
