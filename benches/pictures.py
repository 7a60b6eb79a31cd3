"""Draw bars, with a second measure as a line beside them: light and dark, and readable without colour."""

import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches.peers import OURS
from benches.tables import Table

# Ink, faint, the bar of pgpool_rs, the bars of the others.
THEMES: Mapping[str, tuple[str, str, str, str]] = {
    "light": ("#1f2933", "#9aa5b1", "#0b6e99", "#d5dbe1"),
    "dark": ("#e4e7eb", "#7b8794", "#5cc8f2", "#3e4c59"),
}
STYLE = {
    # Text stays text: small, and it can be searched and read out.
    "svg.fonttype": "none",
    # The same figures give the same bytes.
    "svg.hashsalt": "pgpool_rs",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # It comes with matplotlib, which measures text by it.
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.bottom": False,
}
MOST_BARS = 6


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require() -> None:
    """End the process, and say what to install, if matplotlib is missing."""
    if not can_draw():
        sys.exit("matplotlib is needed to draw: pip install -r requirements-bench.txt")


def write(place: Callable[[str], Path], title: str, height: float, draw: Callable[..., None]) -> None:
    """Write a picture in each theme. `draw` gets the figure and the theme's colours."""
    # By name, so that mypy can check this where matplotlib is not installed.
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")
    for theme, colours in THEMES.items():
        with matplotlib.rc_context(STYLE):
            figure = figures.Figure(figsize=(8, height), layout="constrained")
            draw(figure, *colours)
            figure.suptitle(title, color=colours[0], fontsize=11, x=0.01, ha="left")
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
        place(theme).write_text(drawn.getvalue())


@dataclass(frozen=True)
class Picture:
    """Show two columns of a table."""

    name: str
    table: Table
    bars: str
    line: str

    def file(self, theme: str) -> str:
        """Name its file in this theme."""
        return f"benchmarks-{self.name}-{theme}.svg"

    def sides(self) -> dict[str, tuple[float, float]]:
        """Give the pools that have both figures."""
        bars, line = self.table.column(self.bars), self.table.column(self.line)
        found: dict[str, tuple[float, float]] = {}
        for side, bar in bars.items():
            beside = line[side]
            if not isinstance(bar, str) and not isinstance(beside, str):
                found[side] = (bar, beside)
        return dict(list(found.items())[-MOST_BARS:])

    def alt(self) -> str:
        """Say the picture in words."""
        told = "; ".join(
            f"{side} {self._text(bar)} and {self._text(beside)}" for side, (bar, beside) in self.sides().items()
        )
        return f"{self.table.title}. {self.bars}, and {self.line}: {told}"

    def write(self, folder: Path) -> None:
        """Draw it in each theme."""
        write(lambda theme: folder / self.file(theme), self.table.title, 0.9 + 0.42 * len(self.sides()), self._draw)

    def _draw(self, figure: Any, ink: str, faint: str, ours: str, theirs: str) -> None:
        left, right = panels = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        sides = self.sides()
        places = range(len(sides))
        for panel, name in zip(panels, (self.bars, self.line), strict=True):
            better = next(column.better for column in self.table.columns if column.name == name)
            panel.set_title(f"{name} ({better} is better)", loc="left", fontsize=9, color=ink)
            panel.tick_params(length=0, labelcolor=ink, labelbottom=False)
            panel.spines["left"].set_color(faint)
        left.set_yticks(places, list(sides))
        left.invert_yaxis()
        for place, (side, (bar, beside)) in zip(places, sides.items(), strict=True):
            is_ours = side.startswith(OURS.name)
            # A bar of another pool is hatched, so that it is told apart without colour too.
            left.barh(
                place,
                bar,
                0.62,
                color=ours if is_ours else theirs,
                hatch=None if is_ours else "///",
                edgecolor=ours if is_ours else faint,
            )
            for panel, value in ((left, bar), (right, beside)):
                panel.annotate(
                    self._text(value),
                    (value, place),
                    (7, 0),
                    textcoords="offset points",
                    va="center",
                    color=ink,
                    weight="bold" if is_ours else "normal",
                )
        left.set_xlim(0, 1.15 * max(bar for bar, _ in sides.values()))
        right.set_xlim(0, 1.35 * max(beside for _, beside in sides.values()))
        right.plot([beside for _, beside in sides.values()], places, color=ink, marker="o", linewidth=1)

    @staticmethod
    def _text(figure: float) -> str:
        return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
