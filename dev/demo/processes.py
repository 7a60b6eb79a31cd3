"""End processes in order: the demo at a signal, and its children with it.

`python -m dev.demo.processes MODULE ARGUMENTS` runs a module as a child of the demo.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

PATIENCE = 10.0
"""Seconds for a child to end by itself. A longer one is killed."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: list[int] = []


def exit_at_signals() -> None:
    """Turn the first of SIGNALS into SystemExit, and ignore the others after it."""
    for number in SIGNALS:
        signal.signal(number, _exit)


def exit_after_signal() -> None:
    """Exit if a signal came, since Python drops an exception that a handler raises in a `__del__`."""
    if _received:
        sys.exit(128 + _received[0])


def _exit(number: int, _: FrameType | None) -> None:
    _received.append(number)
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    exit_after_signal()


@contextmanager
def child(module: str, *arguments: object) -> Iterator[IO[str]]:
    """Run a module and give its output. The end of the context, or of this process, however it ends, ends the child."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, module, *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # The terminal's Ctrl-C goes to the parent alone, which ends its children in order.
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _interrupt_at_end_of_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # The shell's `&` makes children ignore it.
    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    sys.argv = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
