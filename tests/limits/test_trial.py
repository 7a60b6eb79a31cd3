"""The trial of `python -m dev.trials.limit`, in a short form and without its promises about time."""

from __future__ import annotations

import math

from dev.trials.limit import LIMIT, disturb


def test_a_server_sees_no_more_than_the_limit_whatever_ends_forks_or_halts() -> None:
    figures = disturb(3.0, seed=88)  # which kills, stops and forks
    assert figures.most_in_time == LIMIT  # a busy server may end a killed process's session too late
    assert figures.errors == []
    assert math.inf not in figures.back
    assert min(figures.rates) > 0
