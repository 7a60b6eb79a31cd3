"""A gate that keeps callers inside a call."""

from __future__ import annotations

__tracebackhide__ = True

import threading
from typing import final

# How long anything in a test may take before it counts as hanging, in seconds.
PATIENCE = 30.0


@final
class Gate:
    """Keeps callers inside a call until a test releases it, and tells how many have arrived."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._passes = 0
        self._open = False
        self.arrived = 0
        """How many callers have come since the gate was made."""

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_released(self) -> bool:
        """Tell whether it is open for good."""
        return self._open

    def pass_through(self) -> None:
        """Arrive, and stay until let through.

        :raises AssertionError: it was not let through within PATIENCE.
        """
        with self._changed:
            self.arrived += 1
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._open or self._passes > 0, PATIENCE):
                raise AssertionError("nobody released the gate")
            if not self._open:
                self._passes -= 1

    def wait_for(self, arrived: int = 1) -> None:
        """Wait until this many callers have arrived since the gate was made.

        :raises AssertionError: they have not within PATIENCE.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.arrived >= arrived, PATIENCE):
                raise AssertionError(f"{self.arrived} arrived at the gate, not {arrived}")

    def let_one_through(self) -> None:
        """Let one caller go on, now or when it arrives."""
        with self._changed:
            self._passes += 1
            self._changed.notify_all()

    def release(self) -> None:
        """Open the gate for good."""
        with self._changed:
            self._open = True
            self._changed.notify_all()
