from __future__ import annotations

import pytest

from pgpool_rs._limits.shares import Party, divide


def parties(*told: tuple[int, int]) -> list[Party]:
    """Make pools of what each holds and wants."""
    return [Party(number, f"pool-{number}", 20, holds, wants) for number, (holds, wants) in enumerate(told)]


def shares(limit: int, *told: tuple[int, int], now: float = 0.0) -> list[int]:
    found = parties(*told)
    divide(found, limit, now)
    return [party.share for party in found]


def test_those_who_want_have_equal_parts() -> None:
    assert shares(20, (20, 1), (0, 5), (0, 2), (0, 1)) == [5, 5, 5, 5]


def test_what_a_content_pool_leaves_is_for_the_others() -> None:
    assert shares(20, (2, 0), (18, 1), (0, 5))[1:] == [9, 9]


def test_a_pool_that_wants_nothing_keeps_no_more_than_its_part() -> None:
    assert shares(20, (15, 0), (5, 9)) == [10, 10]


def test_one_that_neither_holds_nor_wants_has_no_part() -> None:
    assert shares(20, (0, 0), (20, 1), (0, 1))[1:] == [10, 10]


@pytest.mark.parametrize("limit", [1, 3, 20, 21])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 50])
def test_all_of_the_limit_is_divided_and_the_rest_goes_round(limit: int, count: int) -> None:
    had = [0] * count
    for turn in range(count * 4):
        found = shares(limit, *[(0, 1)] * count, now=turn * 0.25 if limit < count else float(turn))
        assert sum(found) == limit
        assert max(found) - min(found) <= 1
        had = [before + share for before, share in zip(had, found, strict=True)]
    assert len(set(had)) == 1, "in the long run all have had the same"


def test_while_a_pool_starves_another_holds_too_much() -> None:
    for first in range(8):
        found = parties((first, 1), (3, 0), (17 - first, 0))
        divide(found, 20, 0.0)
        if found[0].starves():
            assert any(party.holds > party.share for party in found[1:])
