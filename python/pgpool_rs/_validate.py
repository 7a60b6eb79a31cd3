"""Check what is given for an option: a wrong type is a TypeError, a wrong range a ValueError.

Each function takes the option's name, for its messages, and returns the value in the form in which it is used.
"""

from __future__ import annotations

import math
import operator
import sys
from typing import TYPE_CHECKING, Any

from pgpool_rs._core import kind, shown

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(option: str, given: Any, *, none: str | None = None, zero: bool = True) -> float:
    """Check a time; None, if `none` says what it is there for, is infinity. 0 is refused where `zero` is false."""
    if given is None and none is not None:
        return math.inf
    value = _real(given)
    if value is None:
        alternative = "" if none is None else " or None"
        raise TypeError(f"{option} must be a number of seconds{alternative}, not {shown(given)}")
    if value > 0 or (zero and value == 0):
        return value
    least = "0 or more" if zero else "more than 0"
    alternative = "" if none is None else f", or None {none}"
    raise ValueError(f"{option} must be {least} seconds{alternative}, not {shown(given)}")


def count(option: str, given: Any, *, least: int, note: str = "") -> int:
    """Check a whole number. What is beyond all that can be counted becomes the greatest that can."""
    try:
        value = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        value = None
    if value is None:
        raise TypeError(f"{option} must be a whole number, not {shown(given)}")
    if value < least:
        raise ValueError(f"{option} must be {least}{note} or more, not {shown(given)}")
    return min(value, sys.maxsize)


def flag(option: str, given: Any) -> bool:
    """Check a bool."""
    if not isinstance(given, bool):
        raise TypeError(f"{option} must be True or False, not {shown(given)}")
    return given


def callback(
    option: str, given: Any, *, secret: bool = False, **words: Callable[..., Any]
) -> Callable[..., Any] | None:
    """Check a callable or None; or one of the words, each of which stands for a callable of ours.

    What may be `secret` is not repeated in the message, only its type is.
    """
    if given is None or callable(given):
        return given  # type: ignore[no-any-return]
    is_word = bool(words) and isinstance(given, str)
    if is_word and given in words:
        return words[given]
    allowed = ", ".join(["a callable", *(f'"{word}"' for word in words)])
    what = kind(given) if secret else shown(given)
    raise (ValueError if is_word else TypeError)(f"{option} must be {allowed} or None, not {what}")


def text(option: str, given: Any) -> str:
    """Check a string that is not empty."""
    if not isinstance(given, str):
        raise TypeError(f"{option} must be a string, not {shown(given)}")
    if not given:
        raise ValueError(f"{option} must not be empty, not {shown(given)}")
    return given


def _real(given: Any) -> float | None:
    """Read a number; answer None for anything else."""
    if isinstance(given, bool):
        return None
    try:
        # This takes every kind of number, and no string that float() would read.
        return math.fsum((given,))
    except TypeError:
        return None
    except OverflowError:  # An integer beyond all floats.
        return math.inf if given > 0 else -math.inf
