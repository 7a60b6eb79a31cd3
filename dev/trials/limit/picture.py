"""Measure and draw the picture of docs/limits.md: `.venv/bin/python -m dev.trials.limit.picture`.

Processes under load, and a deploy that starts as many beside them, on a real server: without a limit, and with one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benches import page, pictures
from dev.servers.postgres import ThrowawayPostgres
from dev.trials.limit.processes import LIMIT, MAX_CONNECTIONS, MAXCONN, PROCESSES, Processes, Sampler, refused

BEFORE: Final = 4.0  # Seconds that are shown before the deploy, and after it.
BESIDE: Final = 2.0  # Seconds that the old processes go on when the new ones are ready.
STEP: Final = 0.1  # Seconds of which only the highest sample is drawn.
DOCS: Final = Path(__file__).parents[3] / "docs"


@dataclass(frozen=True)
class Run:
    """What was measured in one run. Times are in seconds from its begin."""

    name: str
    sessions: dict[float, int]
    deploy: tuple[float, float]
    refused: int
    failed: int
    served: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {max(self.sessions.values())} sessions at most, {self.refused:,} connects refused, "
            f"{self.failed:,} of {self.failed + self.served:,} requests failed"
        )


def measure(name: str, *, limited: bool) -> Run:
    """Count the sessions from when the processes are ready."""
    with ThrowawayPostgres(max_connections=MAX_CONNECTIONS + 1) as server:  # The sampler has one.
        with Sampler(server.dsn) as sampler, Processes(server.dsn, limited=limited, maxconn=MAXCONN, timeout=5) as all_:
            began = time.monotonic()
            time.sleep(BEFORE)
            deploying = time.monotonic()
            all_.deploy(BESIDE)
            deployed = time.monotonic()
            time.sleep(BEFORE)
            sampler.stop()
            board = all_.board
            errors, timeouts, served = board.told("error"), sum(board.timeouts), sum(board.served)
            connects = refused(server)
        others = [error for error in errors if "too many clients" not in error]
        assert not others, others[:3]
        sessions: dict[float, int] = {}
        for moment, count in sampler.samples:
            if moment >= began:
                step = (moment - began) // STEP * STEP
                sessions[step] = max(sessions.get(step, 0), count)
        return Run(name, sessions, (deploying - began, deployed - began), connects, len(errors) + timeouts, served)


def draw(runs: Sequence[Run], figure: Any, colours: Sequence[str]) -> None:
    """Draw the runs one above the other; what has no limit is hatched, as other pools are."""
    ink, faint, ours, theirs = colours
    panels = figure.subplots(len(runs), 1, sharex=True)
    for panel, run in zip(panels, runs, strict=True):
        panel.set_title(str(run), loc="left", fontsize=9, color=ink)
        panel.tick_params(length=0, labelcolor=ink)
        panel.spines["left"].set_color(faint)
        panel.axvspan(*run.deploy, color=faint, alpha=0.2, linewidth=0)
        is_ours = run is runs[-1]
        look = {"facecolor": ours} if is_ours else {"facecolor": theirs, "edgecolor": faint, "hatch": "///"}
        panel.fill_between([*run.sessions], [*run.sessions.values()], step="post", linewidth=0, **look)
        lines = {0: "", MAX_CONNECTIONS: "server accepts "} | ({LIMIT: "limit "} if is_ours else {})
        panel.set_yticks([*lines], [f"{name}{sessions}" for sessions, name in lines.items()])
        panel.set_ylim(0, 1.2 * MAX_CONNECTIONS)
        panel.grid(axis="y", color=ink, linewidth=1, linestyle="--")
        middle = sum(run.deploy) / 2
        panel.text(middle, 1.05 * MAX_CONNECTIONS, f"deploy: {2 * PROCESSES} processes", ha="center", color=ink)
    panels[0].set_xlim(0, max(moment for run in runs for moment in run.sessions))
    panels[-1].set_xlabel("seconds", color=ink)


def main() -> None:
    """Measure both runs, draw them, and tell their figures in the page."""
    pictures.require()
    machine = f"{os.cpu_count()} cores, load average before: {os.getloadavg()[0]:.0f}"
    title = f"Sessions of {PROCESSES} processes of maxconn={MAXCONN} ({machine})"
    runs = [measure("No limit", limited=False), measure(f"A limit of {LIMIT}", limited=True)]
    files = {theme: f"limits-{theme}.svg" for theme in pictures.THEMES}
    pictures.write(lambda theme: DOCS / files[theme], title, 4.2, lambda figure, *colours: draw(runs, figure, colours))
    told = page.PICTURE.format(alt=". ".join([title, *map(str, runs)]), **files)
    place = DOCS / "limits.md"
    place.write_text(re.sub("<picture>.*?</picture>\n", lambda _: told, place.read_text(), flags=re.DOTALL))
    print(*runs, sep="\n")


if __name__ == "__main__":
    main()
