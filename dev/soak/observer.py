"""Run the subject in its weather, look at it, and let it come to rest now and then."""

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
from dev.soak import verdict
from dev.soak.record import Calm, Record, Sample
from dev.soak.subject import TUNABLES
from dev.soak.watch import Figures
from dev.soak.weather import Weather

PATIENCE = 100.0  # Seconds for the subject to answer: longer than its own patience, so that it can say what hangs.
APPLICATION = "soak"
ANOTHER = "soak another"


class SubjectError(Exception):
    """Says that the subject hangs or has ended."""


@final
class Observer:
    """Owns the server, the proxy before it, and the subject, for one run."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.record = Record(seed, seconds)
        self._began = time.monotonic()
        self._faults: Counter[str] = Counter()
        self._seen = (0, 0)

    def run(self) -> Record:
        """Run for as long as was said. What goes wrong is in the record."""
        with ThrowawayPostgres() as server, Proxy(server.port) as proxy:
            load.prepare(server.dsn)
            weather = Weather(server, proxy, APPLICATION, self.record.seed)
            # Without TLS, as without Kerberos: their libraries have locks that a fork may find taken.
            address = {
                **proxy.dsn_kwargs(server.dsn_kwargs),
                "application_name": APPLICATION,
                "connect_timeout": 2,
                "sslmode": "disable",
            }
            with _started({"address": address, "seed": self.record.seed}) as subject:
                self._began = time.monotonic()
                try:
                    self._watch(subject, weather)
                    weather.calm()
                    self._note(subject.ask("end"))
                    subject.leave()
                    self._expect_none(weather)
                except (SubjectError, subprocess.TimeoutExpired) as error:
                    self.record.problems.append(str(error))
        return self.record

    def _watch(self, subject: _Process, weather: Weather) -> None:
        pause, cycle = self.record.interval, self.record.cycle
        end = self._began + self.record.seconds
        sample = self._began + pause
        rest = self._began + cycle
        while True:
            now = time.monotonic()
            if now >= min(rest, end):
                weather.calm()
                self._rest(subject, weather)
                if now >= end:
                    return
                rest = time.monotonic() + cycle
            elif now >= sample:
                self._sample(subject, weather)
                sample = max(sample + pause, time.monotonic())
            else:
                time.sleep(max(0.0, min(weather.step(), sample, rest, end) - time.monotonic()))

    def _sample(self, subject: _Process, weather: Weather) -> None:
        report = subject.ask("report")
        requests, failures = self._note(report)
        self._collect(weather)
        sample = Sample(
            at=time.monotonic() - self._began,
            figures=Figures.of(subject.pid),
            sessions=weather.sessions(APPLICATION),
            median=report["median"],
            p99=report["p99"],
            requests=requests,
            failures=failures,
            faults=self._faults,
        )
        self._faults = Counter()
        self.record.samples.append(sample)

    def _rest(self, subject: _Process, weather: Weather) -> None:
        """Let all come to rest, and compare what must be equal then."""
        figures = subject.ask("rest")
        self._note(figures)
        problems = list(figures["problems"])
        stats = figures["stats"]
        closed = sum(number for name, number in stats.items() if name.startswith("closed_"))
        opened = stats["connections_num"] - stats["connections_errors"]
        if opened != stats["pool_size"] + closed:
            problems.append(f"{opened} connections were opened, {stats['pool_size']} are open and {closed} were closed")
        if stats["pool_size"] != figures["lent"]:
            problems.append(f"{stats['pool_size']} connections are open, and {figures['lent']} lent")
        wanted = {APPLICATION: figures["lent"], ANOTHER: 0}
        seen, sessions = self._settled(subject, weather, wanted)
        if sessions != wanted:
            problems.append(f"the server has the sessions {sessions}, and not {wanted}")
        calm = Calm(
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
        self.record.calms.append(calm)
        subject.ask("go")
        print(_line(calm), flush=True)

    def _settled(
        self, subject: _Process, weather: Weather, wanted: dict[str, int]
    ) -> tuple[Figures, dict[str, int | None]]:
        """Read threads, descriptors and sessions once they are as wanted, or as they are when patience ends.

        Threads and sessions end a little later than what has ended them. The first time, when it is not known how many
        are wanted, they get a second.
        """
        now = time.monotonic()
        first = self.record.calms[0].figures if self.record.calms else None
        while True:
            sessions = {name: weather.sessions(name) for name in wanted}
            seen = Figures.exactly_of(subject.pid)
            if first is None:
                is_same = time.monotonic() > now + 1.0
            else:
                is_same = (seen.threads, seen.descriptors) == (first.threads, first.descriptors)
            if (is_same and sessions == wanted) or time.monotonic() > now + verdict.RECOVERY:
                return seen, sessions
            time.sleep(0.05)

    def _note(self, report: dict[str, Any]) -> tuple[int, int]:
        """Keep the report; return how many requests and failures there were since the one before."""
        before = self._seen
        self._seen = (report["requests"], sum(report["failures"].values()) + report["unexplained_number"])
        self.record.last = report
        return self._seen[0] - before[0], self._seen[1] - before[1]

    def _collect(self, weather: Weather) -> None:
        self._faults.update(weather.happened)
        self.record.faults.update(weather.happened)
        weather.happened.clear()

    def _expect_none(self, weather: Weather) -> None:
        deadline = time.monotonic() + verdict.RECOVERY
        while any(weather.sessions(name) for name in (APPLICATION, ANOTHER)):
            if time.monotonic() > deadline:
                self.record.problems.append("the server has sessions after the end of the subject")
                return
            time.sleep(0.05)


@final
class _Process:
    """Speaks with the subject. Raises SubjectError if it does not answer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SubjectError(f"the subject ended with status {self._process.wait(PATIENCE)}") from None

    def ask(self, order: str) -> dict[str, Any]:
        self.tell(order)
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            os.kill(self.pid, signal.SIGUSR1)  # Its stacks, for the reader.
            time.sleep(1.0)
            raise SubjectError(f"the subject hangs at {order!r}; its stacks are on standard error")
        line = self._process.stdout.readline()
        if not line:
            raise SubjectError(f"the subject ended with status {self._process.wait(PATIENCE)} at {order!r}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def leave(self) -> None:
        status = self._process.wait(PATIENCE)
        if status != 0:
            raise SubjectError(f"the subject ended with status {status}")


@contextmanager
def _started(settings: dict[str, Any]) -> Iterator[_Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dev.soak.subject"],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "GLIBC_TUNABLES": TUNABLES},
    )
    try:
        subject = _Process(process)
        subject.ask(json.dumps(settings))
        yield subject
    finally:
        process.kill()
        process.communicate()


def _line(calm: Calm) -> str:
    heap = "" if calm.heap is None else f", {calm.heap / 1024:.0f} KiB of it in use"
    return (
        f"{calm.at:7.0f} s: {calm.requests} requests, {calm.figures.resident / 1024:.1f} MiB{heap}, "
        f"{calm.blocks} blocks, {calm.objects} objects, {calm.figures.threads} threads, "
        f"{calm.figures.descriptors} descriptors, whole after {calm.seconds:.2f} s"
        + "".join(f"\n          {problem}" for problem in calm.problems)
    )
