"""Other people's objects, whose `__str__` or `__repr__` may raise anything.

A signal handler may, too, between any two lines of ours: a job queue's time limit is a plain exception. So nothing but
what our own code can cause is caught there, and anything at all only round the call of such an object.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# What our own code causes, where it is given odd things or has no stack or memory.
CAUSED: Final = (
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    re.error,
)

_PLAIN: Final = frozenset({bool, bytes, float, int, str, type, type(None)})


def asked(ask: Callable[[Any], T], given: Any) -> T:
    """Return `ask(given)`.

    :raises TypeError: the object's own code has failed.
    """
    if type(given) in _PLAIN:
        return ask(given)
    try:
        return ask(given)
    except Exception:  # noqa: BLE001
        raise TypeError from None
