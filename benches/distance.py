"""A server at a distance: a proxy, in a process of its own so that it takes no GIL from what is measured."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from proxy import Proxy

ROOT = Path(__file__).parent.parent


@contextmanager
def at_distance(dsn: str, one_way: float) -> Iterator[str]:
    """Lead to the server of `dsn` by a way that takes `one_way` seconds, and what the proxy itself takes."""
    command = [sys.executable, "-m", __name__, parse_dsn(dsn)["port"], str(one_way)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        yield make_dsn(dsn, port=child.stdout.readline().strip())
        child.stdin.close()  # Its end is what tells a child to stop.


if __name__ == "__main__":
    with Proxy(int(sys.argv[1]), delay=float(sys.argv[2])) as proxy:
        print(proxy.port, flush=True)
        sys.stdin.read()
