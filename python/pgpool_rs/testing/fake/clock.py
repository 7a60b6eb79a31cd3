"""A clock that a test puts forward, and what else it takes along: pgpool_rs's own clock, and the module `time`.

`time.time`, `time.monotonic` and their `_ns` kin are replaced when a clock that is installed is put forward, and come
back when no clock is installed any more. Until somebody puts one forward, nothing is touched.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from time import monotonic  # the real one, whatever the module `time` is made to say
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, final

from pgpool_rs import _housekeeping
from pgpool_rs._core import advance_clock
from pgpool_rs._locks import renewed_by_fork
from pgpool_rs._values import seconds as checked_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# As far as pgpool_rs's own clock goes in one step.
_LONGEST = 1e9
_NANOSECONDS = 1_000_000_000


@final
class Clock:
    """Tells the seconds since it was made: those that have passed, and those by which it has been put forward."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._began = monotonic()
        self._ahead = 0.0
        # What it has added to the module `time`, which it takes back at its end.
        self._lent_to_time = 0.0
        self._installed = 0

    def __call__(self) -> float:
        """Tell the time, in seconds."""
        return monotonic() - self._began + self._ahead

    def __repr__(self) -> str:
        """Show the time."""
        return f"<clock at {self():.3f} s, {self._ahead:g} s ahead>"

    @property
    def ahead(self) -> float:
        """Tell by how many seconds it has been put forward in all."""
        return self._ahead

    def advance(self, seconds: float) -> None:
        """Put this clock forward, and pgpool_rs's own; while its server is installed, `time` as well.

        Nobody waits less long for it: timeouts, sleeps and the pools' housekeeping thread go by the real time. What is
        due by now is done by `pool.maintain()`.

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
                _time.move(span)
                self._lent_to_time += span

    @contextmanager
    def installed(self) -> Iterator[Clock]:
        """Take the module `time` along until the end of the block, as `FakeServer.installed()` does.

        Then `time` is put back by what this clock has added, as is the end of every such block. pgpool_rs's own clock
        never goes back: a pool that outlives the block has aged.
        """
        with _lock:
            self._installed += 1
            _time.users += 1
        try:
            yield self
        finally:
            with _lock:
                self._installed -= 1
                _time.users -= 1
                if not self._installed:
                    _time.move(-self._lent_to_time)
                    self._lent_to_time = 0.0
                if not _time.users:
                    _time.restore()


@final
class _Time:
    """The module `time`, as one for whom it can be moved. Guarded by `_lock`."""

    def __init__(self) -> None:
        self.users = 0
        self._shift: _Shift | None = None

    def move(self, span: float) -> None:
        """Let it tell so much more from now on."""
        if self._shift is None and span:
            self._shift = _Shift()
        if self._shift is not None:
            self._shift.seconds += span

    def restore(self) -> None:
        """Let it tell the real time again."""
        if self._shift is not None:
            self._shift.end()
            self._shift = None


@final
class _Shift:
    """The functions that stand in for those of `time`, each telling what is told by the one it replaced, and more."""

    def __init__(self) -> None:
        """Take their places."""
        self.seconds = 0.0
        self._originals: dict[str, Callable[[], Any]] = {name: getattr(time, name) for name in _UNITS}
        self._moved = {name: self._moving(name, unit) for name, unit in _UNITS.items()}
        vars(time).update(self._moved)
        # The housekeeping thread sleeps by the real time. If it went by another, it would be late by as much as `time`
        # goes back in the end.
        vars(_housekeeping)["time"] = SimpleNamespace(monotonic=self._originals["monotonic"])

    def end(self) -> None:
        """Give the places back, unless somebody else has taken them meanwhile, who may go on asking these."""
        for name, function in self._moved.items():
            if getattr(time, name) is function:
                setattr(time, name, self._originals[name])
        vars(_housekeeping)["time"] = time

    def _moving(self, name: str, unit: int) -> Callable[[], Any]:
        original = self._originals[name]

        def moved() -> Any:
            return original() + (round(self.seconds * unit) if unit > 1 else self.seconds)

        moved.__name__ = name
        return moved


_UNITS = {"time": 1, "monotonic": 1, "time_ns": _NANOSECONDS, "monotonic_ns": _NANOSECONDS}
# Reentrant, since a signal handler may put a clock forward at any moment.
_lock = threading.RLock()
renewed_by_fork(_lock)  # type: ignore[arg-type]  # what it does to a Lock, it does to an RLock
_time = _Time()
