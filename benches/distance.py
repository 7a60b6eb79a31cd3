"""A server at a distance: a proxy, in a process of its own so that it takes no GIL from what is measured."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

PROXY = Path(__file__).parents[1] / "dev" / "servers" / "proxy.py"


@contextmanager
def at_distance(dsn: str, one_way: float) -> Iterator[str]:
    """Lead to the server of `dsn` by a way that takes `one_way` seconds, and what the proxy itself takes."""
    command = [sys.executable, str(PROXY), parse_dsn(dsn)["port"], str(one_way)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        yield make_dsn(dsn, port=child.stdout.readline().strip())
        child.stdin.close()  # Its end is what tells a child to stop.
