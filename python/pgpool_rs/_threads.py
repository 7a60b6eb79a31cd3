"""Start a thread of the pools."""

from __future__ import annotations

import contextvars
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

# How often one caller starts a thread that is gone again when the caller looks.
MOST_STARTS: Final = 3
# What `start` raises where there are too many threads, or no memory or stack, or at the interpreter's end.
CANNOT_START: Final = (RuntimeError, MemoryError, OSError)
# Whether the interpreter is ending: no other thread runs any more, and psycopg2 can make no cursor.
is_ending: Callable[[], bool] = sys.is_finalizing


def start(thread: threading.Thread, is_ending: Callable[[], bool] = is_ending) -> None:
    """Start a thread in a context of its own, since it is not part of the request that happened to need it.

    :param is_ending: a default, since the interpreter may have cleared this module's names.
    :raises RuntimeError: no thread can be started, or the interpreter is ending.
    """
    if is_ending():
        # Up to CPython 3.11 `Thread.start` would wait for ever: the thread begins, and never gets the GIL.
        raise RuntimeError("can't start a thread while the interpreter is ending")
    try:
        contextvars.Context().run(thread.start)
    except KeyError as error:
        # CPython raises it where an Exception interrupted `start` after the thread had begun.
        raise error.__context__ or error from None
