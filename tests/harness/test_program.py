"""The program that PoolMachine prints: it runs as it stands, and fails as it did."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgpool_rs import SimpleConnectionPool
from pgpool_rs.testing import BrokenInvariant, FakeServer, PoolMachine
from pgpool_rs.testing.machine import judge
from pgpool_rs.testing.machine.program import written
from pgpool_rs.testing.machine.shrink import shrink
from tests.lib.broken_pools import MISTAKES, Mistake

ROOT = Path(__file__).parents[2]
PROMISES: dict[str, Any] = {"maxconn": 2, "max_lifetime": 600, "max_idle": 60, "check": True, "parallel": True}
# Of invariants that are broken at once, and not only if they stay broken for long.
SHOWN = (
    "KeepsWhatItLends",
    "CountsWhenConnected",
    "LosesASlotWithARollback",
    "LendsTheOld",
    "EndsABlockByObject",
)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a file of its own."""
    file = folder / "pasted.py"
    file.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, file], cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("mistake", [one for one in MISTAKES if one.name in SHOWN], ids=lambda mistake: mistake.name)
def test_the_program_of_a_broken_pool_breaks_the_invariant_and_passes_once_the_pool_is_right(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "PATIENCE", 0.5)
    pool_class = mistake.pool

    def make_pool(server: FakeServer) -> Any:
        return pool_class(2, server.connect, max_lifetime=600, max_idle=60, check=server.check)

    machine = PoolMachine.replay(make_pool, **PROMISES)
    with pytest.raises(BrokenInvariant) as raised:
        for step in (*mistake.program, "teardown()"):
            eval(f"machine.{step}")
    failure: Any = shrink(type(machine), raised.value)
    ran = run(failure.program, tmp_path)
    assert ran.returncode == 1, ran.stderr
    assert f"BrokenInvariant: {failure}" in ran.stderr
    assert failure.program.splitlines()[-1].endswith(f"  # raises BrokenInvariant: {failure.invariant}")
    ran = run(failure.program.replace(mistake.name, "SoundPool"), tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_pytest_shows_the_message_first_and_then_a_program_that_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "test_lost.py").write_text("""
from hypothesis import settings
from pgpool_rs import SimpleConnectionPool
from pgpool_rs.testing import PoolMachine

class Forgetful:
    def __init__(self, pool):
        self.pool = pool

    def getconn(self):
        return self.pool.getconn()

    def putconn(self, conn):
        if not conn.closed:
            self.pool.putconn(conn)

SIZE = 3
TestForgetful = PoolMachine.over(lambda server: Forgetful(SimpleConnectionPool(SIZE, SIZE)), maxconn=SIZE)
TestForgetful.settings = settings(TestForgetful.settings, database=None, derandomize=True)
""")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False).stdout
    report = shown.partition("TestForgetful.runTest ___")[2].partition("\n")[2].strip()
    assert report.startswith("E   pgpool_rs.testing.machine.invariant.BrokenInvariant: nothing_lost: "), shown
    program = re.split(r"\n[-=]{3}", report.partition("Captured stdout call -----------------------------\n")[2])[0]
    assert program.splitlines() == [
        "from pgpool_rs import SimpleConnectionPool",
        "from pgpool_rs.testing import PoolMachine",
        "from test_lost import Forgetful",
        "",
        "SIZE = 3",
        "machine = PoolMachine.replay(lambda server: Forgetful(SimpleConnectionPool(SIZE, SIZE)), maxconn=3)",
        "machine.borrow(borrower=1, key=None)  # borrower 1 has connection 3",
        "machine.close_the_connection(borrower=1)",
        "machine.teardown()  # raises BrokenInvariant: nothing_lost",
    ]
    ran = run(program, tmp_path)
    assert "BrokenInvariant: nothing_lost: " in ran.stderr, ran.stderr


def module_level(server: FakeServer) -> Any:
    return SimpleConnectionPool(1, 1)


def local_ones() -> list[Callable[[FakeServer], Any]]:
    sizes = [1, 1]
    maker = functools.partial(SimpleConnectionPool, *sizes)

    def make(server: FakeServer) -> Any:
        time.sleep(0)
        return helper(*sizes)

    helper: Any = lambda *given: SimpleConnectionPool(*given, name="helped")  # noqa: E731
    return [make, lambda server: maker()]


def test_the_program_finds_its_factory_or_says_what_is_missing() -> None:
    head = ["from pgpool_rs.testing import PoolMachine"]
    call = "machine = PoolMachine.replay({}, maxconn=1)"
    made, by_partial = local_ones()
    for factory, lines in (
        (module_level, [*head, f"from {__name__} import module_level", "", call.format("module_level")]),
        (
            made,
            [
                "from __future__ import annotations",
                "from pgpool_rs import SimpleConnectionPool",
                *head,
                "import time",
                "",
                'helper = lambda *given: SimpleConnectionPool(*given, name="helped")',
                "sizes = [1, 1]",
                "def make(server: FakeServer) -> Any:",
                "    time.sleep(0)",
                "    return helper(*sizes)",
                "",
                call.format("make"),
            ],
        ),
        (
            by_partial,
            [
                *head,
                "",
                f"maker = ...  # to be filled in: what was {functools.partial(SimpleConnectionPool, 1, 1)!r}",
                call.format("lambda server: maker()"),
            ],
        ),
    ):
        assert written(PoolMachine, factory, {"maxconn": 1}, []).splitlines() == lines
