"""A process ends soon and quietly with its housekeeping thread, whatever that is doing."""

from __future__ import annotations

import pytest

from pgpool_rs._housekeeper import House, Housekeeper
from pgpool_rs.testing import PATIENCE, Gate
from tests.lib.housekeepers import AT_THE_END, IMPATIENCE, PROLOGUE, StubPool, house_of, thread_of
from tests.lib.programs import run_program
from tests.lib.waits import Task


@pytest.mark.parametrize("state", AT_THE_END)
def test_a_process_ends_quietly_and_soon_with_its_thread(state: str) -> None:
    assert run_program(f"{PROLOGUE}\n{AT_THE_END[state]}\npoke_and_wait(pool)", timeout=IMPATIENCE) == ""


def test_the_end_of_a_process_waits_a_moment_only_for_a_pool_that_is_busy() -> None:
    output = run_program(f"""{PROLOGUE}
pool = Pool(does=lambda: time.sleep(600))
poke_and_wait(pool)
begin = time.monotonic()
_housekeeper.housekeeper.end()
print(0.1 < time.monotonic() - begin < 100)
""")
    assert output == "True\n"


def test_a_sleeping_thread_has_ended_when_the_process_ends() -> None:
    output = run_program(f"""{PROLOGUE}
_housekeeper.JOIN_TIMEOUT = 90.0
pool = Pool(600)
poke_and_wait(pool)
[thread] = [thread for thread in threading.enumerate() if thread.name == "pgpool_rs housekeeping"]
_housekeeper.housekeeper.end()
print(thread.is_alive())
""")
    assert output == "False\n"


def test_what_ends_later_than_the_thread_finds_it_gone() -> None:
    output = run_program(f"""
import atexit

@atexit.register  # the first to come is the last to go
def look_back():
    assert threading.active_count() == 1
    calls = pool.calls
    _housekeeper.housekeeper.poke(pool)
    assert threading.active_count() == 1
    assert pool.calls == calls
    print("well")
{PROLOGUE}
_housekeeper.JOIN_TIMEOUT = 90.0
pool = Pool(600)
poke_and_wait(pool)
""")
    assert output == "well\n"


@pytest.mark.parametrize("first", [True, False])
def test_pokes_at_the_very_end_do_nothing(first: bool) -> None:
    output = run_program(f"""{PROLOGUE}
pool = Pool()
if {first}:
    poke_and_wait(pool)
begun = pool.calls
start = threading.Thread.start
threading.Thread.start = lambda thread: (print("started"), start(thread))

class Late:
    def __init__(self):
        self.myself = self
        self.pokes = (_housekeeper.housekeeper.poke, _housekeeper.housekeeper.poke_quietly)

    def __del__(self, pool=pool, begun=begun, write=os.write, sleep=time.sleep):
        for poke in self.pokes:
            poke(pool)
        sleep(0.05)
        write(1, b"well\\n" if pool.calls == begun else b"called\\n")

# Some die while modules are being taken apart, some before and some after.
sys.late = Late()
sys.modules["late"] = Late()
_housekeeper.late = Late()
late = Late()
atexit.register(Late.__del__, late)
atexit.unregister(_housekeeper.housekeeper.end)
atexit.register(_housekeeper.housekeeper.end)
""")
    assert set(output.splitlines()) == {"well"}
    assert len(output.splitlines()) >= 4


def test_once_the_end_has_come_no_other_pool_is_called_on(housekeeper: Housekeeper) -> None:
    gate = Gate()
    pools = [StubPool(does=gate.pass_through) for _ in range(3)]
    for pool in pools:
        housekeeper.poke_quietly(pool)
    housekeeper.poke(pools[0])
    gate.wait_for(1)
    thread = thread_of(housekeeper)
    housekeeper.end()
    gate.release()
    thread.join(PATIENCE)
    assert sum(len(pool.calls) for pool in pools) == 1


def test_a_poke_that_the_end_overtakes_starts_no_thread(
    housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = housekeeper._note

    def note_and_end(pool: StubPool) -> House:
        house = note(pool)
        housekeeper.end()
        return house

    monkeypatch.setattr(housekeeper, "_note", note_and_end)
    Task(housekeeper.poke, StubPool()).result()
    assert house_of(housekeeper).thread is None


@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_a_thread_that_fails_or_is_ended_as_the_process_ends_logs_nothing_and_has_no_successor(
    housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    gate = Gate()

    def hold_then_fail() -> None:
        gate.pass_through()
        raise error

    pool = StubPool(does=hold_then_fail)
    housekeeper.poke(pool)
    gate.wait_for(1)
    thread = thread_of(housekeeper)
    Task(housekeeper.end).result()
    gate.release()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert house_of(housekeeper).thread is None or error is ValueError
    assert caplog.records == []
