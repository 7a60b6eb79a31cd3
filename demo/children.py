"""Start processes that cannot outlive their parent: the demo's servers and clients."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PATIENCE = 10.0
"""Seconds that a child has to end by itself when it is told to."""


@contextmanager
def child(program: str, *arguments: object) -> Iterator[IO[str]]:
    """Run a program, named as seen from this folder, and give its output; leaving the context ends it.

    It is told to stop by the end of its standard input, which comes too when this process is killed.
    """
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in a terminal is for the parent, who stops its children in order.
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


def when_told_to_stop(stop: Callable[[], object]) -> None:
    """In a child: call `stop` from a thread of its own when the standard input ends."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        stop()

    threading.Thread(target=wait, daemon=True).start()


def die() -> None:
    """End this process at once, for one that has nothing to put in order."""
    os._exit(0)
