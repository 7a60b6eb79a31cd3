"""The harness: all sides take turns until the time of their scene is over, and the run says how far it is."""

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar, final

LEAST_ROUNDS = 3

Sample = TypeVar("Sample")


@final
class Run:
    """Shares the time of a run among its scenes."""

    def __init__(self, seconds: float) -> None:
        """Take so long in all, apart from set-up, and more where a scene's rounds are longer than its share."""
        self._seconds = seconds
        self._began = time.monotonic()
        self._scene = ""

    @property
    def is_short(self) -> bool:
        """Tell whether this run is only to show that everything works."""
        return self._seconds == 0

    def scene(self, name: str) -> None:
        """Tell what begins."""
        self._scene = name
        self._show("\n")

    def _show(self, end: str) -> None:
        elapsed = int(time.monotonic() - self._began)
        share = min(1.0, elapsed / self._seconds) if self._seconds else 0.0
        bar = "#" * int(20 * share)
        print(f"{elapsed // 60:2}:{elapsed % 60:02} [{bar:20}] {self._scene:50}", end=end, file=sys.stderr, flush=True)

    def turns(self, share: float, sides: Mapping[str, Callable[[], Sample]]) -> dict[str, list[Sample]]:
        """Run all sides once to warm up, then in turns (A, B, C, A, B, C, ...) for a share of the run.

        Return each side's samples.
        """
        samples: dict[str, list[Sample]] = {name: [] for name in sides}
        if not self.is_short:
            for side in sides.values():
                side()
        end = time.monotonic() + share * self._seconds
        rounds = 0
        gc.collect()
        gc.disable()
        try:
            while rounds < (1 if self.is_short else LEAST_ROUNDS) or time.monotonic() < end:
                for name, side in sides.items():
                    samples[name].append(side())
                rounds += 1
                if sys.stderr.isatty():
                    self._show("\r")
        finally:
            gc.enable()
        return samples


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the quotients within each round: a machine that changes its pace does not change them."""
    return median(a / b for a, b in zip(over, under, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of the others does not exceed, or 0 of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
