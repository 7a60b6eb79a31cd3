"""Every callback calls every operation of its pool: nothing hangs, nothing is lost, and the answers are those expected.

The table of callbacks is in sites.py, the operations and what is to come of them in calls.py. Each
test is under a watchdog that prints all stacks.
"""

from __future__ import annotations

from typing import Any

import pytest

from pgpool_rs import SimpleConnectionPool, ThreadedConnectionPool
from tests.callbacks.calls import CALLS, RETURNED, inner, outer
from tests.callbacks.scene import Scene, scene_of
from tests.callbacks.sites import Site
from tests.callbacks.table import SITES
from tests.lib.profile import NIGHTLY
from tests.lib.watchdog import real_stderr, watchdog  # noqa: F401

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("watchdog")]

ROUNDS = 3


def outcome_of(call: Any, *args: Any) -> str:
    """Make a call; tell that it returned, or what it raised."""
    try:
        call(*args)
    except BaseException as error:
        return type(error).__name__
    return RETURNED


def play(scene: Scene, site: Site, name: str, at: int) -> tuple[list[str], list[str]]:
    """Make three rounds with the call in one of them; tell what came of it, and of the rounds."""
    _, call = CALLS[name]
    round_ = site.stage(scene)
    inside: list[str] = []
    scene.probe.arm(lambda connection: inside.append(outcome_of(call, scene, connection)), at)
    outside = [outcome_of(round_) for _ in range(ROUNDS)]
    assert not scene.probe.armed, "the callback was never reached"
    return inside, outside


@pytest.mark.parametrize("pool_class", [ThreadedConnectionPool, SimpleConnectionPool], ids=["Threaded", "Simple"])
@pytest.mark.parametrize("name", SITES)
def test_a_callback_may_call_its_pool_in_every_way(name: str, pool_class: Any) -> None:
    site = SITES[name]
    waits = issubclass(pool_class, ThreadedConnectionPool)
    if site.waits and not waits:
        return  # a pool that does not wait has no such callback
    for call in CALLS:
        if "timeout" in call and not waits:
            continue  # nor such an argument
        for at in range(1, ROUNDS + 1 if NIGHTLY else 2):
            with scene_of(pool_class) as scene:
                inside, outside = play(scene, site, call, at)
                where = f"{call}, in call {at} of {name}"
                assert set(inside) <= inner(site, call), f"{where}: {inside}"
                assert set(outside) <= outer(site, call), f"{where}: {outside}"
                scene.quiesce()
                scene.assert_sound()
