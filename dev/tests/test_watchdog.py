"""The watchdog of the tests that may hang prints all stacks and fails, whether the hang holds the GIL or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.programs import ROOT

PROGRAM = """
import ctypes, threading
import pytest
from tests.lib import watchdog
from tests.lib.watchdog import real_stderr, watchdog as _watchdog

watchdog.GRACE = 1.0
pytestmark = [pytest.mark.timeout(1), pytest.mark.usefixtures("_watchdog")]
never = threading.Lock()
never.acquire()
# A lock of the C library's, taken with the GIL held. No signal ends that.
lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(256)


def the_other_thread() -> None:
    never.acquire()


def hang() -> None:
    threading.Thread(target=the_other_thread, daemon=True).start()
    {how}


def test_hangs() -> None:
    hang()


def test_goes_on() -> None:
    pass
"""


@pytest.mark.parametrize(
    ("how", "goes_on"),
    [("never.acquire()", True), ("lock(mutex), lock(mutex)", False)],
    ids=["the GIL is free", "the GIL is held"],
)
def test_a_hang_prints_the_stacks_of_all_threads_and_fails(tmp_path: Path, how: str, *, goes_on: bool) -> None:
    program = tmp_path / "test_hanging.py"
    program.write_text(PROGRAM.format(how=how))
    options = ["-p", "no:cacheprovider", "-o", f"pythonpath={ROOT}", "--rootdir", str(tmp_path), "-c", "/dev/null"]
    command = [sys.executable, "-m", "pytest", *options, str(program)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    printed = finished.stdout + finished.stderr
    assert finished.returncode != 0
    assert "in hang" in printed or "hang()" in printed
    assert "the_other_thread" in printed
    assert ("1 failed, 1 passed" in printed) == goes_on, printed
