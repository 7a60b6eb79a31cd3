"""Find how many connections a rate of requests needs, by the pool's own ledger in told time."""

from __future__ import annotations

import importlib
import math
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from pgpool_rs._command.answer import USAGE, Answer, Failed, Table, can_show, number, percentile, positive, whole
from pgpool_rs._core import simulate

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

# Rows of the table on each side of the answer.
_AROUND = 3
_BAR = 60
# Requests that arrive while the pool still fills up are not counted.
_WARM_UP = 10
_MOST = 10_000
_TOO_LONG = "these times are too long to simulate"


class Waits(NamedTuple):
    """Says how long requests wait for one of so many connections, in seconds."""

    connections: int
    busy: float
    waited: float
    mean: float
    median: float
    target: float
    longest: float


class Load(NamedTuple):
    """Holds the moments at which requests come, and how long each holds its connection."""

    arrivals: list[float]
    holds: list[float]

    @classmethod
    def drawn(cls, requests: int, rate: float, hold: Callable[[random.Random], float], seed: int) -> Load:
        """Draw requests that come independently of each other, at this rate for each second on average."""
        draw = random.Random(seed)  # noqa: S311  (no secret)
        arrivals, holds, now = [], [], 0.0
        for _ in range(requests):
            now += draw.expovariate(rate)
            arrivals.append(now)
            holds.append(hold(draw))
        return cls(arrivals, holds)

    def waits(self, connections: int, target: float) -> Waits:
        """Serve the requests by a pool of this size."""
        try:
            waits = simulate(connections, *self)[len(self.holds) // _WARM_UP :]
        except ValueError as error:
            raise Failed(f"{_TOO_LONG}: {error}", USAGE) from None
        waits.sort()
        count = len(waits)
        return Waits(
            connections,
            busy=min(sum(self.holds) / self.arrivals[-1] / connections, 1.0),
            waited=sum(wait > 0 for wait in waits) / count,
            mean=sum(waits) / count,
            median=waits[count // 2],
            target=waits[min(math.ceil(count * target / 100), count) - 1],
            longest=waits[-1],
        )


def distribution(name: str, mean: float, variation: float) -> Callable[[random.Random], float]:
    """Return what draws how long a request holds its connection. `variation` is the deviation in means."""
    if name == "constant":
        return lambda _: mean
    if name == "exponential":
        return lambda draw: draw.expovariate(1 / mean)
    sigma = math.sqrt(math.log1p(variation**2))
    return lambda draw: draw.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)


def smallest(waits: Callable[[int], Waits], least: int, wait: float) -> int:
    """Find the smallest pool in which the wait is short enough, from `least` connections on."""
    high = least
    while waits(high).target > wait:
        least, high = high + 1, 2 * high
    while least < high:
        middle = (least + high) // 2
        least, high = (least, middle) if waits(middle).target <= wait else (middle + 1, high)
    return high


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add = command.add_argument
    add("--rate", type=positive, required=True, help="requests in a second, of all processes together")
    add("--hold", type=positive, required=True, help="seconds for which a request holds its connection, on average")
    add("--wait", type=number, required=True, help="seconds that a request may wait for its connection")
    add("--percentile", type=percentile, default=99.0, help="of the requests that may wait no longer (99)")
    add("--processes", type=whole, default=1, help="that share the requests evenly, each with a pool of its own (1)")
    kinds = ("exponential", "constant", "lognormal")
    add("--distribution", choices=kinds, default="exponential", help="of the holds (exponential)")
    add("--variation", type=positive, help="of lognormal holds: standard deviation / mean (2)")
    add("--requests", type=whole, default=200_000, help="to simulate (200000)")
    add("--seed", type=int, default=1, help="of the random numbers (1)")
    add("--plot", metavar="FILE", help="draw the waits into this file, by matplotlib")


def run(args: argparse.Namespace) -> Answer:
    """Simulate pools of more and more connections."""
    if args.variation is None:
        args.variation = 2.0
    elif args.distribution != "lognormal":
        raise Failed(f"--variation is for --distribution lognormal, and not for {args.distribution} holds", USAGE)
    rate = args.rate / args.processes
    try:
        load = Load.drawn(args.requests, rate, distribution(args.distribution, args.hold, args.variation), args.seed)
    except OverflowError as error:
        raise Failed(f"{_TOO_LONG}: {error}", USAGE) from None
    known: dict[int, Waits] = {}

    def waits(connections: int) -> Waits:
        if connections not in known:
            known[connections] = load.waits(connections, args.percentile)
        return known[connections]

    # With fewer, the queue grows for ever.
    fewest = math.floor(rate * args.hold) + 1
    if fewest > _MOST:
        raise Failed(f"{args.rate:g} requests/s of {args.hold:g} s need more than {_MOST} connections", USAGE)
    answer = smallest(waits, fewest, args.wait)
    rows = [waits(number) for number in range(max(fewest, answer - _AROUND), answer + _AROUND + 1)]
    if args.plot:
        _plot(args.plot, rows, args.wait, args.percentile)
    data = {
        "connections": answer,
        "in_all_processes": answer * args.processes,
        "fewest": fewest,
        "simulated_seconds": load.arrivals[-1],
        "rows": [row._asdict() for row in rows],
    }
    return Answer(data, _parts(args, rate, data, rows))


def _parts(args: argparse.Namespace, rate: float, data: dict[str, Any], rows: list[Waits]) -> list[str | Table]:
    target = f"p{args.percentile:g}"
    kind = f"lognormal, variation {args.variation:g}" if args.distribution == "lognormal" else args.distribution
    each = "" if args.processes == 1 else "In each process: "
    all_of_them = "" if args.processes == 1 else f": {data['in_all_processes']} in {args.processes} processes"
    columns = (">connections", ">busy", ">wait at all", ">mean ms", ">p50 ms", f">{target} ms", ">longest ms")
    cells = [
        (
            f"{row.connections}",
            f"{row.busy:.0%}",
            f"{row.waited:.1%}",
            *(f"{1000 * wait:.1f}" for wait in (row.mean, row.median, row.target, row.longest)),
        )
        for row in rows
    ]
    busy = f"{rate * args.hold:.1f} connections are busy on average"
    allowed = f"{args.percentile:g} % of the requests wait {1000 * args.wait:g} ms at most"
    simulated = f"Simulated: {args.requests} requests in {data['simulated_seconds']:.0f} s."
    return [
        f"{each}{rate:g} requests/s, {1000 * args.hold:g} ms each ({kind}): {busy}.\n{simulated}",
        Table(columns, cells),
        _bars(f"{target} wait", rows),
        f"{data['connections']} connections{all_of_them}. {allowed}.",
    ]


def _bars(title: str, rows: list[Waits]) -> str:
    """Draw the waits as text."""
    longest = max(row.target for row in rows) or 1.0
    bar = "█" if can_show("█") else "#"
    width = len(str(rows[-1].connections))
    bars = [
        f"{row.connections:{width}} {bar * round(_BAR * row.target / longest):1}{1000 * row.target:5.1f} ms"
        for row in rows
    ]
    return "\n".join([title, *bars])


def _plot(file: str, rows: list[Waits], wait: float, target: float) -> None:
    try:
        importlib.import_module("matplotlib").use("agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise Failed("--plot needs matplotlib: pip install matplotlib", USAGE) from None
    figure, axes = pyplot.subplots(layout="constrained")
    sizes = [row.connections for row in rows]
    for name, label in (("target", f"p{target:g}"), ("mean", "mean")):
        axes.plot(sizes, [1000 * getattr(row, name) for row in rows], marker="o", label=label)
    axes.axhline(1000 * wait, color="grey", linestyle="dashed", label="allowed")
    axes.set(xlabel="connections", ylabel="wait, ms", xticks=sizes, ylim=(0, None))
    axes.legend()
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # no such folder, no such format
        raise Failed(f"--plot {file}: {error}", USAGE) from None
