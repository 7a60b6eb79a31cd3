"""The table: one row for each thing measured, as plain text or as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

HEADINGS = ("measured", "psycopg2.pool", "pgpool_rs", "bound", "ratio", "target", "met")
NOTHING = "-"


@dataclass(frozen=True)
class Target:
    """Set a limit that a measured figure keeps or does not keep."""

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
    """Hold one line of the table, and the medians it was made from."""

    what: str
    psycopg2_pool: str = NOTHING
    pgpool_rs: str
    bound: str = NOTHING
    figure: float  # that the target is about
    beside: str = ""  # the same figure of something else
    target: Target | None = None  # without one, the figure is a ratio that nobody judges
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
