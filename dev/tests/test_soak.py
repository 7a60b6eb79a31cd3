"""What the soak rests on: figures that are true, a checker that lets no leak pass, and a plot that can be read."""

from __future__ import annotations

import mmap
import os
import random
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions

from dev.load import Failure, Outcome
from dev.soak import checker, faults, page, plot
from dev.soak.counters import BUCKETS, KEPT, Counters, Histogram
from dev.soak.process import Figures
from dev.soak.record import CHECKPOINTS, POINTS, Checkpoint, Record, Sample
from dev.soak.target import heap_in_use
from dev.soak.workload import BrokenPromiseError, Holders
from tests.lib.programs import run_program

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


# The checker


@pytest.mark.parametrize("seed", range(5))
def test_a_run_without_growth_is_flat_for_all_its_noise(seed: int) -> None:
    assert not failing(flat_run(seed=seed))


def test_the_slope_is_the_one_of_the_line_though_a_quarter_of_the_points_lie_anywhere() -> None:
    points = [(float(x), 3.0 * x + 7.0) for x in range(40)]
    for index in range(0, 40, 4):
        points[index] = (float(index), 1e6 * (-1) ** index)
    assert checker.slope(points) == pytest.approx(3.0)
    assert checker.growth(points) == pytest.approx(3.0 * 39)


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


def test_what_grows_while_caches_fill_and_then_no_more_is_let_pass() -> None:
    record = flat_run()
    for index, checkpoint in enumerate(record.checkpoints[: len(record.checkpoints) // 3]):
        figures = replace(checkpoint.figures, resident=20_000.0 + 100 * index)
        record.checkpoints[index] = replace(checkpoint, figures=figures, blocks=50_000 + 100 * index, heap=2_000_000)
    assert not failing(record)


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


def test_a_slow_recovery_is_found() -> None:
    record = flat_run()
    record.checkpoints[3] = replace(record.checkpoints[3], seconds=checker.RECOVERY + 0.1)
    assert failing(record) == ["longest recovery of full capacity"]


def test_requests_that_take_longer_and_longer_are_found() -> None:
    record = flat_run()
    record.samples = [replace(sample, median=0.005 * 4 ** (sample.at / record.seconds)) for sample in record.samples]
    assert not failing(record)  # Less than twice as long from one third to the next.
    record.samples = [replace(sample, median=0.005 * 10 ** (sample.at / record.seconds)) for sample in record.samples]
    assert failing(record) == ["typical latency, second and last third"]


def test_an_error_that_nothing_explains_is_found_and_told() -> None:
    record = flat_run()
    record.last.update(unexplained=["read: borrow: KeyError"], unexplained_number=1)
    record.problems.append("the target ended with status -11")
    assert failing(record) == ["errors that no fault explains", "other problems"]
    assert "read: borrow: KeyError" in str(checker.check(record)[-2])


def test_a_run_too_short_to_tell_is_no_success() -> None:
    assert "checkpoints after the warm-up" in failing(flat_run(seconds=30))
    assert failing(Record(0, 600.0))


@pytest.mark.parametrize("hours", [1 / 60, 1 / 6, 1, 24])
def test_the_record_of_a_run_has_a_bounded_size_however_long_it_is(hours: float) -> None:
    record = flat_run(seconds=3600 * hours)
    assert len(record.samples) <= POINTS
    assert len(record.checkpoints) <= CHECKPOINTS


# The figures


def test_the_figures_of_a_process_are_those_of_the_kernel() -> None:
    # Not among the threads of other tests, which may be just ending.
    run_program("from dev.tests.test_soak import look_at_figures\nlook_at_figures()")


def look_at_figures() -> None:
    """Look at the figures of this process, of which nothing else may be changing."""
    before = Figures.exactly_of(os.getpid())
    ear, bell = os.pipe()
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait, daemon=True)
    thread.start()
    with mmap.mmap(-1, 32 << 20) as memory:
        memory.write(b"!" * len(memory))
        after = Figures.exactly_of(os.getpid())
        assert Figures.of(os.getpid()).resident == pytest.approx(after.resident, rel=0.2)
    leave.set()
    thread.join()
    os.close(ear)
    os.close(bell)
    assert after.descriptors == before.descriptors + 2
    assert after.threads == before.threads + 1
    assert after.resident - before.resident >= 31 << 10


def test_what_malloc_has_given_out_is_counted() -> None:
    before = heap_in_use()
    if before is None:
        pytest.skip("the C library has no mallinfo2")
    held = [bytes(4000 + number) for number in range(1000)]
    after = heap_in_use()
    assert after is not None
    assert after - before >= 4_000_000
    del held


def test_a_quantile_is_right_to_five_percent_from_a_fixed_number_of_counters() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    for number in range(1, 10_001):
        histogram.add(number / 1000)
    assert histogram.quantile(0.5) == pytest.approx(5.0, rel=0.05)
    assert histogram.quantile(0.99) == pytest.approx(9.9, rel=0.05)
    histogram.add(0.0)
    histogram.add(1e9)
    assert len(histogram._counts) == BUCKETS


def outcome(failure: Failure | None = None, *, seconds: float = 0.01) -> Outcome:
    """Make the outcome of a request that read."""
    return Outcome("read", 5.0, 5.0, 5.0 + seconds, 1, failure)


def test_a_counters_keeps_counts_and_the_first_failures_that_nothing_explains() -> None:
    counters = Counters()
    counters.record(outcome())
    counters.record(outcome(Failure("use", psycopg2.OperationalError, None, "gone"), seconds=3.0))
    for _ in range(2 * KEPT):
        counters.record(outcome(Failure("return", psycopg2.ProgrammingError, None, "what?")))
    report = counters.report()
    assert report["requests"] == 2 + 2 * KEPT
    assert report["failures"] == {"OperationalError": 1}
    assert report["unexplained_number"] == 2 * KEPT
    assert len(report["unexplained"]) == KEPT
    assert "what?" in report["unexplained"][0]
    # What failed says nothing of how long a request takes.
    assert report["p99"] == pytest.approx(0.01, rel=0.05)
    assert counters.report()["p99"] is None


class Lent:
    """What a borrower looks at."""

    def __init__(self, *, status: int = extensions.TRANSACTION_STATUS_IDLE, autocommit: bool = False) -> None:
        self.info = self
        self.transaction_status = status
        self.autocommit = autocommit
        self.closed = 0
        self.opener = os.getpid()


def test_a_borrower_notices_that_another_has_his_connection() -> None:
    holders = Holders()
    lent, another = Lent(), Lent()
    with (
        holders.holding(lent),
        holders.holding(another),
        pytest.raises(BrokenPromiseError, match="two borrowers"),
        holders.holding(lent),
    ):
        pass
    with holders.holding(lent):
        pass


@pytest.mark.parametrize(
    "lent",
    [Lent(status=extensions.TRANSACTION_STATUS_INTRANS), Lent(autocommit=True)],
    ids=["transaction", "autocommit"],
)
def test_a_borrower_notices_that_a_connection_is_not_clean(lent: Lent) -> None:
    with pytest.raises(BrokenPromiseError, match="was lent inside a transaction"), Holders().holding(lent):
        pass


def test_a_borrower_notices_that_a_connection_is_another_processes() -> None:
    lent = Lent()
    lent.opener += 1
    with pytest.raises(BrokenPromiseError, match="another process"), Holders().holding(lent):
        pass


# What is written


@pytest.mark.parametrize("hours", [1 / 6, 24])
def test_the_picture_is_small_and_the_same_for_the_same_run(tmp_path: Path, hours: float) -> None:
    pytest.importorskip("matplotlib", reason="it is among requirements-prove.txt")
    record = flat_run(seconds=3600 * hours)
    record.samples[3] = replace(record.samples[3], sessions=None, median=None, p99=None)
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    plot.write(record, one)
    plot.write(record, other)
    assert one.read_bytes() == other.read_bytes()
    assert one.stat().st_size < 60_000


def test_a_run_that_ended_at_once_is_drawn_and_told_too(tmp_path: Path) -> None:
    record = Record(0, 600.0, problems=["the target ended with status 1"])
    page.write(record, checker.check(record), "a small machine", tmp_path / "page.md")
    assert "the target ended with status 1" in (tmp_path / "page.md").read_text()
    pytest.importorskip("matplotlib", reason="it is among requirements-prove.txt")
    plot.write(record, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_fault_is_drawn_from_the_sample_before_it_and_two_in_a_row_as_one() -> None:
    record = Record(0, 60.0)
    kinds = [[], ["cut"], ["cut", "delay"], [], ["cut"]]
    for at, names in enumerate(kinds, 1):
        record.samples.append(Sample(float(at), Figures(0, 0, 0), 0, None, None, 0, 0, Counter(names)))
    drawn = plot.spans(record, "cut")
    assert [drawn[0:2], drawn[3:5]] == [[1.0, 3.0], [4.0, 5.0]]
    assert len(drawn) == 6
    assert plot.spans(record, "crash") == []


def test_the_page_says_what_was_claimed_and_measured(tmp_path: Path) -> None:
    record = flat_run(seed=4711)
    record.faults.update({"cut": 12, "crash": 3})
    page.write(record, checker.check(record), "a small machine", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "**All claims hold.**" in text
    assert "seed 4711" in text
    assert "a small machine" in text
    assert "| threads at checkpoints | 20 | the same each time | yes |" in text
    assert "| faults | cut 12, crash 3 |" in text
    record.problems.append("the target hangs | and\nsays nothing")
    page.write(record, checker.check(record), "a small machine", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "**A claim fails.**" in text
    assert "| other problems | 1; the target hangs / and says nothing | none | **no** |" in text
