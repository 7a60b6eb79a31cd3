"""What a run leaves behind: bounded tables, however long it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, final

from dev.soak.watch import Figures

POINTS = 600  # Samples of a run at most.
SHORTEST = 1.0  # Seconds between two samples at least.
RESTS = 200  # In a run at most.
SHORTEST_CYCLE = 10.0  # Seconds between two rests at least.


@final
@dataclass(frozen=True)
class Sample:
    """What was seen at one moment, and since the one before."""

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
class Calm:
    """What was seen when all was at rest with every connection lent."""

    at: float
    figures: Figures
    requests: int
    """How many there had been since the beginning."""
    connects: int
    """The same for connects, failed ones included."""
    seconds: float
    """How long it took until every connection was lent, from the moment at which all users were at rest."""
    blocks: int
    """Memory blocks that Python has allocated."""
    objects: int
    """Objects that Python's garbage collector knows."""
    heap: int | None
    """Bytes in use by the C library's account."""
    problems: tuple[str, ...]


@final
@dataclass
class Record:
    """Holds all that was seen in a run."""

    seed: int
    seconds: float
    """How long it was to last."""
    samples: list[Sample] = field(default_factory=list)
    calms: list[Calm] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    last: dict[str, Any] = field(default_factory=dict)
    """What the subject reported last."""
    problems: list[str] = field(default_factory=list)
    """What went wrong beside the calm moments."""

    @property
    def interval(self) -> float:
        """Tell how many seconds there are between two samples."""
        return max(SHORTEST, self.seconds / POINTS)

    @property
    def cycle(self) -> float:
        """Tell how many seconds there are between two rests."""
        return max(SHORTEST_CYCLE, self.seconds / RESTS)
