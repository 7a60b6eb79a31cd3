from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgpool_rs import _core
from pgpool_rs._command import main
from pgpool_rs._command.size import Load, distribution, smallest
from tests.lib.programs import ROOT

REQUESTS = 100_000


def erlang_c(connections: int, load: float) -> float:
    """Give the probability that a request has to wait: Erlang's C formula."""
    terms = [load**number / math.factorial(number) for number in range(connections)]
    last = load**connections / math.factorial(connections) * connections / (connections - load)
    return last / (sum(terms) + last)


def drawn(rate: float, hold: float, kind: str = "exponential") -> Load:
    return Load.drawn(REQUESTS, rate, distribution(kind, hold, 2.0), 1)


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Give the answer as JSON."""
    assert main(["size", "--requests", "20000", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("connections", "load"), [(1, 0.5), (2, 1.2), (8, 6.0), (30, 25.0)])
def test_requests_wait_as_erlang_says_of_exponential_holds(connections: int, load: float) -> None:
    hold = 0.02
    waits = drawn(load / hold, hold).waits(connections, 99)
    waiting = erlang_c(connections, load)
    assert waits.waited == pytest.approx(waiting, rel=0.05)
    assert waits.mean == pytest.approx(waiting * hold / (connections - load), rel=0.1)
    # Of those that wait, a share of 1 / e waits longer than that mean, and so on.
    assert waits.target == pytest.approx(math.log(waiting * 100) * hold / (connections - load), rel=0.1)


def test_constant_holds_make_one_connection_half_as_slow_as_exponential_ones() -> None:
    constant, exponential = (drawn(35, 0.02, kind).waits(1, 99).mean for kind in ("constant", "exponential"))
    assert constant == pytest.approx(exponential / 2, rel=0.1)


def test_lognormal_holds_have_the_mean_and_the_deviation_that_are_asked_for() -> None:
    draw, hold = random.Random(1), distribution("lognormal", 0.02, 1.5)
    holds = [hold(draw) for _ in range(REQUESTS)]
    assert statistics.fmean(holds) == pytest.approx(0.02, rel=0.03)
    assert statistics.pstdev(holds) == pytest.approx(0.03, rel=0.1)


def test_the_ledger_serves_requests_in_the_order_in_which_they_come() -> None:
    arrivals, holds = [0.0, 1.0, 1.0, 1.5, 10.0], [2.0, 3.0, 1.0, 1.0, 1.0]
    assert _core.simulate(1, arrivals, holds) == pytest.approx([0.0, 1.0, 4.0, 4.5, 0.0])
    assert _core.simulate(2, arrivals, holds) == pytest.approx([0.0, 0.0, 1.0, 1.5, 0.0])
    assert _core.simulate(4, arrivals, holds) == [0.0] * 5
    assert _core.simulate(1, [], []) == []


@pytest.mark.parametrize(
    ("connections", "arrivals", "holds"),
    [(0, [0.0], [1.0]), (1, [1.0, 0.0], [1.0, 1.0]), (1, [0.0], []), (1, [0.0], [-1.0]), (1, [math.nan], [1.0])],
)
def test_what_cannot_be_simulated_is_refused(connections: int, arrivals: list[float], holds: list[float]) -> None:
    with pytest.raises(ValueError, match="as many arrivals, in order, as holds"):
        _core.simulate(connections, arrivals, holds)


@pytest.mark.parametrize("wait", [0.0, 0.001, 0.01, 0.1])
def test_one_connection_fewer_than_the_answer_is_too_few(wait: float) -> None:
    load = drawn(400, 0.02)
    answer = smallest(lambda number: load.waits(number, 99), 9, wait)
    assert load.waits(answer, 99).target <= wait
    assert answer == 9 or load.waits(answer - 1, 99).target > wait


def test_processes_share_the_requests_and_each_has_its_own_connections(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--hold", "0.02", "--wait", "0.005")
    alone = asked(capsys, *load, "--rate", "50")
    together = asked(capsys, *load, "--rate", "200", "--processes", "4")
    assert together["connections"] == alone["connections"]
    assert together["in_all_processes"] == 4 * alone["connections"]
    assert together["rows"] == alone["rows"]
    assert alone["in_all_processes"] == alone["connections"] > alone["fewest"] == 2


def test_the_percentile_and_the_seed_change_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--rate", "200", "--hold", "0.02", "--wait", "0.005")
    answers = [
        asked(capsys, *load, *more)["connections"] for more in ([], ["--percentile", "50"], ["--percentile", "99.9"])
    ]
    assert answers[1] < answers[0] < answers[2]
    assert asked(capsys, *load)["rows"] == asked(capsys, *load, "--seed", "1")["rows"]
    assert asked(capsys, *load)["rows"] != asked(capsys, *load, "--seed", "2")["rows"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: --rate, --hold, --wait"),
        (["--rate", "0"], "--rate: must be a number, more than 0, not '0'"),
        (["--rate", "inf"], "--rate: must be a number, more than 0, not 'inf'"),
        (["--wait", "soon"], "--wait: must be a number, 0 or more, not 'soon'"),
        (["--percentile", "100"], "--percentile: must be more than 0 and less than 100, not '100'"),
        (["--processes", "1.5"], "--processes: must be a whole number, 1 or more, not '1.5'"),
        (
            ["--rate", "1", "--hold", "1", "--wait", "1", "--variation", "2"],
            "--variation is for --distribution lognormal",
        ),
        (["--rate", "1e6", "--hold", "1", "--wait", "1"], "need more than 10000 connections"),
        (["--rate", "1e-6", "--hold", "1", "--wait", "1"], "these times are too long to simulate"),
        (
            ["--rate", "1", "--hold", "1", "--wait", "1", "--distribution", "lognormal", "--variation", "1e200"],
            "these times are too long to simulate",
        ),
    ],
)
def test_a_wrong_argument_is_named_and_the_status_is_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(["size", *words])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert said in capsys.readouterr().err


def test_a_plot_is_drawn_where_matplotlib_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    asked(capsys, "--rate", "200", "--hold", "0.02", "--wait", "0.01", "--plot", str(tmp_path / "waits.svg"))
    assert "<svg" in (tmp_path / "waits.svg").read_text()
    words = ["size", "--rate", "200", "--hold", "0.02", "--wait", "0.01", "--requests", "1000"]
    assert main([*words, "--plot", str(tmp_path / "no" / "waits.svg")]) == 2
    assert "waits.svg: [Errno 2] No such file" in capsys.readouterr().err


def test_where_matplotlib_is_missing_the_plot_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["--rate", "200", "--hold", "0.02", "--wait", "0.01", "--requests", "1000", "--plot", "waits.svg"]
    assert main(["size", *words]) == 2
    assert capsys.readouterr().err == "pgpool_rs: --plot needs matplotlib: pip install matplotlib\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_bars_are_drawn_with_what_the_output_can_show(encoding: str) -> None:
    words = ["size", "--rate", "200", "--hold", "0.02", "--wait", "0.01", "--requests", "1000"]
    run = subprocess.run(
        [sys.executable, "-m", "pgpool_rs", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert ("█" if encoding == "utf-8" else "#") * 60 in run.stdout.decode(encoding)
