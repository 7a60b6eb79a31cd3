from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pgpool_rs._command import main
from pgpool_rs._command.top import Row, Seen, View, percentile, rows, screen
from pgpool_rs.testing import PATIENCE
from tests.lib.programs import ROOT
from tests.lib.publishers import SHOP, publisher, wait_for, wait_for_loans
from tests.lib.waits import wait_until

PAGE = (ROOT / "docs" / "command.md").read_text()
HEADER = "     pid pool               lent idle waiting   p50   p99 oldest connects errors"
# Callers wait for the one connection, of which each has it for 20 ms.
BUSY = """
import threading, time
crowd = ThreadedConnectionPool(0, 1, name="crowd", timeout=60, max_idle=None)
def borrow():
    while True:
        with crowd.connection():
            time.sleep(0.02)
for _ in range(3):
    threading.Thread(target=borrow, daemon=True).start()
sys.stdin.read()
"""


def row(pid: int = 1, pool: str = "web", **figures: Any) -> Row:
    usual = {"process": str(pid), "age": 0.0, "lent": 0, "idle": 0, "waiting": 0, "waits": 0, "p50": None, "p99": None}
    return Row(pid, pool=pool, **{**usual, "oldest": 0.0, "stack": [], "connects": 0, "errors": 0, **figures})


def test_once_all_pools_are_printed_with_what_borrowed_the_oldest_loan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with publisher(tmp_path) as process:
        wait_for_loans(tmp_path, 1)
        # No terminal looks on.
        assert main(["top", "--folder", str(tmp_path), "--sort", "pool"]) == 0
    summary, header, jobs, web, oldest, *stack = capsys.readouterr().out.splitlines()
    assert summary == "processes 1, pools 2, lent 1, idle 0, waiting 0; p50, p99 since the start"
    assert header == HEADER
    assert header in PAGE
    assert len(header) == 80
    assert jobs.split() == [str(process.pid), "jobs", "0", "0", "0", "-", "-", "-", "0", "0"]
    assert web.split()[:7] == [str(process.pid), "web", "1", "0", "0", "5ms", "5ms"]
    assert web.split()[-2:] == ["1", "0"]
    assert oldest.endswith(f", pid {process.pid}, pool web")
    assert stack[-1].endswith(" in handle_order")


def test_json_has_the_figures_of_each_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with publisher(tmp_path) as process:
        wait_for_loans(tmp_path, 1)
        assert main(["top", "--folder", str(tmp_path), "--json", "--filter", "job"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["folder"] == str(tmp_path)
    (jobs,) = answer["pools"]
    assert (jobs["pid"], jobs["pool"], jobs["lent"], jobs["p99"], jobs["stack"]) == (process.pid, "jobs", 0, None, [])


def test_where_nothing_is_published_it_says_how_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        f"No process publishes such a pool in {tmp_path}: set PGPOOL_RS_PUBLISH=1 for those that shall.\n"
    )


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--folder", str(tmp_path / "none")]) == 1
    assert "pgpool_rs: there is no folder" in capsys.readouterr().err


def test_percentiles_are_bounds_of_buckets() -> None:
    buckets = {0.005: 50, 0.01: 98, 0.5: 99, math.inf: 100}
    assert [percentile(buckets, share) for share in (0.5, 0.51, 0.99, 1)] == [0.005, 0.01, 0.5, math.inf]
    assert percentile(dict.fromkeys(buckets, 0), 0.5) is None


def test_waits_are_those_since_the_process_published_before(tmp_path: Path) -> None:
    with publisher(tmp_path, SHOP.replace("sys.stdin.read()", BUSY)):
        wait_for(tmp_path, lambda seen: bool(seen) and len(seen[0].pools) == 3, "all pools")
        seen: Any = {}

        def crowd() -> tuple[Row, float, int]:
            """Give its row, when it was published, and how many waits there were in all."""
            nonlocal seen
            found, seen = rows(tmp_path, seen)
            row = next(row for row in found if row.pool == "crowd")
            at, waits, _ = seen[row.process, 2]
            return row, at, max(waits.values())

        _, first, before = crowd()
        moments = [crowd()]

        def is_new() -> bool:
            moments.append(crowd())
            return moments[-1][1] != first

        wait_until(is_new, "news")
        *earlier, (now, _, total) = moments
        assert {row.waits for row, _, _ in earlier} == {before}
        assert now.waits == total - before > 0
        assert now.p99 is not None
        assert now.p99 >= 0.025
        assert (now.lent, now.waiting) == (1, 2)


def test_counts_that_were_set_to_0_count_from_0(tmp_path: Path) -> None:
    with publisher(tmp_path):
        wait_for_loans(tmp_path, 1)
        found, seen = rows(tmp_path, {})
        reset: Seen = {key: (0.0, dict.fromkeys(waits, 10**6), {}) for key, (_, waits, _) in seen.items()}
        assert [row.waits for row in rows(tmp_path, reset)[0]] == [row.waits for row in found]


def test_keys_choose_the_order_and_the_filter() -> None:
    among = [row(1, "web", lent=2), row(2, "jobs", lent=3), row(3, "web", p99=math.inf), row(12, "mail", p99=0.1)]
    view = View("lent", "")

    def pids(keys: str = "") -> list[int]:
        assert all(view.press(ord(key)) for key in keys)
        return [row.pid for row in view.chosen(among)]

    assert pids() == [2, 1, 3, 12]
    assert pids("r") == [3, 12, 1, 2]
    assert pids("r") == [2, 1, 3, 12]
    view.sort = "p99"
    assert pids() == [3, 12, 1, 2]
    view.sort = "errors"
    # The first one follows the last one.
    assert pids("s") == [1, 2, 3, 12]
    assert pids("s") == [2, 12, 1, 3]
    assert pids("r") == [1, 3, 12, 2]
    assert pids("rs/web") == [2, 1, 3, 12]
    assert screen(among, view, "", 24, 80)[-1] == "filter: web_"
    assert pids("\n") == [1, 3]
    assert screen(among, view, "", 24, 80)[-1].endswith("  by lent, with web")
    # Of what is typed, q is a letter; Escape leaves the filter as it was.
    assert pids("/q") == [1, 3]
    assert pids("\x7f\x7f\x1b") == [1, 3]
    assert pids("/2\n") == [2]
    assert view.press(-1)
    assert not view.press(ord("q"))


def test_a_screen_has_80_columns_and_as_many_lines_as_the_terminal() -> None:
    stack = [f"/{'long' * 30}.py:{number} in calls_{number}" for number in range(20)]
    figures = {"lent": 9999, "idle": 9999, "waiting": 9_999_999, "connects": 123_456_789, "errors": 9_999_999}
    among = [
        row(4194304, "a pool with a name that is far too long", age=60.0, p50=0.25, p99=math.inf, oldest=90.0,
            stack=stack, **figures),
        *(row(pid, p50=2.5, oldest=7200.0) for pid in range(40)),
    ]  # fmt: skip
    lines = screen(among, View("lent", ""), "since the start", 24, 80)
    assert len(lines) == 24
    assert max(map(len, lines)) == 80
    assert lines[1] == HEADER
    # It has not been heard of for a minute.
    assert lines[2] == "4194304! a pool with a name 9999 9999     10M 250ms  >10s     2m     123M    10M"
    assert lines[3] == "       0 web                   0    0       0  2.5s     -     2h        0      0"
    assert lines[-9] == "oldest loan: 2m, pid 4194304, pool a pool with a name that is far too long"
    assert lines[-2].startswith("  ...")
    assert lines[-2].endswith("long.py:19 in calls_19")
    assert len(screen(among, View("lent", ""), "", 100, 200)[2]) == 200
    # Any terminal will do.
    assert [len(screen(among, View("lent", ""), "", height, 10)) for height in (1, 2, 5)] == [1, 2, 5]


class Terminal:
    """A terminal of 80 columns on which `top` runs."""

    def __init__(self, folder: Path) -> None:
        self.file, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-W", "error", "-m", "pgpool_rs", "top", "--folder", str(folder)]
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            cwd=ROOT,
            # A shell lets what it starts in the background ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        os.close(other)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Read until this text is drawn, from the last one on."""
        while text not in self.shown:
            assert select.select([self.file], [], [], PATIENCE)[0], f"no {text} in {self.shown!r}"
            self.shown += os.read(self.file, 4096).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def type(self, keys: str) -> None:
        """Type these keys."""
        os.write(self.file, keys.encode())

    def end(self) -> int:
        """Read what it still draws, without which it does not end, and return its exit status."""
        with suppress(OSError):  # nobody has the terminal open any more
            while select.select([self.file], [], [], PATIENCE)[0] and os.read(self.file, 4096):
                pass
        os.close(self.file)
        return self.process.wait(PATIENCE)


def test_on_a_terminal_it_goes_on_until_q(tmp_path: Path) -> None:
    with publisher(tmp_path):
        wait_for_loans(tmp_path, 1)
        terminal = Terminal(tmp_path)
        terminal.wait_for("pools 2")
        terminal.wait_for("by waiting")
        terminal.type("s")
        terminal.wait_for("p50")
        with publisher(tmp_path, SHOP.replace('"jobs"', '"more jobs"')):
            terminal.wait_for("more jobs")
        terminal.type("/more")
        terminal.wait_for("filter: ")
        terminal.type("\nq")
        assert terminal.end() == 0


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.wait_for("processes 0")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130


def test_it_ends_with_its_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.wait_for("processes 0")
    os.close(terminal.file)
    terminal.process.wait(PATIENCE)


def test_without_curses_it_prints_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "curses", None)
    assert main(["top", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("No process publishes")
