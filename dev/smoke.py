"""Use an installed pgpool_rs a little, on a real server: `python smoke.py DSN`, outside of the project's folder."""

import sys
from importlib.metadata import version

import psycopg2

import pgpool_rs
from pgpool_rs import PoolTimeout, ThreadedConnectionPool


def main(dsn: str) -> None:
    """Wait, time out, commit, give back; print what was used."""
    pool = ThreadedConnectionPool(1, 2, dsn, timeout=0.01, max_idle=60)
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE smoke AS SELECT 42 AS answer")
    first, second = pool.getconn(), pool.getconn()
    try:
        pool.getconn()
    except PoolTimeout:
        pass
    else:
        raise AssertionError("a third connection was lent")
    with first.cursor() as cursor:
        cursor.execute("SELECT answer FROM smoke")
        if cursor.fetchone() != (42,):
            raise AssertionError("the block was not committed")
    pool.putconn(first)
    pool.putconn(second)
    if pool.get_stats()["requests_errors"] != 1:
        raise AssertionError(pool.get_stats())
    pool.closeall()
    if pgpool_rs.__version__ != version("pgpool-rs"):
        raise AssertionError(pgpool_rs.__version__)
    driver = vars(psycopg2)["__version__"].split()[0]
    print(f"pgpool_rs {pgpool_rs.__version__} from {pgpool_rs.__file__}, psycopg2 {driver}, Python {sys.version}")


if __name__ == "__main__":
    main(sys.argv[1])
