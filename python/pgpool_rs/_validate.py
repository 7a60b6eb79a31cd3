"""Check the value of an option. Each function returns the value in the form in which the pool uses it.

Each raises TypeError for a wrong type and ValueError for a value out of range. The message names the option.
"""

from __future__ import annotations

import inspect
import math
import operator
import sys
from typing import TYPE_CHECKING, Any

from pgpool_rs._core import kind, shown
from pgpool_rs._foreign import asked
from pgpool_rs._listener import EVENTS, methods

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(option: str, given: Any, *, none: str | None = None, zero: bool = True) -> float:
    """Check a time in seconds. Return infinity for None if `none` says what None means. Allow 0 only if `zero`."""
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


def pauses(option: str, given: Any) -> tuple[float, float] | None:
    """Check the shortest and the longest of pauses that grow, in seconds, or None."""
    if given is None:
        return None
    match [_real(pause) for pause in given] if isinstance(given, (tuple, list)) else []:
        case [float(shortest), float(longest)]:
            if 0 < shortest <= longest < math.inf:
                return shortest, longest
            raise ValueError(f"{option} must be (shortest, longest) with 0 < shortest <= longest, not {shown(given)}")
    raise TypeError(f"{option} must be two numbers of seconds (shortest, longest) or None, not {shown(given)}")


def count(option: str, given: Any, *, least: int, note: str = "") -> int:
    """Check a whole number. Return `sys.maxsize` at most."""
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
    """Check a callable, None, or one of the `words`, each of which stands for a callable of ours.

    If the value may be `secret`, the message names only its type.
    """
    if given is None or callable(given):
        _refuse_async(option, given)
        return given  # type: ignore[no-any-return]
    is_word = bool(words) and isinstance(given, str)
    if is_word and given in words:
        return words[given]
    allowed = ", ".join(["a callable", *(f'"{word}"' for word in words)])
    what = kind(given) if secret else shown(given)
    raise (ValueError if is_word else TypeError)(f"{option} must be {allowed} or None, not {what}")


def listener(option: str, given: Any) -> Any:
    """Check that it can be told something, or is None."""
    if given is None:
        return None
    found = [method for method in methods(given) if method is not None]
    if found and all(map(callable, found)) and not isinstance(given, type):
        for event, method in zip(EVENTS, methods(given), strict=True):
            _refuse_async(f"{option}.{event}", method)
        return given
    allowed = ", ".join(EVENTS)
    raise TypeError(f"{option} must be an object with some of the methods {allowed}, or None, not {kind(given)}")


def limit(option: str, given: Any) -> Any:
    """Check that it is a limit, or None."""
    parts = ("_attach", "_take", "_give", "_wait", "_holders")
    if given is None or (not isinstance(given, type) and all(callable(getattr(given, name, None)) for name in parts)):
        return given
    raise TypeError(f"{option} must be a HostLimit, a SharedLimit or None, not {kind(given)}")


def word(option: str, given: Any, *words: str) -> str:
    """Check that it is one of these words."""
    if isinstance(given, str) and given in words:
        return str(given)
    allowed = " or ".join(f'"{word}"' for word in words)
    raise (ValueError if isinstance(given, str) else TypeError)(f"{option} must be {allowed}, not {shown(given)}")


def text(option: str, given: Any) -> str:
    """Check a string that is not empty."""
    if not isinstance(given, str):
        raise TypeError(f"{option} must be a string, not {shown(given)}")
    if not given:
        raise ValueError(f"{option} must not be empty, not {shown(given)}")
    return given


def _refuse_async(option: str, given: Any) -> None:
    """Refuse a function whose call runs nothing: the pool only calls it."""
    kinds = inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction
    calls = given, getattr(type(given), "__call__", None)  # noqa: B004
    try:
        is_async = asked(lambda _: any(is_kind(call) for is_kind in kinds for call in calls), given)
    except TypeError:  # A proxy may have nothing behind it yet.
        return
    if is_async:
        raise TypeError(f"{option} must be a plain function, not an async one or a generator: its call runs nothing")


def _real(given: Any) -> float | None:
    """Return a number as a float, and None for anything else."""
    if isinstance(given, bool):
        return None
    try:
        # fsum takes every kind of number and, unlike float(), no string.
        return math.fsum((given,))
    except TypeError:
        return None
    except OverflowError:  # an integer beyond all floats
        return math.inf if given > 0 else -math.inf
