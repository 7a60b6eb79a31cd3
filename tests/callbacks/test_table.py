"""The table of callbacks is complete: every row is reached, and every place in the sources has its rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgpool_rs import SimpleConnectionPool, ThreadedConnectionPool
from tests.callbacks import places as callback_places
from tests.callbacks.places import NAMES, PLACES, UNSEEN, names, places
from tests.callbacks.scene import scene_of
from tests.callbacks.table import PARTS, SITES

ROUNDS = 3


@pytest.mark.parametrize("name", SITES)
def test_a_row_reaches_its_callback_in_each_of_its_rounds_and_leaves_nothing_behind(name: str) -> None:
    site = SITES[name]
    for pool_class in [ThreadedConnectionPool] if site.waits else [ThreadedConnectionPool, SimpleConnectionPool]:
        with scene_of(pool_class) as scene:
            round_ = site.stage(scene)
            for _ in range(ROUNDS):
                before = scene.probe.calls
                round_()
                assert scene.probe.calls > before, "the callback was not made"
                assert scene.pool is None or scene.pool.closed or not scene.pool._used, "something is left behind"
            scene.quiesce()
            scene.assert_sound()


def test_every_place_that_may_run_python_is_in_the_table() -> None:
    expected = {place: does for place, (does, _) in PLACES.items()}
    assert places() == expected, (
        "rust/binding/src runs Python in other places than tests/callbacks/places.py knows. For a new callback, "
        "add its rows to tests/callbacks/sites_*.py, and name them there."
    )


def test_every_name_that_python_is_asked_for_is_in_the_table() -> None:
    assert names() == set(NAMES), "say in tests/callbacks/places.py which callbacks the new name makes"


def test_each_callback_of_a_place_has_rows_and_each_row_a_place() -> None:
    known = [callbacks for _, callbacks in PLACES.values()] + list(NAMES.values())
    made = {callback for callbacks in known if not isinstance(callbacks, str) for callback in callbacks}
    assert made | set(UNSEEN) == {site.callback for site in SITES.values()}


def test_a_new_call_in_the_sources_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in callback_places.SOURCES.rglob("*.rs"):
        text = source.read_text()
        if source.name == "give_back.rs":
            text = re.sub(
                r"(pub\(crate\) fn give_back\(.*?\{\n)", r"\1    slf.call_method0(hook)?;\n", text, flags=re.DOTALL
            )
        if source.name == "python.rs":
            text = text.replace('    acquire = "acquire",\n', '    acquire = "acquire",\n    hook = "hook",\n')
        copy = tmp_path / source.relative_to(callback_places.SOURCES)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(text)
    monkeypatch.setattr(callback_places, "SOURCES", tmp_path)
    assert set(places().items()) - {(place, does) for place, (does, _) in PLACES.items()} == {
        ("give_back.give_back", "call_method0")
    }
    assert names() - set(NAMES) == {"hook"}


def test_every_part_of_the_table_has_rows() -> None:
    for part in PARTS:
        assert any(site.stage.__module__ == part.__name__ for site in SITES.values()), part
