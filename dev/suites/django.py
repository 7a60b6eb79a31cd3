"""Run Django's own tests on pgpool_rs.django.

    python -m dev.suites.django [--sample]

Each Django runs on the newest Python that is found for it, and on Debian's PostgreSQL: most groups need ICU and the
extension uuid-ossp, which those from PyPI lack. The sample is short, and runs with the Django of this environment. The
exit status is 1 where a test fails that DIFFERS does not name, or where one that it names passes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from dev import interpreters
from dev.interpreters import ROOT
from dev.sdists import unpacked
from dev.servers.postgres import BINARIES_VARIABLE, DEBIAN_FOLDER, ThrowawayPostgres

SAMPLE = ["backends.postgresql", "transaction_hooks"]
# What needs no ICU.
ANYWHERE = ["backends", "basic", "transactions", "transaction_hooks"]
GROUPS = [
    *ANYWHERE,
    *("queries", "postgres_tests", "select_for_update", "get_or_create", "handlers", "servers", "test_utils"),
    *("migrations", "async", "db_utils", "timezones", "schema", "introspection", "inspectdb", "bulk_create", "lookup"),
    *("aggregation", "delete", "cache", "sessions_tests", "asgi"),
]
# Each Django, and the Pythons it is for.
DJANGOS = {"5.2.19": range(10, 15), "6.1.3": range(12, 15)}

_TESTS = "backends.postgresql.tests.Tests."
_PRIVATE = "reads psycopg_pool's private attribute _check"
DIFFERS = {
    f"{_TESTS}test_connect_pool_setting_ignored_for_psycopg2": "asserts that psycopg2 has no pool",
    f"{_TESTS}test_pooling_health_checks": _PRIVATE,
    f"{_TESTS}test_pool_check_can_be_overridden": _PRIVATE,
}
"""The tests that fail, with the reasons."""
ONLY_IN_6 = {f"{_TESTS}test_pool_check_can_be_overridden"}
# Django itself skips ConnectionHealthChecksTests.test_health_checks_enabled and
# test_set_autocommit_health_checks_enabled where OPTIONS has a pool: "Pool does implicit health checks".


def run(django: str, python: str, labels: list[str], workers: int) -> bool:
    """Run these groups; tell whether each test does what is expected of it."""
    print(f"Django {django} on {python}: {' '.join(labels)}", flush=True)
    tests = unpacked(f"Django=={django}") / "tests"
    # The server goes with its databases. To drop them before would wait for the session that a test of DIFFERS keeps.
    options = ["--settings=dev.suites.django_settings", "--noinput", "--keepdb", f"--parallel={workers}"]
    with ThrowawayPostgres() as server:
        done = subprocess.run(
            [python, "runtests.py", *options, *labels],
            cwd=tests,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PGPOOL_SUITE_PORT": str(server.port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    found = re.findall(r"^(?:FAIL|ERROR|UNEXPECTED SUCCESS): (\S+) \((\S+)\)", done.stdout, re.MULTILINE)
    failed = {f"{where.removesuffix('.' + test)}.{test}" for test, where in found}  # Python 3.10 names the class alone.
    expected = {test for test in DIFFERS if django.startswith("6.") or test not in ONLY_IN_6}
    if "\nRan " in done.stdout and failed == expected:
        print(*re.findall(r"^(?:Ran|FAILED|OK).*", done.stdout, re.MULTILINE), sep="\n")
        return True
    print(done.stdout)
    print(*(f"differs, and is not named: {test}" for test in sorted(failed - expected)), sep="\n")
    print(*(f"is named, and does not differ: {test}" for test in sorted(expected - failed)), sep="\n")
    return False


def environment(django: str) -> str | None:
    """Make a venv with this Django, and with pgpool_rs; return its Python."""
    if version("Django") == django:
        return sys.executable
    fit = [one for one in interpreters.find() if one.sort_key[0] in DJANGOS[django] and not one.sort_key[1]]
    if not fit:
        return None
    folder = ROOT / "target" / "suites" / f"django-{django}"
    python = str(folder / "bin" / "python")
    subprocess.run([fit[-1].path, "-m", "venv", "--clear", folder], check=True)
    built = ["--release", "--quiet", "--interpreter", python, "--target-dir", str(folder.parent / "cargo")]
    subprocess.run([sys.executable, "-m", "maturin", "build", *built, "--out", str(folder)], cwd=ROOT, check=True)
    pins = re.findall(r"^(?:psycopg2-binary|tblib)==.*", requirements(), re.MULTILINE)
    install = [python, "-m", "pip", "install", "--quiet", f"Django=={django}", *pins, *map(str, folder.glob("*.whl"))]
    subprocess.run(install, check=True)
    return python


def requirements() -> str:
    """Read what is pinned."""
    return "\n".join(Path(ROOT, f"requirements-{name}.txt").read_text() for name in ("dev", "frameworks"))


def main(arguments: list[str]) -> int:
    """Run the sample, or all."""
    if arguments == ["--sample"]:
        return 0 if run(version("Django"), sys.executable, SAMPLE, workers=1) else 1
    passed = True
    groups = GROUPS if BINARIES_VARIABLE in os.environ else ANYWHERE
    if groups == ANYWHERE and DEBIAN_FOLDER.is_dir():
        places = DEBIAN_FOLDER.glob("[1-9][0-9]/bin")
        os.environ[BINARIES_VARIABLE] = str(max(places, key=lambda place: int(place.parent.name)))
        groups = GROUPS
    if groups == ANYWHERE:
        few = f"{len(groups)} groups only"
        print(f"{few}: there is no PostgreSQL of Debian's; {BINARIES_VARIABLE} may name another one with ICU")
    for django in DJANGOS:
        python = environment(django)
        if python is None:
            print(f"Django {django}: there is no Python for it")
        else:
            passed &= run(django, python, groups, workers=2)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
