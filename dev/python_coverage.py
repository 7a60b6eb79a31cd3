"""Measure which lines and branches of the Python package the tests reach, and fail if they are fewer than they were.

`make coverage` runs it. Only `pgpool_rs` is measured, without `pgpool_rs.testing`, in this process and in the programs
that tests start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "proof" / "python-coverage"

# Per cent of lines and branches together. What is missed is printed; this may be raised, and is not to be lowered.
FLOOR = 99

# coverage.py takes a lock in each thread that it measures. A fork that comes upon it leaves it taken in the child, for
# ever; and it cannot follow the greenlets of two libraries. These tests run in `make test`, unmeasured.
LEFT_OUT = [
    "tests/test_fork.py",
    "tests/test_fork_housekeeping.py",
    "tests/test_housekeeping_fork.py",
    "tests/test_greenlets.py",
    # Slow, and reaches no line that the others do not.
    "tests/test_differential.py",
    # They count references and memory, coverage's own among them.
    "tests/test_references.py",
    "tests/test_references_pool.py",
]
# These interrupt at any moment, which may be one in coverage's own code, and then do not end.
LEFT_OUT_ALONE = [
    "tests/test_housekeeping_calls.py::test_a_signal_in_the_midst_of_a_poke_loses_nothing",
    "tests/test_housekeeping_thread.py::test_a_thread_that_an_asynchronous_exception_ends_has_a_successor",
]

SETTINGS = f"""
[run]
branch = true
source_pkgs = pgpool_rs
omit = */pgpool_rs/testing/*
parallel = true
patch = subprocess
data_file = {FOLDER}/data
disable_warnings = no-data-collected, module-not-imported

[report]
show_missing = true
skip_empty = true
exclude_also =
    if TYPE_CHECKING:
    raise NotImplementedError
    @overload
"""


def main() -> int:
    """Run the tests, put together what all processes have measured, and judge it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("data*"):
        old.unlink()
    settings = FOLDER / "settings"
    settings.write_text(SETTINGS)
    coverage = [sys.executable, "-m", "coverage"]
    rcfile = f"--rcfile={settings}"
    # pytest's plugin imports the package before any plugin of coverage's could begin, so coverage runs pytest.
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"--ignore={name}" for name in LEFT_OUT)]
    tests += [f"--deselect={name}" for name in LEFT_OUT_ALONE]
    ran = subprocess.run([*coverage, "run", rcfile, *tests], cwd=ROOT, env=os.environ, check=False)
    subprocess.run([*coverage, "combine", "--quiet", rcfile], cwd=ROOT, check=True)
    judged = subprocess.run([*coverage, "report", rcfile, f"--fail-under={FLOOR}"], cwd=ROOT, check=False)
    return ran.returncode or judged.returncode


if __name__ == "__main__":
    sys.exit(main())
