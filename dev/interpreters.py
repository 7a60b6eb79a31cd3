"""The Python interpreters that the project names, and those that are on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# A name as in a wheel's tag: "3.12", "3.14t" without the GIL, "3.11d" with assertions.
_ASK = """
import ensurepip, platform, sys, sysconfig, venv
flags = "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")) + "d" * bool(sysconfig.get_config_var("Py_DEBUG"))
print("{}.{}".format(*sys.version_info) + flags, platform.python_implementation(), platform.python_version())
"""


class Interpreter(NamedTuple):
    """An interpreter that can make a venv."""

    name: str
    version: str
    path: str

    @property
    def sort_key(self) -> tuple[int, str]:
        """Sort 3.9 before 3.10, and 3.11 before 3.11d."""
        minor, flags = re.findall(r"3\.(\d+)(\w*)", self.name)[0]
        return int(minor), flags


def claimed() -> list[str]:
    """List the versions that the package's classifiers name."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())


def find() -> list[Interpreter]:
    """Find one CPython of each kind from 3.10 on: those that PYTHONS names, or else those on PATH and pyenv's."""
    named = os.environ.get("PYTHONS", "").split()
    found: dict[str, Interpreter] = {}
    for candidate in named or _candidates():
        path = shutil.which(candidate)
        interpreter = path and _ask(path)
        if interpreter and interpreter.sort_key >= (10, ""):
            found.setdefault(interpreter.name, interpreter)
        elif named:
            raise SystemExit(f"PYTHONS names {candidate}, which is no CPython from 3.10 on that has venv and ensurepip")
    return sorted(found.values(), key=lambda interpreter: interpreter.sort_key)


def _candidates() -> list[str]:
    minors = range(10, 20)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    installed = sorted((str(path) for path in pyenv.glob("3.*/bin/python3")), reverse=True)
    # pyenv's own folders come first: of its names on PATH only those work that are switched on.
    return [*installed, "python3", *(f"python3.{minor}{flags}" for minor in minors for flags in ("", "t", "-dbg"))]


def _ask(path: str) -> Interpreter | None:
    done = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    name, implementation, version = done.stdout.split()
    return Interpreter(name, version, path) if implementation == "CPython" else None
