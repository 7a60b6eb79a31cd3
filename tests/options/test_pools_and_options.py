"""`pgpool_rs.pools()` and `pool.options`: what operators and adapters read."""

from __future__ import annotations

import functools
import gc
import inspect
from typing import Any

import pytest

from pgpool_rs import SimpleConnectionPool, ThreadedConnectionPool, check_query, pools
from pgpool_rs._options import Options
from pgpool_rs.testing import FakeServer

PASSWORD = "hunter two'"


def test_pools_lists_the_living_pools_in_the_order_in_which_they_were_made(server: FakeServer, our_class: Any) -> None:
    made = [our_class(0, 1, open=number % 2 == 0) for number in range(4)]
    assert pools()[-len(made) :] == made
    made[2].closeall()
    assert pools()[-len(made) :] == made
    del made[1]
    gc.collect()
    assert pools()[-len(made) :] == made
    # Ids come again, and yet the newest is the last.
    for _ in range(20):
        made.append(our_class(0, 1))
        assert pools()[-len(made) :] == made
        del made[0]
        gc.collect()


def test_a_pool_whose_constructor_fails_is_not_listed(server: FakeServer, our_class: Any) -> None:
    before = pools()
    server.fail("connect", OSError("down"))
    with pytest.raises(OSError, match="down"):
        our_class(1, 1)
    assert pools() == before


def test_the_options_are_those_of_the_constructor_with_the_defaults(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(
        "1", 3, "host=db", timeout=None, max_idle=60, reset="discard", name="shop", check=check_query, user="web"
    )
    given: dict[str, Any] = {"minconn": 1, "maxconn": 3, "dsn": "host=db", "user": "web"}
    assert set(pool.options) == {*given, *inspect.signature(Options.checked).parameters}
    given |= {"timeout": None, "max_idle": 60, "reset": "discard", "name": "shop", "check": check_query}
    assert pool.options.items() >= (given | {"max_waiting": 0, "check_after": 0.5, "max_lifetime": None}).items()
    pool.resize(0, 5)
    assert (pool.options["minconn"], pool.options["maxconn"]) == (0, 5)


@pytest.mark.parametrize("close_returns", [False, True])
def test_the_options_make_another_pool_like_it(our_class: Any, close_returns: bool) -> None:
    pool = our_class(0, 3, "host=db", max_lifetime=9, name="shop", password=PASSWORD, close_returns=close_returns)
    twin = our_class(**pool.options)
    assert (twin.options, twin.options is twin.options) == (pool.options, False)


def test_a_pool_that_does_not_wait_has_no_options_for_waiting(server: FakeServer) -> None:
    assert not {"timeout", "max_waiting"} & set(SimpleConnectionPool(0, 1).options)


def test_the_options_cannot_be_changed(server: FakeServer, our_class: Any) -> None:
    options: Any = our_class(0, 1).options
    for change in (
        lambda: options.__setitem__("name", "x"),
        lambda: options.pop("name"),
        lambda: setattr(options, "name", 1),
    ):
        with pytest.raises((TypeError, AttributeError)):
            change()


class Token(str):
    """A text that shows itself."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"password": PASSWORD}),
        (("host=db password='hunter two\\''",), {}),
        (("postgresql://u:hunter%20two%27@db/shop",), {}),
        ((), {"dsn": "postgresql://u:hunter%20two%27@db/shop", "sslpassword": PASSWORD}),
        ((), {"dbname": "host=db password='hunter two\\''", "options": "-c app.password=hunter"}),
        ((PASSWORD,), {"connect": lambda *_, **__: None, "api_key": PASSWORD, "token": Token(PASSWORD)}),
        ((), {"configure": functools.partial(print, PASSWORD), "name": "postgresql://u:hunter%20two%27@db/shop"}),
        ((), {"check": functools.partial(print, PASSWORD), "connect": functools.partial(print, PASSWORD)}),
    ],
)
def test_no_repr_shows_a_secret(our_class: Any, args: Any, kwargs: Any) -> None:
    options = our_class(0, 1, *args, **kwargs).options
    for text in (repr(options), str(options), f"{options}", repr([options])):
        assert text.lstrip("[").startswith("PoolOptions(minconn=0, maxconn=1, name=")
        assert "hunter" not in text
        assert "two" not in text


def test_a_subclass_may_have_options_of_its_own(server: FakeServer, our_class: Any) -> None:
    class Own(our_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.options = {"own": 1}
            super().__init__(*args, **kwargs)

    assert Own(0, 1).options == {"own": 1}
