"""Turn Ctrl-C, a closed terminal or a kill into an ordinary exit, which stops all that was started."""

from __future__ import annotations

import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_received: list[int] = []


def listen() -> None:
    """Exit at the first of SIGNALS; the others may not disturb the exit."""
    for number in SIGNALS:
        signal.signal(number, _end)


def exit_if_told() -> None:
    """Exit if a signal came. What a handler raises in a weak reference's callback or in a __del__ is lost."""
    if _received:
        sys.exit(128 + _received[0])


def _end(number: int, _: FrameType | None) -> None:
    _received.append(number)
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    exit_if_told()
