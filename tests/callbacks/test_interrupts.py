"""Whatever a callback raises, in whichever of its calls, no slot is lost, and it is heard as the table says.

The table of callbacks is in sites.py. Afterwards the pool lends exactly what it may, and it counts what the
server counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import QueryCanceledError

from pgpool_rs import SimpleConnectionPool, ThreadedConnectionPool
from tests.callbacks.probe import Late, Odd
from tests.callbacks.scene import Scene, scene_of
from tests.callbacks.sites import Fate, Site
from tests.callbacks.table import SITES
from tests.lib.callbacks import Killed, raiser
from tests.lib.profile import NIGHTLY
from tests.lib.waits import wait_until
from tests.lib.watchdog import real_stderr, watchdog  # noqa: F401

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("watchdog")]

ROUNDS = 3
SAID: list[type[Exception]] = [psycopg2.DatabaseError, TimeoutError]
PLAIN: list[type[Exception]] = [ValueError, QueryCanceledError]
STRONG: list[type[BaseException]] = [KeyboardInterrupt, SystemExit, GeneratorExit, Killed]
ERRORS = [*SAID, *PLAIN, MemoryError, *STRONG]

# Options that lead a pool's calls off the fast path, or its returns to the housekeeping.
KINDS: dict[str, dict[str, Any]] = {
    "keeps all": {"max_idle": None},
    "checks": {"check": lambda _: None, "check_after": 0},
    "resets": {"reset": lambda _: None},
    "reports leaks": {"leak_after": 1e6},
    "reclaims": {"reclaim": True},
    "lives": {"max_lifetime": 1e6},
}

# A close that an interrupt meets in its first line has not closed anything.
UNCLOSED = {"close / closeall"}


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> Site:
    """Give each row of the table."""
    return SITES[request.param]


def classes(site: Site) -> list[Any]:
    """List the classes that make this callback."""
    return [ThreadedConnectionPool] if site.waits else [ThreadedConnectionPool, SimpleConnectionPool]


def strikes(site: Site) -> list[tuple[Any, int]]:
    """List in which pool, and in which call, a callback fails: the first, the second and the third."""
    calls = range(1, ROUNDS + 1)
    return [
        (each, at) for each in classes(site) for at in calls if NIGHTLY or at == 1 or each is not SimpleConnectionPool
    ]


def play(scene: Scene, site: Site, act: Callable[[Any], object], at: int = 1) -> list[BaseException]:
    """Make three rounds with the act in one of them; list what was raised."""
    round_ = site.stage(scene)
    scene.probe.arm(act, at)
    raised: list[BaseException] = []
    for _ in range(ROUNDS):
        try:
            round_()
            for _ in range(10):
                pass  # what comes late comes here at the latest
        except BaseException as error:
            raised.append(error)
            if isinstance(error, Late) and scene.is_where_it_struck(error):
                for connection in list(scene.pool._used.values()):
                    scene.give(connection)
        if not site.stays:
            scene.assert_nothing_lost()
    return raised


def heard(scene: Scene, error: type[BaseException], raised: list[BaseException]) -> Fate:
    """Tell what became of an error of this class."""
    if any(type(each) is error for each in raised):
        return Fate.RAISED
    if any(error.__name__ in line for line in scene.log.texts):
        return Fate.LOGGED
    if any(error.__name__ in line for line in scene.keepers_log.texts):
        return Fate.ENDED
    if any(type(each.exc_value) is error for each in scene.unraisable):
        return Fate.PRINTED
    return Fate.PASSED


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_what_a_callback_raises_loses_no_slot_and_is_heard(site: Site, error: type[BaseException]) -> None:
    for pool_class, at in strikes(site):
        with scene_of(pool_class) as scene:
            raised = play(scene, site, raiser(error("fault")), at)
            assert not scene.probe.armed, "the callback was never reached"
            fates = {**dict.fromkeys(SAID, site.said), **dict.fromkeys(PLAIN, site.plain), MemoryError: site.short}
            fate = fates.get(error, site.strong)
            if fate is not Fate.PASSED:
                # Another thread may be about to tell.
                wait_until(lambda: heard(scene, error, raised) is not Fate.PASSED, "a word of it")  # noqa: B023
            where = f"{pool_class.__name__}, call {at}"
            assert heard(scene, error, raised) is fate, f"{where}: {raised} {scene.log.texts}"
            assert len(raised) == (fate is Fate.RAISED), f"{where}: {raised}"
            raised.clear()
            scene.quiesce()
            scene.assert_sound()


def test_with_other_options_too_no_slot_is_lost(site: Site) -> None:
    # What becomes of the error, and whether the callback is made at all, depends on the options.
    for kind in KINDS.values():
        for pool_class in classes(site) if NIGHTLY else [ThreadedConnectionPool]:
            for error in ERRORS if NIGHTLY else [ValueError, Killed]:
                for at in range(1, ROUNDS + 1 if NIGHTLY else 2):
                    with scene_of(pool_class, kind) as scene:
                        play(scene, site, raiser(error("fault")), at).clear()
                        scene.quiesce()
                        scene.assert_sound()


def test_what_strikes_once_a_callback_has_returned_loses_no_slot(site: Site) -> None:
    for pool_class, at in strikes(site):
        with scene_of(pool_class) as scene:
            raised = play(scene, site, scene.probe.leave_token, at)
            assert not scene.probe.armed, "the callback was never reached"
            if site.strong is not Fate.PASSED:
                # Another thread may be about to tell.
                wait_until(lambda: heard(scene, Late, raised) is not Fate.PASSED, "a word of it")  # noqa: B023
            assert all(type(error) is Late for error in raised), raised
            raised.clear()
            scene.quiesce()
            if site.name in UNCLOSED:
                scene.close_by_hand()
            scene.assert_sound()


# What fails as well, once the first fault has struck.
SECONDS = ["close", "rollback", "closed", "log handler"]


@pytest.mark.parametrize("second", SECONDS)
def test_two_faults_at_once_lose_no_slot(site: Site, second: str) -> None:
    for first in (ValueError, Killed):
        for other in (Odd, KeyboardInterrupt):
            with scene_of(ThreadedConnectionPool) as scene:

                def act(_: object, scene: Scene = scene, first: Any = first, other: Any = other) -> None:
                    scene.strike_next(second, other("second"))
                    raise first("fault")

                raised = play(scene, site, act)
                fate = site.plain if first is ValueError else site.strong
                if fate is Fate.RAISED:
                    assert raised, "neither was heard"
                raised.clear()
                scene.quiesce()
                scene.assert_sound()
