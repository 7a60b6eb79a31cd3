"""Write a line to the logger `pgpool_rs.limits`."""

from __future__ import annotations

from functools import partial

from pgpool_rs import _log
from pgpool_rs._core import speak


def say(level: int, template: str, event: str, *args: object) -> None:
    """Write it, if anyone listens."""
    if _log.is_heard("limits", level):
        speak(partial(_log.write, level, template, args, None, event, None, "limits"))
