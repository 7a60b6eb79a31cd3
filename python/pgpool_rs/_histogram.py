"""What `pool.get_histograms()` gives."""

from __future__ import annotations

from dataclasses import dataclass

from pgpool_rs._core import once


@once
@dataclass(frozen=True)
class Histogram:
    """How many times were how long. The buckets never change, so the histograms of several pools can be added up."""

    buckets: dict[float, int]
    """For each bound in seconds, how many times were at most so long. The last bound is infinity."""
    sum: float
    """The sum of all times, in seconds."""

    @property
    def count(self) -> int:
        """How many times there were."""
        return max(self.buckets.values())
