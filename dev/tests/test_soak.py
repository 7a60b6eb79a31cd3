"""The soak's checker lets no leak pass."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from dev.soak import checker, faults
from dev.soak.process import Figures
from dev.soak.record import Checkpoint, Record, Sample

MINUTES = 10
NOISE = 150.0  # KiB


def flat_run(*, seconds: float = MINUTES * 60, seed: int = 0) -> Record:
    """Make the record of a run in which nothing grows and all is well."""
    choice = random.Random(seed)
    record = Record(seed, seconds, last={"unexplained": [], "unexplained_number": 0, "requests": 600 * seconds})
    at = record.cycle
    while at <= seconds:
        figures = Figures(30_000 + choice.uniform(-NOISE, NOISE), threads=20, descriptors=11)
        blocks = 70_000 + choice.randint(-50, 50)
        checkpoint = Checkpoint(at, figures, round(600 * at), round(30 * at), 0.1, blocks, 20_000, 4_000_000, ())
        record.checkpoints.append(checkpoint)
        at += record.cycle
    at = record.interval
    while at <= seconds:
        begun = Counter(choice.sample(faults.NAMES, choice.randint(0, 3)))
        figures = Figures(30_000 + choice.uniform(-NOISE, NOISE), 20 + choice.randint(0, 1), choice.randint(3, 13))
        median = choice.uniform(0.002, 0.009)
        record.samples.append(Sample(at, figures, choice.randint(0, 9), median, 90 * median, 600, 5, begun))
        at += record.interval
    return record


def failing(record: Record) -> list[str]:
    """Name the claims that do not hold."""
    return [claim.name for claim in checker.check(record) if not claim.holds]


@pytest.mark.parametrize("seed", range(5))
def test_a_run_without_growth_is_flat_for_all_its_noise(seed: int) -> None:
    assert not failing(flat_run(seed=seed))


@pytest.mark.parametrize(
    ("leak", "claim"),
    [
        # Of each request, in the run's own noise: 400,000 of them after the warm-up.
        (
            lambda checkpoint: {
                "figures": replace(checkpoint.figures, resident=checkpoint.figures.resident + checkpoint.requests / 100)
            },
            "resident",
        ),
        (lambda checkpoint: {"heap": checkpoint.heap + checkpoint.requests}, "memory in use"),
        (lambda checkpoint: {"blocks": checkpoint.blocks + checkpoint.requests // 400}, "memory blocks"),
        (lambda checkpoint: {"objects": checkpoint.objects + checkpoint.requests // 2000}, "objects"),
    ],
    ids=["10 bytes that stay resident", "1 byte of the heap", "a block in 400", "an object in 2000"],
)
def test_a_little_that_each_request_leaves_behind_is_found(leak: Any, claim: str) -> None:
    record = flat_run()
    record.checkpoints = [replace(checkpoint, **leak(checkpoint)) for checkpoint in record.checkpoints]
    (failed,) = failing(record)
    assert claim in failed


@pytest.mark.parametrize("figure", ["threads", "descriptors"])
def test_one_thread_or_descriptor_too_many_at_one_checkpoint_is_found(figure: str) -> None:
    record = flat_run()
    checkpoint = record.checkpoints[-1]
    more: dict[str, Any] = {figure: getattr(checkpoint.figures, figure) + 1}
    record.checkpoints[-1] = replace(checkpoint, figures=replace(checkpoint.figures, **more))
    assert failing(record) == [f"{figure} at checkpoints"]


def test_a_lost_slot_is_found_with_the_time_at_which_it_was_seen() -> None:
    record = flat_run()
    record.checkpoints[7] = replace(record.checkpoints[7], problems=("the pool has 7 connections, and lent 8",))
    (claim,) = [claim for claim in checker.check(record) if not claim.holds]
    assert "after 80 s: the pool has 7 connections, and lent 8" in claim.measured


def test_an_error_that_nothing_explains_is_found_and_told() -> None:
    record = flat_run()
    record.last.update(unexplained=["read: borrow: KeyError"], unexplained_number=1)
    record.problems.append("the target ended with status -11")
    assert failing(record) == ["errors that no fault explains", "other problems"]
    assert "read: borrow: KeyError" in str(checker.check(record)[-2])


def test_a_run_too_short_to_tell_is_no_success() -> None:
    assert "checkpoints after the warm-up" in failing(flat_run(seconds=30))
    assert failing(Record(0, 600.0))
