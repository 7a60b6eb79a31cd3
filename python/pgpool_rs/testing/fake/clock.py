"""A clock that a test puts forward, and what it takes along: pgpool_rs's own clock, and the module `time`.

The first step inside an `installed()` block replaces `time.time`, `time.monotonic` and their `_ns` kin. They come back
when no clock is installed any more.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from time import monotonic  # the real one, whatever the module `time` is made to say
from typing import TYPE_CHECKING, Any, Final, final

from pgpool_rs._core import advance_clock
from pgpool_rs._fork import renewed_by_fork
from pgpool_rs._validate import seconds as checked_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# As far as pgpool_rs's own clock goes in one step.
_LONGEST: Final = 1e9
_UNITS: Final = {"time": 1, "monotonic": 1, "time_ns": 1_000_000_000, "monotonic_ns": 1_000_000_000}


@final
class Clock:
    """Tells the seconds since it was made: those that have passed, and those by which it has been put forward."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._ahead = 0.0
        # What it has added to the module `time`, and takes back at its end.
        self._lent_to_time = 0.0
        self._installed = 0

    def __call__(self) -> float:
        """Tell the time, in seconds."""
        return monotonic() - self._began + self._ahead

    def __repr__(self) -> str:
        return f"<clock at {self():.3f} s, {self._ahead:g} s ahead>"

    @property
    def ahead(self) -> float:
        """Tell by how many seconds it has been put forward in all."""
        return self._ahead

    def advance(self, seconds: float) -> None:
        """Put this clock forward, and pgpool_rs's own; while its server is installed, `time` as well.

        It shortens no wait: timeouts, sleeps and the housekeeping thread go by the real time. `pool.maintain()` does
        what is due by now.

        :raises ValueError: `seconds` is negative, not a number, or more than 1e9.
        :raises TypeError: `seconds` is not a number.
        """
        span = checked_seconds("seconds", seconds)
        if not span <= _LONGEST:
            raise ValueError(f"seconds must be {_LONGEST:g} or less, not {seconds!r}")
        with _lock:
            advance_clock(span)
            self._ahead += span
            if self._installed:
                _shifts[-1].move(span)
                self._lent_to_time += span

    @contextmanager
    def installed(self) -> Iterator[Clock]:
        """Take the module `time` along until the end of the block, as `FakeServer.installed()` does.

        The end of the block takes back from `time` what this clock has added. pgpool_rs's own clock never goes back: a
        pool that outlives the block has aged.
        """
        with _lock:
            if not _shifts:
                _shifts.append(_Shift())
            _shifts[-1].users += 1
            self._installed += 1
        try:
            yield self
        finally:
            with _lock:
                self._installed -= 1
                if not self._installed:
                    _shifts[-1].move(-self._lent_to_time)
                    self._lent_to_time = 0.0
                _shifts[-1].users -= 1
                if not _shifts[-1].users:
                    _shifts.pop().end()


@final
class _Shift:
    """The functions that stand in for those of `time`: each adds to what the one that it replaces tells."""

    def __init__(self) -> None:
        self.users = 0
        self._seconds = 0.0
        # By name: the function that was replaced, and the one in its place.
        self._functions: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}

    def move(self, span: float) -> None:
        """Add so much from now on."""
        if span and not self._functions:
            for name, unit in _UNITS.items():
                original = getattr(time, name)
                self._functions[name] = original, self._moving(name, unit, original)
                setattr(time, name, self._functions[name][1])
        self._seconds += span

    def end(self) -> None:
        """Put the originals back, except where another function has taken the place meanwhile: it may call ours."""
        for name, (original, moved) in self._functions.items():
            if getattr(time, name) is moved:
                setattr(time, name, original)

    def _moving(self, name: str, unit: int, original: Callable[[], Any]) -> Callable[[], Any]:
        def moved() -> Any:
            return original() + (round(self._seconds * unit) if unit > 1 else self._seconds)

        moved.__name__ = name
        return moved


# What stands in for `time` while any clock is installed: one, or none.
_shifts: Final[list[_Shift]] = []
# Reentrant, since a signal handler may put a clock forward at any moment.
_lock = threading.RLock()
renewed_by_fork(_lock)  # type: ignore[arg-type]  # what it does to a Lock, it does to an RLock
