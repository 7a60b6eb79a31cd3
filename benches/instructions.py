"""The pair in instructions, counted by callgrind: slow to take, but the same each time, on a busy machine too."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benches.contenders import CLASSES, LOWER_BOUND
from benches.harness import Row
from benches.pair import compare, contenders, timing

FEW, MANY = 2_000, 12_000


def measure(dsn: str) -> list[Row]:
    """Compare the instructions that a pair takes; needs valgrind."""
    names = (*CLASSES, LOWER_BOUND)
    # Everything but the pairs is the same in both runs, and cancels out in the difference.
    cost = {name: [(count(dsn, name, MANY) - count(dsn, name, FEW)) / (MANY - FEW)] for name in names}
    return compare("instructions of the pair", "Ir", cost)


def count(dsn: str, name: str, pairs: int) -> int:
    """Return how many instructions a process executes that takes `pairs` from the pool called `name`."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile"
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={profile}"]
        child = [sys.executable, "-m", __name__, dsn, name, str(pairs)]
        root = Path(__file__).parent.parent
        # The order of a set, and with it the path through the interpreter, must not change from run to run.
        subprocess.run(valgrind + child, cwd=root, env=os.environ | {"PYTHONHASHSEED": "0"}, check=True)
        totals = re.search(r"^totals: (\d+)", profile.read_text(), re.MULTILINE)
    if totals is None:
        raise RuntimeError("callgrind wrote no totals")
    return int(totals[1])


if __name__ == "__main__":
    timing(contenders(sys.argv[1])[sys.argv[2]], int(sys.argv[3]))()
