"""Look at a process from outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True)
class Figures:
    """What the kernel says of a process."""

    resident: float
    """Memory that is resident, in KiB."""
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Figures:
        """Read what it is now. The kernel counts resident memory in batches, some hundred KiB wrong at times."""
        status = _fields(Path(f"/proc/{pid}/status"))
        return cls(_kibibytes(status["VmRSS"]), int(status["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir())))

    @classmethod
    def exactly_of(cls, pid: int) -> Figures:
        """Read the same with the memory counted page by page, which takes a little longer."""
        seen = cls.of(pid)
        rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
        return cls(_kibibytes(rollup["Rss"]), seen.threads, seen.descriptors)


def _fields(place: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in place.read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def _kibibytes(value: str) -> float:
    number, unit = value.split()
    if unit != "kB":
        raise ValueError(f"the kernel counts in {unit}, not in kB")
    return float(number)
