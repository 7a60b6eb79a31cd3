"""Say whether what was watched is flat, and whether every promise was kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import final

from dev.soak.record import Calm, Record, Sample

WARM_UP = 1 / 3
"""The share of a run that is left out: caches fill, and malloc's arenas meet their first crowded moments."""

FEWEST = 4
"""Rests after the warm-up that there must be, or nothing can be said of slopes."""

RESIDENT = 2048.0
"""KiB by which resident memory may grow. What malloc keeps of freed memory grows in steps of some hundred KiB, a few
times in the first ten minutes."""

HEAP = 64.0
"""KiB by which what malloc has given out may grow. At rest it is the same to a few KiB; a buffer of libpq has 16."""

BLOCKS = 300.0
"""Memory blocks by which what Python has allocated may grow. It wanders by some ten."""

OBJECTS = 100.0
"""Objects by which what Python's garbage collector knows may grow."""

SLOWDOWN = 2.0
"""How many times as long requests may take in the last third as in the second, on a machine that others use too."""

RECOVERY = 5.0
"""Seconds in which the pool must lend all its connections again once the faults are over."""

Point = tuple[float, float]


@final
@dataclass(frozen=True)
class Claim:
    """Says what was to be shown, what was measured, and whether it holds."""

    name: str
    measured: str
    bound: str
    holds: bool

    def __str__(self) -> str:
        return f"{'ok ' if self.holds else 'NOT'} {self.name}: {self.measured} ({self.bound})"


def slope(points: Sequence[Point]) -> float:
    """Fit a line as Theil and Sen do, by the median of the slopes between all pairs of points; return its slope.

    Nearly a third of the points may be anywhere at all without doing harm. Raises ValueError for less than two points.
    """
    pairs = itertools.combinations(points, 2)
    slopes = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairs]
    if not slopes:
        raise ValueError("a slope needs two points")
    return median(slopes)


def growth(points: Sequence[Point]) -> float:
    """Tell by how much the fitted line rises from the first point to the last."""
    return slope(points) * (points[-1][0] - points[0][0])


def judged(record: Record) -> list[Calm]:
    """Give the rests after the warm-up."""
    return [calm for calm in record.calms if calm.at >= record.seconds * WARM_UP]


def judge(record: Record) -> list[Claim]:
    """Judge a run: one claim for each thing that was to be shown."""
    calms = judged(record)
    if len(calms) < FEWEST:
        slopes = [Claim("rests after the warm-up", str(len(calms)), f"at least {FEWEST}", holds=False)]
    else:
        slopes = [*_memory(calms), *_latency(record)]
    # What has ended before its time has told nothing.
    unexplained = record.last.get("unexplained", ("the subject has not told",))
    return [
        *slopes,
        _equal("threads at rest", [calm.figures.threads for calm in record.calms]),
        _equal("descriptors at rest", [calm.figures.descriptors for calm in record.calms]),
        _recovery(record.calms),
        _none("rests at which capacity, books or the server's sessions were wrong", _wrong(record.calms)),
        _none("errors that no fault explains", unexplained, record.last.get("unexplained_number")),
        _none("problems beside", record.problems),
    ]


def _memory(calms: Sequence[Calm]) -> Iterable[Claim]:
    resident = growth([(calm.at, calm.figures.resident) for calm in calms])
    yield _flat("resident memory", resident, RESIDENT, "KiB")
    heap = [(calm.at, calm.heap / 1024) for calm in calms if calm.heap is not None]
    if len(heap) == len(calms):
        yield _flat("memory in use, by malloc's account", growth(heap), HEAP, "KiB")
    yield _flat("memory blocks of Python", growth([(calm.at, calm.blocks) for calm in calms]), BLOCKS, "blocks")
    yield _flat("objects of Python", growth([(calm.at, calm.objects) for calm in calms]), OBJECTS, "objects")


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


def _recovery(calms: Sequence[Calm]) -> Claim:
    longest = max((calm.seconds for calm in calms), default=0.0)
    return Claim("longest way back to full capacity", f"{longest:.2f} s", f"{RECOVERY:g} s", longest <= RECOVERY)


def _wrong(calms: Sequence[Calm]) -> list[str]:
    return [f"after {calm.at:.0f} s: {'; '.join(calm.problems)}" for calm in calms if calm.problems]


def _none(name: str, found: Sequence[str], number: int | None = None) -> Claim:
    number = len(found) if number is None else number
    texts = "".join(f"; {text}" for text in found)
    return Claim(name, f"{number}{texts}", "none", number == 0)
