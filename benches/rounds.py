"""Rounds: what is compared takes turns, so that a busy moment of the machine falls on all sides alike."""

import gc
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

Sample = TypeVar("Sample")


def interleave(sides: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """Run all sides once to warm up, then in turns (A, B, C, A, B, C, ...), and return each side's samples."""
    for side in sides.values():
        side()
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, side in sides.items():
                samples[name].append(side())
    finally:
        gc.enable()
    return samples


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each side's median."""
    return {name: median(figures) for name, figures in samples.items()}


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the quotients within each round: a machine that changes its pace does not change them."""
    return median(a / b for a, b in zip(over, under, strict=True))


def difference(more: Sequence[float], less: Sequence[float]) -> float:
    """Return the median of the differences within each round."""
    return median(a - b for a, b in zip(more, less, strict=True))
