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


LIMIT = 3
PASSWORD = "hunter2"


class Shop:
    def make_pool(self, server: FakeServer) -> Any:
        return SimpleConnectionPool(1, LIMIT)


def module_level(server: FakeServer) -> Any:
    return SimpleConnectionPool(1, 1)


def local_ones() -> dict[str, Callable[..., Any]]:
    """Give factories that no import finds, and that the program can write all the same."""
    sizes, limit = [1, 1], 3
    maker = functools.partial(SimpleConnectionPool, *sizes, name="made")

    def passed_on(make: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(make)(lambda server: make(server))  # noqa: PLW0108  a function of its own

    def plain(server: FakeServer) -> Any:
        time.sleep(0)
        return helper(*sizes)

    def with_defaults(server: FakeServer, n: int = limit, *, m: int = LIMIT, make: Any = lambda n: maker()) -> Any:
        return make(n + m)

    def with_inner_parts(server: FakeServer) -> Any:
        def inner() -> Any:
            made = [SimpleConnectionPool(*sizes) for _ in range(limit - LIMIT + 1)]
            return made[0]

        return inner()

    @passed_on
    def decorated(server: FakeServer) -> Any:
        return maker()

    helper: Any = lambda *given: SimpleConnectionPool(*given, name="helped")  # noqa: E731
    _, second = lambda server: maker(), lambda server: helper(*sizes)  # fmt: skip
    return {
        "plain": plain,
        "with defaults": with_defaults,
        "with inner parts": with_inner_parts,
        "decorated": decorated,
        "second on its line": second,
        "partial": functools.partial(with_defaults, n=2, make=lambda n: maker()),
    }


@pytest.mark.parametrize("kind", local_ones())
def test_the_program_of_a_local_factory_runs_as_it_stands(kind: str) -> None:
    if kind == "second on its line" and sys.version_info < (3, 11):
        pytest.skip("this Python does not tell which lambda of a line it is")
    program = written(PoolMachine, local_ones()[kind], {"maxconn": 1}, ["machine.teardown()"])
    assert "..." not in program
    exec(program, {})


def test_the_program_finds_its_factory_or_says_what_is_missing() -> None:
    head = ["from pgpool_rs.testing import PoolMachine"]
    call = "machine = PoolMachine.replay({}, maxconn=1)"
    for factory, lines in (
        (module_level, [*head, f"from {__name__} import module_level", "", call.format("module_level")]),
        (
            local_ones()["plain"],
            [
                "from __future__ import annotations",
                "from pgpool_rs import SimpleConnectionPool",
                *head,
                "import time",
                "",
                "helper = lambda *given: SimpleConnectionPool(*given, name='helped')",
                "sizes = [1, 1]",
                "def plain(server: FakeServer) -> Any:",
                "    time.sleep(0)",
                "    return helper(*sizes)",
                call.format("plain"),
            ],
        ),
        (
            Shop().make_pool,
            [*head, "", "make_pool = ...  # to be filled in: Shop object", call.format("make_pool.make_pool")],
        ),
    ):
        assert written(PoolMachine, factory, {"maxconn": 1}, []).splitlines() == lines


def counting() -> Callable[..., Any]:
    made = 0

    def make(server: FakeServer) -> Any:
        nonlocal made
        made += 1

    return make


def same_names() -> Callable[..., Any]:
    def of(size: int) -> Callable[..., Any]:
        return lambda: size

    one, two = of(1), of(2)
    return lambda server: SimpleConnectionPool(one(), two())


@pytest.mark.parametrize("factory", [counting(), same_names()], ids=["nonlocal", "two variables of one name"])
def test_the_program_shows_what_it_cannot_write(factory: Callable[..., Any]) -> None:
    assert " = ...  # to be filled in: " in written(PoolMachine, factory, {"maxconn": 1}, [])


def with_passwords() -> list[Callable[..., Any]]:
    dsn, word = f"dbname=x password={PASSWORD}", "".join(PASSWORD)
    make: Any = SimpleConnectionPool
    given = {"password": word}
    return [
        functools.partial(make, 0, 2, dsn),
        functools.partial(make, 0, 2, password=word),
        functools.partial(make, 0, 2, connect=functools.partial(make, f"postgresql://me:{word}@db/x")),
        lambda server: make(0, 2, dsn),
        lambda server: make(0, 2, password=word),
        lambda server: make(0, 2, f"dbname=x password={word}"),
        lambda server, password=word: make(0, 2, password=password),
        lambda server: make(0, 2, **given),
        lambda server: make(0, 2, "dbname=x password='hunter2'"),
        lambda server: make(0, 2, password=PASSWORD),
    ]


@pytest.mark.parametrize("factory", with_passwords())
def test_the_program_shows_no_password(factory: Callable[..., Any]) -> None:
    program = written(PoolMachine, factory, {"maxconn": 1}, ["machine.teardown()"])
    assert PASSWORD not in program
    compile(program, "program", "exec")
