"""Mistakes that were made once in keeping a pool running, and are not to come back."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pgpool_rs import _housekeeper
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.pools import assert_sound, wait_for_quiet


def test_an_interrupt_that_comes_while_the_housekeeping_is_woken_is_not_swallowed(
    server: FakeServer, our_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = our_class(1, 1, background=True)
    connection = pool.getconn()
    connection.status = INTRANS
    poke = _housekeeper.poke

    def interrupted(poked: Any) -> None:
        monkeypatch.setattr(_housekeeper, "poke", poke)
        poke(poked)
        raise KeyboardInterrupt

    monkeypatch.setattr(_housekeeper, "poke", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.putconn(connection)
    wait_for_quiet(pool)
    assert_sound(pool, server)


def test_pools_without_a_name_leave_no_loggers_behind(server: FakeServer, our_class: Any) -> None:
    known = logging.root.manager.loggerDict
    before = set(known)
    for _ in range(20):
        pool = our_class(1, 1)
        pool.putconn(pool.getconn())
        pool.closeall()
    assert set(known) == before
