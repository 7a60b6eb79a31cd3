"""The gate: how many instructions each way to borrow takes, counted by callgrind in one run.

    python -m benches.instructions            print the table
    python -m benches.instructions --record   write the ratios that `make test` compares with

A count does not drift, not even on a busy machine.
"""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Mapping, Sequence
from pathlib import Path

from benches.ways import BOUND, ROOT, WAYS
from dev.servers import debian
from dev.servers.postgres import ThrowawayPostgres

RECORD = Path(__file__).with_name("ratios.json")
TOLERANCE = 1.02
TIMES, WARM_UP = 1_000, 200
LAYOUTS = 3
UNPACKED = ROOT / "target" / "valgrind"
# The interpreter's own share of a way differs from one minor version to the next.
PYTHON = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"

Counts = Mapping[str, float]


class NotCountedError(Exception):
    """Says why nothing can be counted or compared here."""


def count(dsn: str, layout: int = 0) -> dict[str, float]:
    """Return the instructions that each way takes; raises NotCountedError where there is no valgrind.

    With another layout, all objects have other addresses. Two names in one place of CPython's cache of methods make a
    way that looks up both some per cent longer.
    """
    program, environment = valgrind()
    code = f"kept = [bytes(n % 400) for n in range({1_000 * layout})]; from benches import instructions as ours"
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile"
        # The child asks for its parent's id at the begin and at the end of each way, and nobody else does.
        options = ["--quiet", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={profile}"]
        # The order of a set, and with it the path through the interpreter, must not change from run to run.
        environment |= {"PYTHONHASHSEED": "0"}
        command = [program, *options, sys.executable, "-c", f"{code}; ours.execute({dsn!r})"]
        subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True)
        dumps = sorted(profile.parent.glob("profile.*"), key=lambda dump: int(dump.suffix[1:]))
        totals = [int(re.findall(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)[0]) for dump in dumps]
    empty, *each = [total / TIMES for total in totals[1::2]]
    return {way.name: number - empty for way, number in zip(WAYS, each, strict=True)}


def least(dsn: str, record: Mapping[str, float]) -> dict[str, float]:
    """Count, and again in other layouts while a way is worse than recorded; return the least of each way."""
    counts = count(dsn)
    for layout in range(1, LAYOUTS):
        if not worse(counts, record):
            break
        again = count(dsn, layout)
        counts = {name: min(number, again[name]) for name, number in counts.items()}
    return counts


def valgrind() -> tuple[str, dict[str, str]]:
    """Return valgrind and the environment that it needs; unpack Debian's into target/ where the machine has none."""
    installed = shutil.which("valgrind")
    if installed:
        return installed, {}
    try:
        debian.unpack(["valgrind"], UNPACKED)
    except debian.UnavailableError as error:
        raise NotCountedError(f"there is no valgrind: {error}") from error
    return str(UNPACKED / "usr/bin/valgrind"), {"VALGRIND_LIB": str(UNPACKED / "usr/libexec/valgrind")}


def execute(dsn: str) -> None:
    """Go all ways, after an empty one, in the process that callgrind watches."""
    repeats = [timeit.Timer("pass").timeit, *(way.repeat(dsn) for way in WAYS)]
    gc.disable()  # A collection would count for the way in whose midst it falls.
    for repeat in repeats:
        repeat(WARM_UP)
        os.getppid()
        repeat(TIMES)
        os.getppid()
    os._exit(0)  # What Python does at its end takes seconds under valgrind.


def ratios(counts: Counts) -> dict[str, float]:
    """Return the instructions of each of our ways, divided by those of the lower bound."""
    return {way.name: round(counts[way.name] / counts[BOUND], 3) for way in WAYS if way.basis is not None}


def recorded() -> dict[str, float]:
    """Read the recorded ratios; raises NotCountedError if they are of another interpreter."""
    record = json.loads(RECORD.read_text())
    if record["python"] != PYTHON:
        raise NotCountedError(f"the ratios are recorded for {record['python']}, and this is {PYTHON}")
    found: dict[str, float] = record["ratios"]
    return found


def worse(counts: Counts, record: Mapping[str, float]) -> list[str]:
    """Say which ways take more instructions than is recorded, or are not recorded."""
    now = ratios(counts)
    return [
        f"{name}: {ratio:.3f} times the lower bound, and {RECORD.name} has {record.get(name)}"
        for name, ratio in now.items()
        if ratio > TOLERANCE * record.get(name, 0.0)
    ]


def table(counts: Counts, times: Mapping[str, float]) -> list[Sequence[str]]:
    """Return the headings and a row for each way, beside the lower bound and what is asked of it.

    Without counts, or without times (in nanoseconds), it has dashes.
    """
    rows: list[Sequence[str]] = [("way to borrow", "ns", "instructions", "of the bound", "asked", "met")]
    for way in WAYS:
        cells = [way.name, f"{times[way.name]:,.0f}" if times else "-", "-", "-", "-", "-"]
        if counts:
            number = counts[way.name]
            cells[2:4] = f"{number:,.0f}", f"{number / counts[BOUND]:.2f}"
            if way.basis is not None:
                of_basis = number / counts[way.basis]
                cells[4] = f"{way.limit:g} of {way.basis}: {way.limit * counts[way.basis]:,.0f}"
                cells[5] = "yes" if of_basis <= way.limit else f"no: {of_basis:.2f}"
        rows.append(cells)
    return rows


def main() -> None:
    """Count, print the table, and record the ratios if that is asked."""
    with ThrowawayPostgres() as server:
        counts = least(server.dsn, {})
    lines = [(way, *cells) for way, _, *cells in table(counts, {})]  # Without times.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines))
    if "--record" in sys.argv[1:]:
        RECORD.write_text(json.dumps({"python": PYTHON, "ratios": ratios(counts)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
