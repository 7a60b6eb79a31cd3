"""Draw a run: memory, threads, descriptors, latency and faults over time, in one small PNG."""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev.soak import faults as kinds
from dev.soak.record import Record

INK = "#1f2933"
FAINT = "#9aa5b1"
ACCENT = "#0b6e99"
MARK = "#c2410c"
HOUR = 3600.0
DPI = 90
COLOURS = 24
MAX_COVERAGE = 1  # Pillow: it keeps rare colours apart.

STYLE = {
    "font.family": "DejaVu Sans",  # It comes with matplotlib.
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
    # White, even on a dark page.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def require() -> None:
    """End the process, and say what to install, if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("matplotlib is needed to draw: pip install -r requirements-prove.txt")


def write(record: Record, place: Path) -> None:
    """Draw a run into this file."""
    # By name, so that mypy can check this where matplotlib is not installed.
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(9, 8), layout="constrained")
        panels = figure.subplots(5, 1, sharex=True, height_ratios=[3, 2, 3, 3.5, 2])
        _draw(record, panels)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DPI)
    # A quarter of the size; the same run gives the same bytes.
    picture: Any = importlib.import_module("PIL.Image").open(drawn).convert("RGB")
    picture.quantize(COLOURS, method=MAX_COVERAGE).save(place, optimize=True)


def _draw(record: Record, panels: Sequence[Any]) -> None:
    memory, threads, descriptors, latency, faults = panels
    per, unit = (HOUR, "hours") if record.seconds > 3 * HOUR else (60.0, "minutes")
    at = [sample.at / per for sample in record.samples]
    checkpoints = [checkpoint.at / per for checkpoint in record.checkpoints]

    memory.plot(at, [sample.figures.resident / 1024 for sample in record.samples], color=FAINT)
    _dots(memory, checkpoints, [checkpoint.figures.resident / 1024 for checkpoint in record.checkpoints])
    _title(memory, "resident memory, MiB")

    threads.plot(at, [sample.figures.threads for sample in record.samples], color=FAINT, drawstyle="steps-post")
    _dots(threads, checkpoints, [checkpoint.figures.threads for checkpoint in record.checkpoints])
    _title(threads, "threads")

    sessions = [math.nan if sample.sessions is None else sample.sessions for sample in record.samples]
    descriptors.plot(at, sessions, color=MARK, alpha=0.35, linewidth=0.8)
    descriptors.plot(at, [sample.figures.descriptors for sample in record.samples], color=FAINT)
    _dots(descriptors, checkpoints, [checkpoint.figures.descriptors for checkpoint in record.checkpoints])
    _title(descriptors, "file descriptors; red: sessions at the server")

    latency.plot(at, [_milliseconds(sample.p99) for sample in record.samples], color=FAINT)
    latency.plot(at, [_milliseconds(sample.median) for sample in record.samples], color=ACCENT)
    latency.set_yscale("log")
    latency.yaxis.set_major_formatter("{x:g}")
    _title(latency, "latency of a request, ms; blue: median, grey: 99th percentile")

    for row, name in enumerate(kinds.NAMES):
        marks = [at / per for at in spans(record, name)]
        faults.plot(marks, [row] * len(marks), color=MARK, linewidth=4.5, solid_capstyle="butt", alpha=0.8)
    faults.set_yticks(range(len(kinds.NAMES)), kinds.NAMES, fontsize=7)
    faults.set_ylim(len(kinds.NAMES) - 0.4, -0.6)
    faults.grid(visible=False)
    faults.tick_params(left=False)
    _title(faults, "faults")
    faults.set_xlabel(unit)
    faults.set_xlim(0, record.seconds / per)

    for panel in (memory, threads, descriptors):
        panel.set_ylim(0, 1.2 * max(panel.dataLim.y1, 1.0))


def spans(record: Record, fault: str) -> list[float]:
    """Give the times between two samples in which this fault began: beginning, end and a gap for each, as one line.

    Adjacent times are joined.
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
