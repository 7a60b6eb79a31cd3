"""Serve the shop with a real multi-threaded web server, in a process of its own.

Run as: serve.py POOL DSN, with a POOL of scenario.POOLS. Prints the port that it serves on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import waitress  # type: ignore[import-untyped]

from children import when_told_to_stop
from scenario import CONNECTIONS, PATIENCE, THREADS
from shop import Shop

if TYPE_CHECKING:
    import psycopg2.pool


def make_pool(module: str, dsn: str) -> psycopg2.pool.ThreadedConnectionPool:
    """Make the pool: here, and nowhere else, the two servers differ."""
    if module == "pgpool_rs":
        from pgpool_rs import ThreadedConnectionPool

        return ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, dsn, timeout=PATIENCE)
    from psycopg2.pool import ThreadedConnectionPool as Psycopg2Pool

    return Psycopg2Pool(CONNECTIONS, CONNECTIONS, dsn)


def main(module: str, dsn: str) -> None:
    """Serve until told to stop."""
    pool = make_pool(module, dsn)
    server = waitress.create_server(Shop(pool), host="127.0.0.1", port=0, threads=THREADS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # It is ignored where the parent was started by `&`.
    when_told_to_stop(lambda: os.kill(os.getpid(), signal.SIGINT))
    print(server.effective_port, flush=True)
    server.run()
    pool.closeall()


if __name__ == "__main__":
    main(*sys.argv[1:])
