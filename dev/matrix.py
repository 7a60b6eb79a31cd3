"""Build and test on every Python that is found, each in a folder of its own, and print one table at the end.

    python -m dev.matrix [ARGUMENTS OF PYTEST]

Each Python gets a venv, a wheel and a log in target/matrix/VERSION; the tests run on the installed wheel. PYTHONS names
the interpreters to take, instead of those that are found. Needs nothing but Python's own library.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import NamedTuple

from dev import interpreters
from dev.interpreters import ROOT, Interpreter

REQUIREMENTS = [ROOT / f"requirements-{name}.txt" for name in ("dev", "frameworks")]
BESIDE_EACH_OTHER = ["--numprocesses", "auto", "--dist", "worksteal"]


class Row(NamedTuple):
    """What came of one interpreter."""

    name: str
    version: str
    result: str
    minutes: str


class Try:
    """One interpreter, in its own folder."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.folder = ROOT / "target" / "matrix" / interpreter.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "log"
        self.log.write_bytes(b"")
        self.python = str(self.folder / "venv" / "bin" / "python")
        self.passed = False

    def run(self, arguments: list[str]) -> Row:
        """Build, install and test."""
        begun = time.monotonic()
        result = self._result(arguments)
        minutes = f"{(time.monotonic() - begun) / 60:.1f}"
        return Row(self.interpreter.name, self.interpreter.version, result, minutes)

    def _result(self, arguments: list[str]) -> str:
        wheels = self.folder / "wheel"
        built = ["--interpreter", self.python, "--target-dir", str(self.folder / "cargo"), "--out", str(wheels)]
        for old in wheels.glob("*.whl"):
            old.unlink()
        if not self._install():
            return f"cannot install the requirements: {self.log}"
        if not self._do(self.python, "-m", "maturin", "build", "--release", *built):
            return f"cannot build: {self.log}"
        if not self._pip("--force-reinstall", "--no-deps", *map(str, wheels.glob("*.whl"))):
            return f"cannot install the wheel: {self.log}"
        self.passed = self._do(self.python, "-m", "pytest", "-p", "no:cacheprovider", *BESIDE_EACH_OTHER, *arguments)
        counts = re.findall(r"^(?:=+ )?(\d+ \w+.*) in [\d.]+s\b", self._text(), re.MULTILINE)
        return str(counts[-1]) if counts else f"the tests broke off: {self.log}"

    def _install(self) -> bool:
        """Put the developer's packages into a venv, unless they are there."""
        stamp = self.folder / "venv" / "installed"
        texts = [path.read_text() for path in REQUIREMENTS]
        wanted = "\n".join([f"{self.interpreter.path} {self.interpreter.version}", *texts])
        if stamp.exists() and stamp.read_text() == wanted:
            return True
        made = self._do(self.interpreter.path, "-m", "venv", "--clear", str(self.folder / "venv"))
        if not made or not self._pip(*(word for path in REQUIREMENTS for word in ("--requirement", str(path)))):
            return False
        stamp.write_text(wanted)
        return True

    def _pip(self, *arguments: str) -> bool:
        return self._do(self.python, "-m", "pip", "install", "--quiet", *arguments)

    def _do(self, *command: str) -> bool:
        """Run a command, with its output in the log."""
        own = {"VIRTUAL_ENV": str(self.folder / "venv"), "PYO3_PYTHON": self.python}
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONHOME"} | own
        with self.log.open("ab") as log:
            log.write(f"+ {' '.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False)
        return done.returncode == 0

    def _text(self) -> str:
        return self.log.read_text(errors="replace")

    def failures(self) -> list[str]:
        """List the tests that failed, as pytest's summary has them."""
        return re.findall(r"^(?:FAILED|ERROR) .*$", self._text(), re.MULTILINE)


def table(rows: list[Row]) -> str:
    """Lay the rows out."""
    lines = [Row("", "version", "tests", "minutes"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(Row._fields))]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in cells)


def main(arguments: list[str]) -> int:
    """Try each interpreter; return 0 if every test passed on every one."""
    tries = [Try(interpreter) for interpreter in interpreters.find()]
    rows = []
    for attempt in tries:
        print(f"{attempt.interpreter.name}: {attempt.interpreter.path}", flush=True)
        rows.append(attempt.run(arguments))
        for failure in attempt.failures():
            print(f"  {failure}", flush=True)
    lacking = sorted(set(interpreters.claimed()) - {row.name for row in rows}, key=lambda name: int(name[2:]))
    print(f"\n{table(rows)}" if rows else "no interpreter was found")
    if lacking:
        print(f"claimed, and not tried here: {', '.join(lacking)}")
    return 0 if tries and all(attempt.passed for attempt in tries) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
