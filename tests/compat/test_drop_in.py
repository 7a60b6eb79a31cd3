"""A drop-in: modules that are replaced as a whole, subclasses with names of their own, and what no drop-in can be."""

from __future__ import annotations

from typing import Any

import psycopg2
import psycopg2.pool
import pytest

import pgpool_rs
from pgpool_rs import AbstractConnectionPool, SimpleConnectionPool, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole
from tests.lib.programs import run_program
from tests.lib.waits import counts, wait_until

FORMS = {
    "import psycopg2.pool": "import psycopg2.pool\nfound = psycopg2.pool.ThreadedConnectionPool",
    "import psycopg2.pool as": "import psycopg2.pool as other\nfound = other.ThreadedConnectionPool",
    "from psycopg2 import pool": "from psycopg2 import pool\nfound = pool.ThreadedConnectionPool",
    "from psycopg2.pool import": "from psycopg2.pool import ThreadedConnectionPool as found",
    "an attribute": "import psycopg2\nfound = psycopg2.pool.ThreadedConnectionPool",
    "importlib": "import importlib\nfound = importlib.import_module('psycopg2.pool').ThreadedConnectionPool",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_import_gives_our_module_once_it_stands_in_the_place_of_psycopg2s(form: str) -> None:
    run_program(f"""
import pgpool_rs
pgpool_rs.replace_psycopg2_pool()
{FORMS[form]}
assert found is pgpool_rs.ThreadedConnectionPool, found
""")


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_import_gives_psycopg2s_module_once_it_is_put_back(form: str) -> None:
    run_program(f"""
import pgpool_rs, psycopg2.pool
original = psycopg2.pool
first = pgpool_rs.replace_psycopg2_pool()
second = pgpool_rs.replace_psycopg2_pool()
assert psycopg2.pool is pgpool_rs.pool
second()
first()
assert psycopg2.pool is original
{FORMS[form]}
assert found is original.ThreadedConnectionPool, found
""")


def test_what_was_imported_before_stays_and_goes_with_the_rest() -> None:
    run_program("""
from psycopg2.pool import PoolError, SimpleConnectionPool as before
import pgpool_rs
pgpool_rs.replace_psycopg2_pool()
from psycopg2.pool import PoolError as after, SimpleConnectionPool
assert before is not SimpleConnectionPool
assert issubclass(SimpleConnectionPool, before)
assert PoolError is after is pgpool_rs.PoolError
import pickle
assert pickle.loads(pickle.dumps(after("text"))).args == ("text",)
""")


def test_our_classes_survive_a_second_import_after_the_replacement() -> None:
    run_program("""
import importlib, sys
import psycopg2.pool as original
import pgpool_rs
pgpool_rs.replace_psycopg2_pool()
from pgpool_rs.testing import FakeServer
old = pgpool_rs.pool.ThreadedConnectionPool
new = importlib.reload(pgpool_rs.pool).ThreadedConnectionPool
assert new is not old
for cls in (old, new):
    pool = cls(1, 1, connect=FakeServer().connect)
    for _ in range(2):
        pool.putconn(pool.getconn())
for name in [name for name in sys.modules if name.startswith("pgpool_rs.") and name != "pgpool_rs._core"]:
    del sys.modules[name]
del sys.modules["pgpool_rs"]
import pgpool_rs as again
assert issubclass(again.ThreadedConnectionPool, original.ThreadedConnectionPool)
bases = [base for base in again.ThreadedConnectionPool.__mro__ if base.__module__ == "pgpool_rs.pool"]
assert [base.__name__ for base in bases] == ["ThreadedConnectionPool", "AbstractConnectionPool"], bases
assert again.PoolError is original.PoolError
""")


# --- names of a subclass ---------------------------------------------------------------------------------------------

THEIRS = {
    *dir(psycopg2.pool.AbstractConnectionPool),
    *dir(psycopg2.pool.SimpleConnectionPool),
    *dir(psycopg2.pool.ThreadedConnectionPool),
    *vars(psycopg2.pool.ThreadedConnectionPool(0, 0)),
}


def ours(thing: Any) -> set[str]:
    """Give what a class or pool of ours has and psycopg2.pool has not, but for what Python itself gives a name to."""
    return {name for name in {*dir(thing)} - THEIRS if not name.startswith("__")}


def test_no_name_that_we_add_can_be_a_subclasss_own_by_chance(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    assert pool._pool
    private = {name for name in ours(pool) | ours(our_class) if name.startswith("_")}
    assert {name for name in private if not name.startswith("_pgpool_")} == set()


PUBLIC = {
    *("name", "options", "open", "close", "check", "wait", "connection", "resize", "drain", "maintain"),
    *("loans", "get_stats", "pop_stats", "get_histograms"),
}


def test_the_public_names_that_we_add_are_these() -> None:
    assert {name for name in ours(ThreadedConnectionPool) if not name.startswith("_")} == PUBLIC


OLD_PRIVATE = ("_start", "_maintain", "_find_hooks", "_get_name", "_books", "_live_books", "_stop", "_ledger", "_name")


@pytest.mark.parametrize("names", [OLD_PRIVATE, tuple(sorted(PUBLIC))], ids=["private", "public"])
@pytest.mark.parametrize("where", ["class", "instance", "instance, before"])
def test_a_subclass_may_have_names_of_its_own(
    our_class: Any, server: FakeServer, where: str, names: tuple[str, ...]
) -> None:
    def stop(*_: object, **__: object) -> object:
        raise AssertionError("the pool has called what is a subclass's own")

    class Own(our_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if where == "instance, before":
                self.__dict__.update(dict.fromkeys(names, stop))
            super().__init__(*args, **kwargs)

    if where == "class":
        for name in names:
            setattr(Own, name, stop)
    pool = Own(1, 2, max_idle=60, max_lifetime=600, leak_after=60, background=True, open_workers=2)
    if where == "instance":
        for name in names:
            setattr(pool, name, stop)
    connection = pool.getconn()
    pool.putconn(connection)
    pool._getconn = pool._getconn
    del pool._getconn
    with our_class.connection(pool):
        assert len(pool._used) == 1
    our_class.maintain(pool)
    our_class.check(pool)
    our_class.drain(pool)
    our_class.wait(pool)
    repr(pool)
    assert_whole(pool)
    pool.closeall()
    assert all(getattr(pool, name) is not None for name in names)


def test_the_housekeeping_of_a_subclass_with_names_of_its_own_goes_on(server: FakeServer) -> None:
    class Own(ThreadedConnectionPool):
        name = 5  # type: ignore[assignment]

        def _maintain(self) -> None:
            raise AssertionError

        _start = _find_hooks = _get_name = maintain = check = _maintain

    pool: Any = Own(1, 2, background=True)
    connection = pool.getconn()
    connection.cursor().execute("SELECT 1")
    pool.putconn(connection)
    wait_until(lambda: counts(pool)["idle"] == 1, "the return of the housekeeping")
    assert pool.getconn() is connection


# --- what the table of docs/migrating.md says of what differs ---------------------------------------------------------


def test_a_pool_made_by_object_new_is_refused(our_class: Any) -> None:
    with pytest.raises(TypeError, match="is not safe"):
        object.__new__(our_class)
    assert isinstance(our_class.__new__(our_class), our_class)


def test_a_base_with_a_layout_of_its_own_is_refused(our_class: Any) -> None:
    for base in (dict, list, int, Exception):
        with pytest.raises(TypeError, match=r"lay-out|acceptable"):
            type("Own", (our_class, base), {})
    type("Own", (our_class, type("Plain", (), {})), {})


def test_sizes_do_not_stand_in_the_instances_dict(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 2)
    assert not vars(pool).keys() & {"minconn", "maxconn", "closed", "_pool", "_used", "_rused", "_keys"}
    assert (getattr(pool, "minconn"), getattr(pool, "maxconn")) == (1, 2)  # noqa: B009


def test_the_names_of_the_package_are_these() -> None:
    assert "replace_psycopg2_pool" in pgpool_rs.__all__
    assert SimpleConnectionPool.__mro__[1] is AbstractConnectionPool
