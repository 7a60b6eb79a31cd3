"""Call other people's `__str__` and `__repr__`, which may raise anything.

A signal handler may raise anything between two lines of ours, too: a job queue's time limit is a plain exception. So we
catch every Exception only around the call of such an object, and elsewhere only what our own code causes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# The errors that our own code causes when it gets odd values, or when stack or memory is short.
CAUSED: Final = (
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    re.error,
)

PLAIN: Final = frozenset({bool, bytes, float, int, str, type, type(None)})


def asked(ask: Callable[[Any], T], given: Any) -> T:
    """Return `ask(given)`.

    :raises TypeError: the object's own code raised an Exception.
    """
    if type(given) in PLAIN:
        return ask(given)
    try:
        return ask(given)
    except Exception:  # noqa: BLE001
        raise TypeError from None
