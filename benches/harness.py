"""The harness: how much is measured, in rounds where all sides take turns, and the table of the results."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeVar


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Say how often and how long each side is measured."""

    pairs: int  # of getconn and putconn in one timing
    pair_rounds: int
    option_rounds: int  # of the pair, with each option
    load_seconds: float  # of load from many threads
    load_rounds: int
    request_rounds: int  # of some requests over a network
    loans: int  # after which memory is measured again


FULL = Effort(
    pairs=2_000,
    pair_rounds=750,
    option_rounds=250,
    load_seconds=0.8,
    load_rounds=12,
    request_rounds=100,
    loans=1_000_000,
)
QUICK = Effort(
    pairs=2_000,
    pair_rounds=60,
    option_rounds=30,
    load_seconds=0.5,
    load_rounds=3,
    request_rounds=15,
    loans=100_000,
)


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


HEADINGS = ("measured", "psycopg2.pool", "pgpool_rs", "bound", "ratio", "target", "met")
NOTHING = "-"


@dataclass(frozen=True)
class Target:
    """Set a limit for a measured figure."""

    sign: Literal[">=", "<="]
    limit: float
    unit: str = ""

    def met(self, figure: float) -> bool:
        """Tell whether `figure` keeps the limit."""
        return figure >= self.limit if self.sign == ">=" else figure <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:,g}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold one line of the table, and its medians."""

    what: str
    psycopg2_pool: str = NOTHING
    pgpool_rs: str
    bound: str = NOTHING
    figure: float  # compared with the target
    beside: str = ""  # the same figure of another side
    target: Target | None = None  # without one, the figure is a ratio
    medians: Mapping[str, float]

    @property
    def met(self) -> bool | None:
        """Tell whether the target is met, if there is one."""
        return None if self.target is None else self.target.met(self.figure)

    def cells(self) -> tuple[str, ...]:
        """Return the row's texts, in the order of the headings."""
        figure = f"{self.figure:,.0f}" if self.figure >= 100 else f"{self.figure:.3g}"
        unit = "x" if self.target is None else self.target.unit
        ratio = figure + unit + (f" ({self.beside})" if self.beside else "")
        target = NOTHING if self.target is None else str(self.target)
        met = {None: NOTHING, True: "yes", False: "NO"}[self.met]
        return self.what, self.psycopg2_pool, self.pgpool_rs, self.bound, ratio, target, met


def text(rows: Sequence[Row]) -> str:
    """Render the rows in aligned columns."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """Render the rows as README shows them."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
