"""Read the figures of a process from /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True)
class Figures:
    """The kernel's figures of a process."""

    resident: float
    """Resident memory, in KiB."""
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Figures:
        """Read the figures. The resident memory may be some hundred KiB wrong: the kernel counts in batches."""
        status = _fields(Path(f"/proc/{pid}/status"))
        return cls(_kibibytes(status["VmRSS"]), int(status["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir())))

    @classmethod
    def exactly_of(cls, pid: int) -> Figures:
        """Read the figures, with the memory counted page by page, which takes a little longer."""
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
