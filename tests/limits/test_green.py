from __future__ import annotations

from pathlib import Path

import pytest

from tests.lib.programs import run_program

PROGRAM = """
from tests.lib.green import patch
loop = patch({library!r}, psycogreen=False)
from pgpool_rs import HostLimit
from tests.lib.limited import LimitedPool
from pathlib import Path

folder = Path({folder!r})
pool = LimitedPool(HostLimit("shop", 4, folder=folder))
turns = 0

def turn():
    global turns
    while True:
        turns += 1
        loop.sleep(0.001)

loop.spawn(turn)
pool.lend(4)
pool.want(1)
loop.sleep(0.3)
assert turns > 20, "the watcher keeps greenlets from running"
pool.close()
loop.until(lambda: pool.waiting == 0, "the waiter's place")
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_the_watcher_lets_greenlets_run(library: str, tmp_path: Path) -> None:
    run_program(PROGRAM.format(library=library, folder=str(tmp_path)))
