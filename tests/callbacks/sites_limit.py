"""Rows of the table of callbacks: what a limit is asked and told."""

from __future__ import annotations

from typing import Any

from tests.callbacks.probe import Probe, last
from tests.callbacks.scene import ROOM, Round, Scene
from tests.callbacks.sites import FULL, PASSED, Act, borrow, borrow_to_be_closed, row, site
from tests.callbacks.sites_listener import give_back_and_wait
from tests.lib.limits import PretendedLimit


class SiteLimit(PretendedLimit):
    """Calls a probe in one of its methods, before it does anything."""

    def __init__(self, probe: Probe, method: str, limit: int = ROOM) -> None:
        super().__init__(limit)
        self._probe, self._method = probe, method

    @last
    def _attach(self, pool: Any) -> None:
        self._call("_attach")
        super()._attach(pool)

    @last
    def _take(self, pool: Any) -> bool:
        self._call("_take")
        return super()._take(pool)

    @last
    def _give(self, pool: Any, count: int) -> None:
        self._call("_give")
        super()._give(pool, count)

    @last
    def _wait(self, pool: Any) -> None:
        self._call("_wait")
        super()._wait(pool)

    @last
    def _holders(self) -> str:
        self._call("_holders")
        return super()._holders()

    def _call(self, method: str) -> None:
        if method == self._method:
            self._probe()


def limited(method: str, size: int = 0, maxconn: int = ROOM, **options: Any) -> Act:
    """Make a pool with the probe in its limit."""
    return lambda scene: scene.open(size, maxconn, limit=SiteLimit(scene.probe, method), **options)


@site("limit._attach", "the constructor")
def _(scene: Scene) -> Round:
    return lambda: limited("_attach")(scene)


row("limit._take", "getconn", limited("_take"), borrow)
row("limit._take", "getconn of a key", limited("_take"), lambda scene: borrow(scene, "key"))
row("limit._give", "putconn", limited("_give"), borrow_to_be_closed)
row(
    "limit._wait",
    "getconn",
    limited("_wait", maxconn=ROOM + 1),
    give_back_and_wait,
    PASSED,
    waits=True,
    state=FULL,
    why="the time-out of the same call outweighs it",
)
row(
    "limit._holders",
    "getconn",
    limited("_holders", maxconn=ROOM + 1),
    give_back_and_wait,
    PASSED,
    short=PASSED,
    waits=True,
    state=FULL,
    why="it only adds a note to an error",
)
