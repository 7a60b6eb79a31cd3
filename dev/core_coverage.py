"""Measure which lines and branches of the core its tests reach, and fail if they miss one that can be reached.

`make coverage` runs it. cargo-llvm-cov measures, with LLVM's own counters. The tests themselves are not measured, and
what cannot be reached is listed below, each with its reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev import rust_tools
from dev.servers import debian

SOURCES = rust_tools.ROOT / "rust" / "core" / "src"
CARGO_LLVM_COV = "0.9.1"

# What the types do not know to be impossible, and the ledger does: the file, the function, and the line, or the
# condition with the outcome that never comes. What comes after all, or is gone, is an error too: so this stays true.
UNREACHED = {
    ("key.rs", "to_loan_key", "Key::None => None,"): "only loans are asked for their key, and a loan has one",
    ("ledger/search.rs", "keyed", "Key::Automatic(_) | Key::None => None,"): "only users' keys are filed by their hash",
    ("ledger/give_back.rs", "begin_return", "return Err(Refusal::Unkeyed.into());"): "what is lent is a connection",
    ("ledger/give_back.rs", "begin_return", "Some(connection) is false"): "what is lent is a connection",
    ("ledger/chores.rs", "next_errand", "}"): "a slot whose return was left has a connection",
    ("ledger/chores.rs", "next_errand", "Some(connection) is false"): "a slot whose return was left has a connection",
    ("ledger/chores.rs", "next_errand", "Some(index) is false"): "only who takes it from the list moves such a slot on",
    (
        "ledger/mod.rs",
        "serve",
        "!self.closed is false",
    ): "nobody waits in a closed pool: all are sent away, none may join",
}

Place = tuple[str, int, int, int, int]


@dataclass
class Found:
    """How often each line was executed and each outcome of each condition came, in all instances of what is generic."""

    lines: Counter[tuple[str, int]] = field(default_factory=Counter)
    branches: Counter[tuple[Place, bool]] = field(default_factory=Counter)

    def read_lines(self, lcov: str) -> None:
        """Read a report in lcov's format."""
        name = ""
        for line in lcov.splitlines():
            kind, _, value = line.partition(":")
            if kind == "SF":
                name = str(Path(value).relative_to(SOURCES))
            elif kind == "DA":
                number, count = value.split(",")[:2]
                self.lines[name, int(number)] += int(count)

    def read_branches(self, report: dict[str, Any]) -> None:
        """Read a report as llvm-cov exports it in JSON, where each instance of a generic function stands by itself."""
        for function in report["functions"]:
            names = [Path(name) for name in function["filenames"]]
            for line, column, last, end, true, false, at, *_kinds in function.get("branches", ()):
                if names[at].is_relative_to(SOURCES) and not names[at].is_relative_to(SOURCES / "tests"):
                    place: Place = (str(names[at].relative_to(SOURCES)), line, column, last, end)
                    self.branches[place, True] += true
                    self.branches[place, False] += false

    def missed(self) -> Iterator[tuple[tuple[str, str, str], int]]:
        """Name what was not reached, as `UNREACHED` does, each with its line."""
        texts = {name: (SOURCES / name).read_text().splitlines() for name, _ in self.lines}
        for (name, number), count in sorted(self.lines.items()):
            if not count:
                yield (name, function_at(texts[name], number), texts[name][number - 1].strip()), number
        for ((name, line, column, last, end), outcome), count in sorted(self.branches.items()):
            if not count:
                until = end - 1 if last == line else None
                condition = f"{texts[name][line - 1][column - 1 : until]} is {str(outcome).lower()}"
                yield (name, function_at(texts[name], line), condition), line


def function_at(text: list[str], number: int) -> str:
    """Name the function that a line belongs to."""
    heads = (re.search(r"\bfn (\w+)", line) for line in reversed(text[:number]))
    return next((head[1] for head in heads if head), "")


def measure(environment: dict[str, str]) -> Found:
    """Run the core's tests under cargo-llvm-cov, and read what it found."""

    def cargo(*arguments: str) -> str:
        command = ["cargo", "llvm-cov", *arguments]
        if arguments[0] == "test":
            subprocess.run(command, cwd=rust_tools.ROOT, env=environment, check=True)
            return ""
        done = subprocess.run(
            command,
            cwd=rust_tools.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)}:\n{done.stderr}")
        return done.stdout

    cargo("clean", "--profraw-only")
    cargo("test", "--package", "pgpool-core", "--locked", "--branch", "--no-report")
    report = ("report", "--package", "pgpool-core", "--branch", "--ignore-filename-regex", "core/src/tests/")
    found = Found()
    found.read_lines(cargo(*report, "--lcov"))
    found.read_branches(json.loads(cargo(*report, "--json"))["data"][0])
    return found


def table(found: Found) -> Iterator[str]:
    """Say for each file, and for all, how much was reached."""
    rows: dict[str, list[int]] = {}
    for (name, _), count in found.lines.items():
        for row in (rows.setdefault(name, [0] * 4), rows.setdefault("total", [0] * 4)):
            row[0] += bool(count)
            row[1] += 1
    for ((name, *_), _), count in found.branches.items():
        for row in (rows.setdefault(name, [0] * 4), rows["total"]):
            row[2] += bool(count)
            row[3] += 1
    yield f"{'rust/core/src':24}{'lines':>16}{'branches':>16}"
    total = rows.pop("total")
    for name, (lines, all_lines, branches, all_branches) in [*sorted(rows.items()), ("total", total)]:
        yield f"{name:24}{f'{lines} of {all_lines}':>16}{f'{branches} of {all_branches}' if all_branches else '-':>16}"


def main() -> int:
    """Measure, print, and judge."""
    tools = rust_tools.cargo_tool("cargo-llvm-cov", CARGO_LLVM_COV)
    # Branches are measured on request only, and the request is for those who do without promises.
    environment = os.environ | rust_tools.llvm_tools() | {"RUSTC_BOOTSTRAP": "1"}
    environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
    found = measure(environment)
    missed = dict(found.missed())
    print("\n".join(table(found)))
    for what, reason in UNREACHED.items():
        print(f"not reachable: {': '.join(what)} - {reason}")
    wrong = [
        f"{name}:{line}: not reached: {text}"
        for (name, place, text), line in missed.items()
        if (name, place, text) not in UNREACHED
    ]
    wrong += [
        f"{': '.join(what)}: is said not to be reachable, and was reached or is gone"
        for what in UNREACHED.keys() - missed
    ]
    print("\n".join(wrong) or "Everything else was reached: 100 % of the reachable lines and branches.")
    return bool(wrong)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except debian.UnavailableError as error:
        sys.exit(f"coverage of the core cannot be measured: {error}")
