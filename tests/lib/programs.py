"""Processes that fork, each wait for them bounded: what hangs is ended, and its stacks are shown."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, final

# Where programs run, so that `tests.lib` is on their path.
ROOT = Path(__file__).parents[2]
# Every process of ours shows the stacks of all its threads when it gets this signal.
SHOW_STACKS = signal.SIGRTMIN


def show_stacks_when_asked() -> None:
    """Let this process, and every one forked from it, print all its stacks when it gets SHOW_STACKS."""
    faulthandler.register(SHOW_STACKS, all_threads=True)


class Group:
    """A running program with all the processes it has forked, and what they print."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: int, output: Path) -> None:
        """Watch this program. The lifeline is a pipe whose other end every process of the group holds."""
        self.process = process
        self._lifeline = lifeline
        self._output = output

    @property
    def output(self) -> str:
        """Give what was printed until now."""
        return self._output.read_text(errors="replace")

    def all_ended(self, patience: float) -> bool:
        """Tell whether no process of the group is left, after waiting this many seconds for it at most."""
        return bool(select.select([self._lifeline], [], [], patience)[0])

    def fail(self, what: str) -> NoReturn:
        """Fail, with all stacks of all processes."""
        for pid in _members(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, SHOW_STACKS)
            time.sleep(0.2)  # so that they print one after the other
        raise AssertionError(f"{what}\n{self.output}")

    def wait(self, patience: float) -> int:
        """Wait for the program's end; return its exit status."""
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.fail(f"the program still runs after {patience:g} seconds")
        if not self.all_ended(30):
            self.fail("the program has left processes behind")
        return status


def _members(number: int) -> list[int]:
    """List the processes of a group, where the system tells."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, _, fields = stat.read_text().rpartition(")")
            if int(fields.split()[2]) == number:
                members.append(int(stat.parent.name))
    return sorted(members)


@contextmanager
def group(
    command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Group]:
    """Run a program in a process group of its own; kill whatever is left of it at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="group_") as temporary:
        output = Path(temporary) / "output"
        lifeline, other_end = os.pipe()
        try:
            try:
                with output.open("ab") as log:
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=folder,
                        env={**os.environ, **(environment or {})},
                        pass_fds=[other_end],
                        start_new_session=True,
                    )
            finally:
                os.close(other_end)
            try:
                yield Group(process, lifeline, output)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        finally:
            os.close(lifeline)


def run_program(source: str, *, timeout: float = 200.0) -> str:
    """Run a Python program in a process of its own, with `tests.lib` on its path; return what it printed."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert finished.returncode == 0, f"exit status {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def run_forking_program(source: str, *, patience: float = 200.0) -> str:
    """Run a Python program that forks, with this module's names at hand, and return what it printed."""
    prologue = "from tests.lib.programs import *\nshow_stacks_when_asked(); expect_threads_at_forks()\n"
    with group([sys.executable, "-W", "error", "-c", prologue + source], folder=ROOT) as program:
        status = program.wait(patience)
        assert status == 0, f"exit status {status}\n{program.output}"
        return program.output


def expect_threads_at_forks() -> None:
    """Let no warning be given where a process with threads is forked, which CPython does from 3.12 on."""
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)


def _fork_as_c_does() -> int:
    """Fork as a server written in C does: with the GIL held, and none of Python's own hooks run.

    CPython's locks stay as they are, so all other threads must be asleep. One that has asked for the GIL for longer
    than the switch interval would be waited for when the child lets go of it, and so for ever.
    """
    deadline = time.monotonic() + 20
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5.0)
    try:
        before: list[str] | None = None
        while (seen := _other_threads()) != before or any("State:\tS" not in status for status in seen):
            assert time.monotonic() < deadline, "another thread never sleeps"
            before = seen
            time.sleep(0.02)
        pid: int = ctypes.PyDLL(None).fork()
    finally:
        sys.setswitchinterval(interval)
    return pid


def _other_threads() -> list[str]:
    """Give the states of this process's other threads, with how often each has gone to sleep."""
    states = []
    for task in sorted(Path("/proc/self/task").glob("*")):
        if task.name != str(threading.get_native_id()):
            with suppress(FileNotFoundError, ProcessLookupError):  # It may end at any moment.
                states.append(re.sub(r"(?m)^(?!Pid:|State:|voluntary).*\n", "", (task / "status").read_text()))
    return states


FORKS: Final[Mapping[str, Callable[[], int]]] = {"os.fork": os.fork, "fork in C": _fork_as_c_does}


@contextmanager
def ending_the_child() -> Iterator[None]:
    """End a forked child with its block: its error is printed, and Python's finalisation does not run."""
    status = 1
    try:
        yield
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@final
class Child:
    """A forked process that runs a function and nothing else."""

    # How long a child may take. Its own children may take less, so that a parent notices a child that hangs.
    _patience = 90.0

    def __init__(self, function: Callable[..., object], *args: Any, how: str = "os.fork") -> None:
        """Fork. The child never returns from here: it ends, with its error printed, without Python's finalisation."""
        self.pid = FORKS[how]()
        if self.pid == 0:
            with ending_the_child():
                Child._patience *= 2 / 3
                function(*args)

    def wait(self) -> None:
        """Wait for its end, and raise if it failed or hangs."""
        status = wait_for_end(self.pid, self._patience)
        assert status == 0, f"the child's exit status is {status}"


def wait_for_end(pid: int, patience: float = 90.0) -> int:
    """Wait for the end of a child; return its exit status. One that hangs shows its stacks and is killed."""
    deadline = time.monotonic() + patience
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, SHOW_STACKS)
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"the child {pid} hangs")
        time.sleep(0.0005)


def in_a_child(function: Callable[..., object], *args: Any, how: str = "os.fork") -> None:
    """Run a function in a forked child, and wait for its end."""
    Child(function, *args, how=how).wait()


# The beginning of programs that fork with a pool on a fake server.
PROLOGUE = """
import gc
import logging
import os
import random
import threading
import time

import psycopg2

from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.waits import Task, counts, wait_until, waiting_task
from tests.lib.pools import assert_whole
from pgpool_rs import PoolClosed, PoolError, PoolTimeout, SimpleConnectionPool, ThreadedConnectionPool, _core

server = FakeServer()
psycopg2.connect = server.connect

def other_server():
    # For a child: the connections it opens are this server's.
    other = FakeServer()
    psycopg2.connect = other.connect
    return other

def assert_refused(call, *args, error=PoolError):
    try:
        call(*args)
    except error:
        return
    raise AssertionError("not refused")

def assert_empty(pool):
    assert [counts(pool)[name] for name in ("idle", "lent", "opening", "returning", "waiting")] == [0] * 5, pool
    assert (list(pool._pool), dict(pool._used), dict(pool._rused)) == ([], {}, {})
    assert pool.loans() == []
    statistics = {name: number for name, number in pool.get_stats().items() if number}
    assert statistics == {"pool_min": pool.minconn, "pool_max": pool.maxconn}, statistics
"""
