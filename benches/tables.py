"""Tables: what was measured of each side, and where another pool is better than pgpool_rs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benches.peers import OURS

IDEAL = "a connection each"
IDEAL_3 = "psycopg 3, a connection each"
ROUND_TRIP = "a round trip"
MEASURES = (IDEAL, IDEAL_3, ROUND_TRIP)
"""Sides that are no pools."""

# A difference that a machine's mood can make.
MARGIN = 1.05

FAIRNESS = "busiest thread to idlest"
UNFAIR = 2.0

Cell = float | str
"""A figure, or what is to be said in its place."""


@dataclass(frozen=True)
class Column:
    """Say what a column has, and whether more of it is better, or less."""

    name: str
    format: str = ",.2f"
    better: Literal["more", "less"] | None = None
    matters: float = 0.0
    """The least difference that anyone would notice."""

    def text(self, cell: Cell) -> str:
        """Show a cell."""
        return cell if isinstance(cell, str) else format(cell, self.format)


class Loss(NamedTuple):
    """Say that another pool has a better figure."""

    peer: str
    table: str
    column: str
    theirs: str
    ours: str
    lead: float
    price: str
    """What its unfairness is, if the table has it and it is greater."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Hold the figures of a scene."""

    title: str
    text: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Cell, ...]]

    def column(self, name: str) -> dict[str, Cell]:
        """Give a column, by side."""
        at = [column.name for column in self.columns].index(name)
        return {side: cells[at] for side, cells in self.rows.items()}

    def lines(self) -> Iterator[str]:
        """Render the table in Markdown, the best figure of each column in bold."""
        yield f"| | {' | '.join(column.name for column in self.columns)} |"
        yield f"|---|{'---:|' * len(self.columns)}"
        for side, cells in self.rows.items():
            texts = [
                f"**{column.text(cell)}**" if cell == self._best(at) else column.text(cell)
                for at, (column, cell) in enumerate(zip(self.columns, cells, strict=True))
            ]
            yield f"| {side} | {' | '.join(texts)} |"

    def losses(self) -> Iterator[Loss]:
        """Say where another pool is better than pgpool_rs as it comes, by more than the margin."""
        for at, column in enumerate(self.columns):
            ours = self.rows.get(OURS.name, ("",) * len(self.columns))[at]
            for side, cells in self.rows.items():
                theirs = cells[at]
                if side in MEASURES or side.startswith(OURS.name) or isinstance(ours, str) or isinstance(theirs, str):
                    continue
                more, less = (theirs, ours) if column.better == "more" else (ours, theirs)
                if column.better and more > MARGIN * less and more - less > column.matters:
                    texts = column.text(theirs), column.text(ours)
                    yield Loss(side, self.title, column.name, *texts, more / max(less, 1e-9), self._price(side))

    def _price(self, side: str) -> str:
        names = [column.name for column in self.columns]
        if FAIRNESS not in names:
            return ""
        at = names.index(FAIRNESS)
        ours, theirs = self.rows[OURS.name][at], self.rows[side][at]
        unfair = not isinstance(ours, str) and not isinstance(theirs, str) and theirs > UNFAIR * ours
        return f" (its busiest thread had {theirs:.0f} times the loans of its idlest)" if unfair else ""

    def _best(self, at: int) -> Cell | None:
        figures = [cells[at] for side, cells in self.rows.items() if side not in MEASURES]
        numbers = [figure for figure in figures if not isinstance(figure, str)]
        better = self.columns[at].better
        return None if better is None or not numbers else max(numbers) if better == "more" else min(numbers)
