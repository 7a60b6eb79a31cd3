"""The record of a run, whose size does not grow with the length of the run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, final

from dev.soak.process import Figures

POINTS = 600  # Samples of a run at most.
SHORTEST = 1.0  # Seconds between two samples at least.
CHECKPOINTS = 200  # In a run at most.
SHORTEST_CYCLE = 10.0  # Seconds between two checkpoints at least.


@final
@dataclass(frozen=True)
class Sample:
    """The figures of one moment, and counts since the sample before."""

    at: float
    """Seconds since the beginning."""
    figures: Figures
    sessions: int | None
    """The server's sessions, or None while it could not be asked."""
    median: float | None
    """Seconds that a request took, or None if none was served."""
    p99: float | None
    requests: int
    failures: int
    faults: Counter[str] = field(default_factory=Counter)


@final
@dataclass(frozen=True)
class Checkpoint:
    """The figures of a moment at which every thread pauses, no fault lasts, and every connection is lent."""

    at: float
    figures: Figures
    requests: int
    """Since the beginning."""
    connects: int
    """Since the beginning, failed ones included."""
    seconds: float
    """From the moment at which every thread pauses until every connection is lent."""
    blocks: int
    """Memory blocks that Python has allocated."""
    objects: int
    """Objects that Python's garbage collector knows."""
    heap: int | None
    """Bytes in use, as malloc counts them; None if it does not tell."""
    problems: tuple[str, ...]


@final
@dataclass
class Record:
    """Holds everything that the controller saw in a run."""

    seed: int
    seconds: float
    """The planned length."""
    samples: list[Sample] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    last: dict[str, Any] = field(default_factory=dict)
    """The target's last report."""
    problems: list[str] = field(default_factory=list)
    """Errors that belong to no checkpoint."""

    @property
    def interval(self) -> float:
        """Tell how many seconds there are between two samples."""
        return max(SHORTEST, self.seconds / POINTS)

    @property
    def cycle(self) -> float:
        """Tell how many seconds there are between two checkpoints."""
        return max(SHORTEST_CYCLE, self.seconds / CHECKPOINTS)
