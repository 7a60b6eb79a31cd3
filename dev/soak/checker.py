"""Check whether the figures of a run are flat, and whether the pool kept every promise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import final

from dev.soak.record import Checkpoint, Record, Sample

WARM_UP = 1 / 3
"""The share of a run that is left out: in it caches fill, and malloc's arenas grow."""

FEWEST = 4
"""The least number of checkpoints after the warm-up from which a slope is taken."""

RESIDENT = 2048.0
"""KiB by which resident memory may grow. The freed memory that malloc keeps grows in steps of some hundred KiB, a few
times in the first ten minutes."""

HEAP = 64.0
"""KiB by which malloc's memory in use may grow. It varies by a few KiB; a buffer of libpq has 16."""

BLOCKS = 300.0
"""Memory blocks by which Python's allocations may grow. They vary by some ten."""

OBJECTS = 100.0
"""Objects by which those that Python's garbage collector knows may grow."""

SLOWDOWN = 2.0
"""How many times as long requests may take in the last third as in the second, on a shared machine."""

RECOVERY = 5.0
"""Seconds after the end of the faults in which the pool must lend all its connections again."""

Point = tuple[float, float]


@final
@dataclass(frozen=True)
class Claim:
    """Says what the run must show, what was measured, and whether it holds."""

    name: str
    measured: str
    bound: str
    holds: bool

    def __str__(self) -> str:
        return f"{'ok ' if self.holds else 'NOT'} {self.name}: {self.measured} ({self.bound})"


def slope(points: Sequence[Point]) -> float:
    """Fit a line as Theil and Sen do, by the median of the slopes between all pairs of points; return its slope.

    Outliers, up to nearly a third of the points, do not matter. Raises ValueError for less than two points.
    """
    pairs = itertools.combinations(points, 2)
    slopes = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairs]
    if not slopes:
        raise ValueError("a slope needs two points")
    return median(slopes)


def growth(points: Sequence[Point]) -> float:
    """Tell by how much the fitted line rises from the first point to the last."""
    return slope(points) * (points[-1][0] - points[0][0])


def judged(record: Record) -> list[Checkpoint]:
    """Give the checkpoints after the warm-up."""
    return [checkpoint for checkpoint in record.checkpoints if checkpoint.at >= record.seconds * WARM_UP]


def check(record: Record) -> list[Claim]:
    """Check a run, with one claim for each thing that it must show."""
    checkpoints = judged(record)
    if len(checkpoints) < FEWEST:
        slopes = [Claim("checkpoints after the warm-up", str(len(checkpoints)), f"at least {FEWEST}", holds=False)]
    else:
        slopes = [*_memory(checkpoints), *_latency(record)]
    # A target that ended early reported nothing.
    unexplained = record.last.get("unexplained", ("the target reported nothing",))
    return [
        *slopes,
        _equal("threads at checkpoints", [checkpoint.figures.threads for checkpoint in record.checkpoints]),
        _equal("descriptors at checkpoints", [checkpoint.figures.descriptors for checkpoint in record.checkpoints]),
        _recovery(record.checkpoints),
        _none("checkpoints with wrong capacity, counts or sessions at the server", _wrong(record.checkpoints)),
        _none("errors that no fault explains", unexplained, record.last.get("unexplained_number")),
        _none("other problems", record.problems),
    ]


def _memory(checkpoints: Sequence[Checkpoint]) -> Iterable[Claim]:
    resident = growth([(checkpoint.at, checkpoint.figures.resident) for checkpoint in checkpoints])
    yield _flat("resident memory", resident, RESIDENT, "KiB")
    heap = [(checkpoint.at, checkpoint.heap / 1024) for checkpoint in checkpoints if checkpoint.heap is not None]
    if len(heap) == len(checkpoints):
        yield _flat("memory in use, as malloc counts it", growth(heap), HEAP, "KiB")
    for name, figure, bound in (("memory blocks", "blocks", BLOCKS), ("objects", "objects", OBJECTS)):
        grown = growth([(checkpoint.at, getattr(checkpoint, figure)) for checkpoint in checkpoints])
        yield _flat(f"{name} of Python", grown, bound, figure)


def _flat(name: str, grown: float, bound: float, unit: str) -> Claim:
    return Claim(f"growth of {name}", f"{round(grown):+d} {unit}", f"at most {bound:.0f} {unit}", grown <= bound)


def _latency(record: Record) -> Iterable[Claim]:
    end = record.seconds
    before = _typical(sample for sample in record.samples if end * WARM_UP <= sample.at < end * 2 / 3)
    after = _typical(sample for sample in record.samples if sample.at >= end * 2 / 3)
    if before is None or after is None:
        yield Claim("typical latency", "no request was served", "some in each third", False)
    else:
        measured = f"{1000 * before:.2f} ms, then {1000 * after:.2f} ms"
        holds = after <= SLOWDOWN * before
        yield Claim("typical latency, second and last third", measured, f"at most {SLOWDOWN:g} times", holds)


def _typical(samples: Iterable[Sample]) -> float | None:
    medians = [sample.median for sample in samples if sample.median is not None]
    return median(medians) if medians else None


def _equal(name: str, numbers: Sequence[int]) -> Claim:
    seen = sorted(set(numbers))
    return Claim(name, ", ".join(map(str, seen)) or "none", "the same each time", len(seen) == 1)


def _recovery(checkpoints: Sequence[Checkpoint]) -> Claim:
    longest = max((checkpoint.seconds for checkpoint in checkpoints), default=0.0)
    return Claim("longest recovery of full capacity", f"{longest:.2f} s", f"{RECOVERY:g} s", longest <= RECOVERY)


def _wrong(checkpoints: Sequence[Checkpoint]) -> list[str]:
    return [
        f"after {checkpoint.at:.0f} s: {'; '.join(checkpoint.problems)}"
        for checkpoint in checkpoints
        if checkpoint.problems
    ]


def _none(name: str, found: Sequence[str], number: int | None = None) -> Claim:
    number = len(found) if number is None else number
    texts = "".join(f"; {text}" for text in found)
    return Claim(name, f"{number}{texts}", "none", number == 0)
