"""Run the target under faults, sample its figures, and stop everything at checkpoints."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from dev import load
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import Proxy
from dev.soak import checker
from dev.soak.faults import Faults
from dev.soak.process import Figures
from dev.soak.record import Checkpoint, Record, Sample
from dev.soak.target import TUNABLES

PATIENCE = 100.0  # Seconds for the target to answer: longer than its own patience, so that it can say what hangs.
APPLICATION = "soak"
ANOTHER = "soak another"


class TargetError(Exception):
    """Says that the target hangs or has ended."""


@final
class Controller:
    """Owns the server, the proxy before it, and the target, for one run."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.record = Record(seed, seconds)
        self._began = time.monotonic()
        self._begun: Counter[str] = Counter()
        self._seen = (0, 0)

    def run(self) -> Record:
        """Run for the whole time. Errors are in the record."""
        with ThrowawayPostgres() as server, Proxy(server.port) as proxy:
            load.prepare(server.dsn)
            faults = Faults(server, proxy, APPLICATION, self.record.seed)
            # Without TLS and Kerberos: a fork may copy the locks of their libraries while another thread holds them.
            address = {
                **proxy.dsn_kwargs(server.dsn_kwargs),
                "application_name": APPLICATION,
                "connect_timeout": 2,
                "sslmode": "disable",
            }
            with _started({"address": address, "seed": self.record.seed}) as target:
                self._began = time.monotonic()
                try:
                    self._run(target, faults)
                    faults.stop()
                    self._note(target.ask("end"))
                    target.leave()
                    self._expect_none(faults)
                except (TargetError, subprocess.TimeoutExpired) as error:
                    self.record.problems.append(str(error))
        return self.record

    def _run(self, target: _Process, faults: Faults) -> None:
        pause, cycle = self.record.interval, self.record.cycle
        end = self._began + self.record.seconds
        sample = self._began + pause
        checkpoint = self._began + cycle
        while True:
            now = time.monotonic()
            if now >= min(checkpoint, end):
                faults.stop()
                self._check(target, faults)
                if now >= end:
                    return
                checkpoint = time.monotonic() + cycle
            elif now >= sample:
                self._sample(target, faults)
                sample = max(sample + pause, time.monotonic())
            else:
                time.sleep(max(0.0, min(faults.step(), sample, checkpoint, end) - time.monotonic()))

    def _sample(self, target: _Process, faults: Faults) -> None:
        report = target.ask("report")
        requests, failures = self._note(report)
        self._collect(faults)
        sample = Sample(
            at=time.monotonic() - self._began,
            figures=Figures.of(target.pid),
            sessions=faults.sessions(APPLICATION),
            median=report["median"],
            p99=report["p99"],
            requests=requests,
            failures=failures,
            faults=self._begun,
        )
        self._begun = Counter()
        self.record.samples.append(sample)

    def _check(self, target: _Process, faults: Faults) -> None:
        """Pause all threads, and compare figures that must then be equal."""
        figures = target.ask("rest")
        self._note(figures)
        problems = list(figures["problems"])
        stats = figures["stats"]
        closed = sum(number for name, number in stats.items() if name.startswith("closed_"))
        opened = stats["connections_num"] - stats["connections_errors"]
        if opened != stats["pool_size"] + closed:
            problems.append(f"the pool opened {opened} connections, closed {closed}, and has {stats['pool_size']}")
        if stats["pool_size"] != figures["lent"]:
            problems.append(f"the pool has {stats['pool_size']} connections, and lent {figures['lent']}")
        wanted = {APPLICATION: figures["lent"], ANOTHER: 0}
        seen, sessions = self._quiesced(target, faults, wanted)
        if sessions != wanted:
            problems.append(f"the server has the sessions {sessions}, and not {wanted}")
        checkpoint = Checkpoint(
            at=time.monotonic() - self._began,
            figures=seen,
            requests=figures["requests"],
            connects=stats["connections_num"],
            seconds=figures["seconds"],
            blocks=figures["blocks"],
            objects=figures["objects"],
            heap=figures["heap"],
            problems=tuple(problems),
        )
        self.record.checkpoints.append(checkpoint)
        target.ask("go")
        print(_line(checkpoint), flush=True)

    def _quiesced(
        self, target: _Process, faults: Faults, wanted: dict[str, int]
    ) -> tuple[Figures, dict[str, int | None]]:
        """Wait until threads, descriptors and sessions are as wanted, for RECOVERY at most, and read them.

        Threads and sessions end a little later than the calls that end them. At the first checkpoint, which sets how
        many are wanted, they get a second.
        """
        now = time.monotonic()
        first = self.record.checkpoints[0].figures if self.record.checkpoints else None
        while True:
            sessions = {name: faults.sessions(name) for name in wanted}
            seen = Figures.exactly_of(target.pid)
            if first is None:
                is_same = time.monotonic() > now + 1.0
            else:
                is_same = (seen.threads, seen.descriptors) == (first.threads, first.descriptors)
            if (is_same and sessions == wanted) or time.monotonic() > now + checker.RECOVERY:
                return seen, sessions
            time.sleep(0.05)

    def _note(self, report: dict[str, Any]) -> tuple[int, int]:
        """Keep the report; return the numbers of requests and failures since the one before."""
        before = self._seen
        self._seen = (report["requests"], sum(report["failures"].values()) + report["unexplained_number"])
        self.record.last = report
        return self._seen[0] - before[0], self._seen[1] - before[1]

    def _collect(self, faults: Faults) -> None:
        self._begun.update(faults.begun)
        self.record.faults.update(faults.begun)
        faults.begun.clear()

    def _expect_none(self, faults: Faults) -> None:
        deadline = time.monotonic() + checker.RECOVERY
        while any(faults.sessions(name) for name in (APPLICATION, ANOTHER)):
            if time.monotonic() > deadline:
                self.record.problems.append("the server has sessions after the end of the target")
                return
            time.sleep(0.05)


@final
class _Process:
    """Gives orders to the target. Raises TargetError if it does not answer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise TargetError(f"the target ended with status {self._process.wait(PATIENCE)}") from None

    def ask(self, order: str) -> dict[str, Any]:
        self.tell(order)
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            os.kill(self.pid, signal.SIGUSR1)  # It prints its stacks.
            time.sleep(1.0)
            raise TargetError(f"the target hangs at {order!r}; its stacks are on standard error")
        line = self._process.stdout.readline()
        if not line:
            raise TargetError(f"the target ended with status {self._process.wait(PATIENCE)} at {order!r}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def leave(self) -> None:
        status = self._process.wait(PATIENCE)
        if status != 0:
            raise TargetError(f"the target ended with status {status}")


@contextmanager
def _started(settings: dict[str, Any]) -> Iterator[_Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dev.soak.target"],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "GLIBC_TUNABLES": TUNABLES},
    )
    try:
        target = _Process(process)
        target.ask(json.dumps(settings))
        yield target
    finally:
        process.kill()
        process.communicate()


def _line(checkpoint: Checkpoint) -> str:
    heap = "" if checkpoint.heap is None else f", {checkpoint.heap / 1024:.0f} KiB of it in use"
    return (
        f"{checkpoint.at:7.0f} s: {checkpoint.requests} requests, {checkpoint.figures.resident / 1024:.1f} MiB{heap}, "
        f"{checkpoint.blocks} blocks, {checkpoint.objects} objects, {checkpoint.figures.threads} threads, "
        f"{checkpoint.figures.descriptors} descriptors, full capacity after {checkpoint.seconds:.2f} s"
        + "".join(f"\n          {problem}" for problem in checkpoint.problems)
    )
