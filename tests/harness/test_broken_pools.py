"""Each broken pool is caught by the machine, which names the invariant that was broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pgpool_rs.testing import FakeServer
from pgpool_rs.testing.machine import judge
from pgpool_rs.testing.machine.invariant import BrokenInvariant
from pgpool_rs.testing.machine.machine import PoolMachine
from pgpool_rs.testing.machine.promises import Promises
from tests.lib.broken_pools import MISTAKES, Mistake
from tests.lib.profile import NIGHTLY
from tests.lib.sound_pool import CountingPool, SoundPool

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
PROMISES: dict[str, Any] = {"maxconn": 2, "max_lifetime": 600, "max_idle": 60, "check": True, "parallel": True}

each_mistake = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for calls that never answer: here many do not."""
    monkeypatch.setattr(judge, "PATIENCE", 0.5)


def run(case: Any, **more: Any) -> None:
    """Let hypothesis try, the same way each time."""
    case.settings = settings(case.settings, database=None, derandomize=True, **more)
    case("runTest").runTest()


@pytest.mark.parametrize("pool_class", [SoundPool, CountingPool])
def test_the_pool_that_is_not_broken_passes(pool_class: type[SoundPool]) -> None:
    def make(server: FakeServer) -> SoundPool:
        return pool_class(2, server.connect, max_lifetime=600, max_idle=60, check=server.check)

    run(PoolMachine.over(make, **PROMISES), max_examples=25)


# A search takes some seconds; the shortest programs below show each mistake at once. `make prove` searches for all.
@pytest.mark.parametrize("mistake", MISTAKES if NIGHTLY else MISTAKES[::4], ids=lambda mistake: mistake.name)
def test_the_machine_finds_the_mistake(mistake: Mistake) -> None:
    with pytest.raises(BrokenInvariant) as raised:
        run(PoolMachine.over(mistake.make, **PROMISES), max_examples=2000)
    assert raised.value.invariant in (mistake.caught_by, *mistake.also), str(raised.value)


def replayed(mistake: Mistake, program: tuple[str, ...]) -> BrokenInvariant | None:
    """Do these steps, and what the machine does at its end."""

    class Machine(PoolMachine):
        promises = Promises(**PROMISES)

        def make_pool(self, server: FakeServer) -> SoundPool:
            return mistake.make(server)

    machine = Machine()
    try:
        for step in program:
            eval(f"machine.{step}", {"machine": machine})
    except BrokenInvariant as error:
        machine.driver.let_go()
        machine._ending.close()
        return error
    try:
        machine.teardown()
    except BrokenInvariant as error:
        return error
    return None


@each_mistake
def test_its_program_breaks_the_invariant_and_no_shorter_one_does(mistake: Mistake) -> None:
    error = replayed(mistake, mistake.program)
    assert error is not None
    assert error.invariant == mistake.caught_by
    assert str(error).startswith(f"{mistake.caught_by}: ")
    shorter = replayed(mistake, mistake.program[:-1]) if mistake.program else None
    assert shorter is None or shorter.invariant != mistake.caught_by


def test_the_page_has_each_broken_pool_with_its_mistake_and_what_catches_it() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(\w+)` \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(mistake.name, mistake.words, mistake.caught_by, str(len(mistake.program))) for mistake in MISTAKES]
