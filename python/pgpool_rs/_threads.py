"""Start a thread of the pools."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import threading

# How often one caller starts a thread that is gone again when the caller looks.
MOST_STARTS: Final = 3


def start(thread: threading.Thread) -> None:
    """Start a thread in a context of its own, since it is not part of the request that happened to need it."""
    try:
        contextvars.Context().run(thread.start)
    except KeyError as error:
        # CPython raises it where an Exception interrupted `start` after the thread had begun.
        raise error.__context__ or error from None
