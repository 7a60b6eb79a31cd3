"""Rows of the table of callbacks: the methods of a listener."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tests.callbacks.probe import Odd, Probe, last
from tests.callbacks.scene import Round, Scene
from tests.callbacks.sites import (
    CLOSED,
    FULL,
    LOGGED,
    Act,
    borrow,
    borrow_and_use,
    borrow_to_be_closed,
    row,
    site,
    wait_in_vain,
)


class Ear:
    """Calls a probe for each event of one kind."""

    def __init__(self, probe: Probe, event: str) -> None:
        self._probe = probe
        setattr(self, event, self._hear)

    @last
    def _hear(self, *_: object) -> None:
        self._probe()


def told(event: str, size: int = 0, **options: Any) -> Act:
    """Make a pool with the probe in a listener."""
    return lambda scene: scene.open(size, listener=Ear(scene.probe, event), **options)


def connect_in_vain(scene: Scene) -> None:
    """Borrow from a server that is down."""
    scene.server.fail("connect", Odd())
    with suppress(Odd):
        scene.lend()


def give_back_and_wait(scene: Scene) -> None:
    """Wait in vain; first give back what an interrupt of the last round has left in its borrower's hands."""
    for connection in tuple(scene.mine):
        scene.give(connection)
    wait_in_vain(scene)


row("listener", "connected", told("connected"), borrow, LOGGED, LOGGED)
row("listener", "connect_failed", told("connect_failed"), connect_in_vain, LOGGED, LOGGED)
row("listener", "borrowed, at once", told("borrowed", 1), borrow, LOGGED, LOGGED)
row("listener", "borrowed, opened", told("borrowed"), borrow, LOGGED, LOGGED)
row("listener", "returned, clean", told("returned", 1), borrow, LOGGED, LOGGED)
row("listener", "returned, rolled back", told("returned", 1), borrow_and_use, LOGGED, LOGGED)
row("listener", "closed", told("closed"), borrow_to_be_closed, LOGGED, LOGGED)
row("listener", "timed_out", told("timed_out"), give_back_and_wait, LOGGED, LOGGED, waits=True, state=FULL)


@site("listener", "closed with its pool", LOGGED, LOGGED, state=CLOSED)
def _(scene: Scene) -> Round:
    def round_() -> None:
        told("closed", 1)(scene)
        scene.pool.closeall()

    return round_
