"""Serve the shop with a multi-threaded web server: `python -m examples.serve "dbname=shop"`."""

from __future__ import annotations

import argparse
import signal
from typing import Any

import psycopg2.pool
import waitress  # type: ignore[import-untyped]

import pgpool_rs
from examples.shop import PATIENCE, Shop, create_tables

CONNECTIONS = 12
"""minconn and maxconn: psycopg2.pool closes returned connections above minconn."""

THREADS = 40
"""Threads of the web server."""


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    arguments = parse()
    create_tables(arguments.dsn)
    pool: Any
    if arguments.pool == "pgpool_rs":
        pool = pgpool_rs.ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, arguments.dsn, timeout=PATIENCE)
    else:
        pool = psycopg2.pool.ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, arguments.dsn)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    server = waitress.create_server(Shop(pool), host="127.0.0.1", port=arguments.port, threads=THREADS)
    print(f"serving on http://127.0.0.1:{server.effective_port}", flush=True)
    server.run()
    pool.closeall()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Serves a small web shop: GET /products/N, POST /orders/N, GET /stats."
    )
    parser.add_argument("dsn", help="the database, in which the shop's tables are created anew")
    parser.add_argument("--pool", choices=["pgpool_rs", "psycopg2.pool"], default="pgpool_rs")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (8080)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
