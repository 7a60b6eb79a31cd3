"""Draw a run: memory, threads, descriptors, latency and faults over time, in one SVG."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev.soak.record import Record
from dev.soak.weather import FAULTS

INK = "#1f2933"
FAINT = "#9aa5b1"
ACCENT = "#0b6e99"
MARK = "#c2410c"
HOUR = 3600.0

STYLE = {
    "svg.fonttype": "none",  # Text as text.
    "svg.hashsalt": "pgpool_rs",  # The same run gives the same file.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.0,
    # White, since a page may be dark.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def require() -> None:
    """End the process, and say what to install, if nothing can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("matplotlib is needed to draw: pip install -r requirements-prove.txt")


def write(record: Record, place: Path) -> None:
    """Draw a run into this file."""
    # Looked up by name: the types must be checkable where it is not installed.
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(9, 8.6), layout="constrained")
        panels = figure.subplots(5, 1, sharex=True, height_ratios=[3, 2, 3, 3.5, 2])
        _draw(record, panels)
        figure.savefig(place, format="svg", metadata={"Date": None})
    place.write_text(_slim(place.read_text()))


def _slim(svg: str) -> str:
    """Halve the size: a tenth of a point is fine enough, and a marker that is used has the style of its definition."""
    return re.sub(r"(<use [^>]*?) style=\"[^\"]*\"", r"\1", re.sub(r"(\d\.\d)\d+", r"\1", svg))


def _draw(record: Record, panels: Sequence[Any]) -> None:
    memory, threads, descriptors, latency, faults = panels
    per, unit = (HOUR, "hours") if record.seconds > 3 * HOUR else (60.0, "minutes")
    at = [sample.at / per for sample in record.samples]
    rest = [calm.at / per for calm in record.calms]

    memory.plot(at, [sample.figures.resident / 1024 for sample in record.samples], color=FAINT)
    _dots(memory, rest, [calm.figures.resident / 1024 for calm in record.calms])
    _title(memory, "resident memory, MiB")

    threads.plot(at, [sample.figures.threads for sample in record.samples], color=FAINT, drawstyle="steps-post")
    _dots(threads, rest, [calm.figures.threads for calm in record.calms])
    _title(threads, "threads")

    sessions = [math.nan if sample.sessions is None else sample.sessions for sample in record.samples]
    descriptors.plot(at, sessions, color=MARK, alpha=0.35, linewidth=0.8)
    descriptors.plot(at, [sample.figures.descriptors for sample in record.samples], color=FAINT)
    _dots(descriptors, rest, [calm.figures.descriptors for calm in record.calms])
    _title(descriptors, "file descriptors; red: sessions at the server")

    latency.plot(at, [_milliseconds(sample.p99) for sample in record.samples], color=FAINT)
    latency.plot(at, [_milliseconds(sample.median) for sample in record.samples], color=ACCENT)
    latency.set_yscale("log")
    latency.yaxis.set_major_formatter("{x:g}")
    _title(latency, "latency of a request, ms; blue: median, grey: 99th percentile")

    for row, name in enumerate(FAULTS):
        marks = [at / per for at in spans(record, name)]
        faults.plot(marks, [row] * len(marks), color=MARK, linewidth=4.5, solid_capstyle="butt", alpha=0.8)
    faults.set_yticks(range(len(FAULTS)), FAULTS, fontsize=7)
    faults.set_ylim(len(FAULTS) - 0.4, -0.6)
    faults.grid(visible=False)
    faults.tick_params(left=False)
    _title(faults, "faults")
    faults.set_xlabel(unit)
    faults.set_xlim(0, record.seconds / per)

    for panel in (memory, threads, descriptors):
        panel.set_ylim(0, 1.2 * max(panel.dataLim.y1, 1.0))


def spans(record: Record, fault: str) -> list[float]:
    """Give the times between two samples in which this fault began: beginning, end and a gap for each, as one line.

    Times that follow each other are one.
    """
    line: list[float] = []
    before = 0.0
    for sample in record.samples:
        if sample.faults[fault]:
            if line and line[-2] == before:
                line[-2] = sample.at
            else:
                line += [before, sample.at, math.nan]
        before = sample.at
    return line


def _dots(panel: Any, at: Sequence[float], values: Sequence[float]) -> None:
    panel.plot(at, values, color=ACCENT, linestyle="none", marker="o", markersize=2.6)


def _title(panel: Any, text: str) -> None:
    panel.set_title(text, loc="left", fontsize=9)


def _milliseconds(seconds: float | None) -> float:
    return math.nan if seconds is None else 1000 * seconds
