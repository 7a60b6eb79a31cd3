"""The benchmark runs from its begin to its end, and its page says where another pool is better."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benches import page, pictures
from benches.peers import BARE, DBUTILS, OURS, PEERS, PSYCOPG_POOL, SEMAPHORE, SQLALCHEMY
from benches.tables import FAIRNESS, IDEAL, Cell, Column, Table

ROOT = Path(__file__).parents[2]
KIB = 1024


def table(rows: dict[str, tuple[Cell, ...]], *names: str) -> Table:
    columns = tuple(Column(name, better="less" if name in ("ms", FAIRNESS) else "more") for name in names)
    return Table(title="A scene", text="", columns=columns, rows=rows)


def test_every_scene_can_be_played_and_every_pool_has_its_row(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benches", "--seconds", "0", "--into", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=240)
    text = (tmp_path / "benchmarks.md").read_text()
    scenes = text.split("## The pair\n")[1]
    for peer in PEERS:
        assert scenes.count(f"| {peer.name} |") >= 11
    assert "{" not in scenes
    drawn = list(tmp_path.glob("*.svg"))
    assert len(drawn) == (6 if pictures.can_draw() else 0)
    assert all(picture.stat().st_size < 60 * KIB and picture.name in text for picture in drawn)


def test_the_page_names_who_is_first_where_that_is_another_pool() -> None:
    rows: dict[str, tuple[Cell, ...]] = {PSYCOPG_POOL.name: (9.0, 4.0), DBUTILS.name: (8.0, 3.0), OURS.name: (5.0, 5.0)}
    losses = list(table(rows, "rate", "ms").losses())
    assert page.not_first(losses).splitlines() == [
        "- **A scene**: rate, 9.00 with psycopg_pool, 5.00 with pgpool_rs.",
        "- **A scene**: ms, 3.00 with DBUtils PooledDB, 5.00 with pgpool_rs.",
    ]
    assert "**psycopg_pool**: A scene (rate: 9.00, not 5.00); A scene (ms: 4.00, not 5.00)." in page.better(losses)
    assert "**psycopg2.pool, semaphore**: nothing in these figures." in page.better(losses)


def test_what_a_pool_does_better_with_an_option_is_told_with_the_option() -> None:
    peer = SQLALCHEMY.having(pre_ping=True)
    losses = list(table({peer.name: (9.0,), SEMAPHORE.name: (8.0,), OURS.name: (5.0,)}, "rate").losses())
    told = page.better(losses)
    assert "**SQLAlchemy QueuePool**: A scene (rate: 9.00, pre_ping=True, not 5.00)." in told
    assert "**psycopg2.pool**: nothing in these figures." in told
    assert "**psycopg2.pool, semaphore**: A scene (rate: 8.00, not 5.00)." in told


def test_a_pool_that_is_faster_at_the_cost_of_some_threads_is_said_to_be() -> None:
    rows: dict[str, tuple[Cell, ...]] = {DBUTILS.name: (8.0, 40.0), OURS.name: (5.0, 1.1)}
    (loss,) = table(rows, "rate", FAIRNESS).losses()
    assert "(its busiest thread had 40 times the loans of its idlest)" in page.not_first([loss])


def test_what_is_no_pool_has_no_figure_or_is_better_by_a_hair_is_not_first() -> None:
    rows: dict[str, tuple[Cell, ...]] = {
        IDEAL: (9.0,),
        BARE.name: ("refuses",),
        DBUTILS.name: (5.2,),
        OURS.name: (5.0,),
    }
    scene = table(rows, "rate")
    assert not list(scene.losses())
    assert not list(
        replace(
            scene, columns=(Column("rate", better="more", matters=9.0),), rows={**rows, DBUTILS.name: (8.0,)}
        ).losses()
    )
    assert page.not_first([]) == "pgpool_rs is first in every column below."
