"""A small web shop, as a WSGI application written for psycopg2.pool. It works with either pool."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.pool import PoolError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from psycopg2.extensions import connection as Connection
    from psycopg2.pool import ThreadedConnectionPool

PRODUCTS = 1000

PATIENCE = 5.0
"""Seconds that a request waits for a connection before the shop answers 503."""

RETRY = 0.005
"""Seconds between two attempts to get a connection from a pool that refuses instead of waiting."""

TABLES = """
    drop table if exists products, reviews, orders;
    create table products (id int primary key, name text not null, price numeric not null, sold int not null);
    create table reviews (product int not null, stars int not null);
    create table orders (id bigserial primary key, product int not null, at timestamptz not null default now());
    insert into products select n, 'Product ' || n, n %% 90 + 9.99, 0 from generate_series(1, %(products)s) n;
    insert into reviews select n %% %(products)s + 1, n %% 5 + 1 from generate_series(1, 20 * %(products)s) n;
    create index on reviews (product);
    analyze;
"""


class Shop:
    """Shows products and takes orders. Each request borrows a connection from the pool."""

    def __init__(self, pool: ThreadedConnectionPool) -> None:
        self._pool = pool
        self._waiting: set[int] = set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request: GET /products/N, POST /orders/N or GET /stats."""
        _, what, *rest = environ["PATH_INFO"].split("/")
        if what == "stats":
            status, answer = "200 OK", self._counts()
        else:
            status, answer = self._sell(what, int(rest[0]))
        body = json.dumps(answer).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _sell(self, what: str, product: int) -> tuple[str, dict[str, Any]]:
        try:
            connection = self._borrow()
        except PoolError as error:
            return "503 Service Unavailable", {"error": str(error)}
        try:
            return "200 OK", _order(connection, product) if what == "orders" else _look_at(connection, product)
        finally:
            self._pool.putconn(connection)

    def _borrow(self) -> Connection:
        """Get a connection. If the pool refuses instead of waiting, try again until PATIENCE is over."""
        give_up_at = time.monotonic() + PATIENCE
        self._waiting.add(threading.get_ident())
        try:
            while True:
                try:
                    return self._pool.getconn()
                except PoolError:
                    if time.monotonic() >= give_up_at:
                        raise
                time.sleep(RETRY)
        finally:
            self._waiting.discard(threading.get_ident())

    def _counts(self) -> dict[str, int]:
        pool: Any = self._pool  # The type stubs do not have these two.
        return {"idle": len(pool._pool), "lent": len(pool._used), "waiting": len(self._waiting)}


def create_tables(dsn: str) -> None:
    """Create the shop's tables anew."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(TABLES, {"products": PRODUCTS})
    finally:
        connection.close()


def _look_at(connection: Connection, product: int) -> dict[str, Any]:
    """Read and do not commit, as most code does. The connection is returned with an open transaction."""
    with connection.cursor() as cursor:
        cursor.execute("select name, price::float from products where id = %s", (product,))
        name, price = cursor.fetchone() or ("?", 0.0)
        cursor.execute("select count(*), avg(stars)::float from reviews where product = %s", (product,))
        reviews, stars = cursor.fetchone() or (0, None)
    return {"name": name, "price": price, "reviews": reviews, "stars": stars}


def _order(connection: Connection, product: int) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("insert into orders (product) values (%s) returning id", (product,))
        (order,) = cursor.fetchone() or (None,)
        cursor.execute("update products set sold = sold + 1 where id = %s", (product,))
    connection.commit()
    return {"order": order}
