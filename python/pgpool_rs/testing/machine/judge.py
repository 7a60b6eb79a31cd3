"""Says whether a pool has broken an invariant: at once, or when it has had the time to come right by itself."""

from __future__ import annotations

__tracebackhide__ = True

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from pgpool_rs.testing.fake.gate import PATIENCE
from pgpool_rs.testing.machine.invariant import BrokenInvariant, Invariant, Maybe
from pgpool_rs.testing.machine.invariants import INVARIANTS
from pgpool_rs.testing.machine.threads import all_stacks

if TYPE_CHECKING:
    from pgpool_rs.testing.machine.model import Model

Look = Callable[[Invariant], str | None]

# The real clock, whatever `time.monotonic` is made to say.
now = time.perf_counter
# How long to sleep before the second look, in seconds; twice as long before the next, up to a limit.
SHORTEST_SLEEP = 0.001
_LONGEST_SLEEP = 0.02


class Patience:
    """Says how long something may take until it counts as never: less, once it has taken too long before.

    A failure is found with all patience; as it is shrunk, the same failure need not be waited for as long each time.
    """

    def __init__(self) -> None:
        self.seconds = PATIENCE

    def lose(self) -> None:
        """Be less patient from now on."""
        self.seconds = min(self.seconds, 0.1)


class Judge:
    """Looks at the invariants that a pool promises."""

    def __init__(self, model: Model, patience: Patience) -> None:
        self.model = model
        self.patience = patience

    def every_invariant(self, look: Look, move_on: Callable[[], None]) -> None:
        """Look at each invariant that is promised; where something could still come right, look again for a while."""
        for name, invariant in INVARIANTS.items():
            if name in self.model.promises.waive:
                continue
            seen = look(invariant)
            if isinstance(seen, Maybe):
                seen = self._look_again(lambda invariant=invariant: look(invariant), move_on)  # type: ignore[misc]
            if seen is not None:
                self.fail(name, seen)

    def _look_again(self, look: Callable[[], str | None], move_on: Callable[[], None]) -> str | None:
        deadline = now() + self.patience.seconds
        pause = SHORTEST_SLEEP
        while True:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_SLEEP)
            move_on()
            seen = look()
            if not isinstance(seen, Maybe):
                return seen
            if now() > deadline:
                self.patience.lose()
                return seen

    def fail(self, name: str, seen: str) -> NoReturn:
        """Say that an invariant is broken; if a call hangs, where each of them is."""
        if name == "nobody_forgotten":
            self.patience.lose()
            seen = f"{seen}\n{all_stacks(self.model.calls)}"
        hangs = any(call.blocked and not call.may_wait for call in self.model.calls)
        raise BrokenInvariant(INVARIANTS[name], seen, hangs=hangs)
