"""The modules' surface: names, base classes, signatures, and what every pool object can do."""

from __future__ import annotations

import inspect
import pickle
import weakref
from types import ModuleType
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.pool
import pytest

from pgpool_rs.testing import FakeServer

METHODS = ("__init__", "getconn", "putconn", "closeall", "_connect", "_getkey", "_getconn", "_putconn", "_closeall")


def test_the_module_has_the_names_programs_import(pool_module: ModuleType) -> None:
    names = ("PoolError", "AbstractConnectionPool", "SimpleConnectionPool", "ThreadedConnectionPool")
    assert all(inspect.isclass(getattr(pool_module, name)) for name in names)


def test_the_module_has_psycopg2_as_an_attribute_for_tests_that_patch_it_there(pool_module: ModuleType) -> None:
    assert pool_module.psycopg2 is psycopg2
    assert pool_module._ext is psycopg2.extensions


def test_pool_error_is_one_class_for_both_modules(pool_module: ModuleType) -> None:
    assert pool_module.PoolError is psycopg2.pool.PoolError
    assert issubclass(pool_module.PoolError, psycopg2.Error)


def test_every_pool_is_an_instance_of_psycopg2s_class_of_that_name_and_of_its_own_modules_abstract_class(
    pool_class: Any, pool_module: ModuleType, class_name: str, server: FakeServer
) -> None:
    pool = pool_class(0, 1)
    assert isinstance(pool, getattr(psycopg2.pool, class_name))
    assert isinstance(pool, psycopg2.pool.AbstractConnectionPool)
    assert isinstance(pool, pool_module.AbstractConnectionPool)


def test_the_classes_of_the_other_kind_do_not_match(pool_class: Any, class_name: str, server: FakeServer) -> None:
    (other,) = {"SimpleConnectionPool", "ThreadedConnectionPool"} - {class_name}
    assert not isinstance(pool_class(0, 1), getattr(psycopg2.pool, other))


def test_the_abstract_class_can_be_instantiated_and_has_no_public_methods(
    pool_module: ModuleType, server: FakeServer
) -> None:
    pool = pool_module.AbstractConnectionPool(1, 2)
    assert len(pool._pool) == 1
    assert not any(hasattr(pool, name) for name in ("getconn", "putconn", "closeall"))
    connection = pool._getconn()
    pool._putconn(connection)
    pool._closeall()
    assert pool.closed is True


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    """List name, kind and default of the parameters after self, which a method written in C takes by position only."""
    first, *others = inspect.signature(method).parameters.values()
    assert first.name == "self"
    return [(parameter.name, parameter.kind, parameter.default) for parameter in others]


@pytest.mark.parametrize("method", METHODS)
def test_a_signature_is_psycopg2s_with_at_most_keyword_only_additions(
    pool_class: Any, class_name: str, method: str
) -> None:
    theirs = parameters(getattr(getattr(psycopg2.pool, class_name), method))
    ours = parameters(getattr(pool_class, method))
    names = {name for name, _, _ in theirs}
    assert [parameter for parameter in ours if parameter[0] in names] == theirs
    assert {kind for name, kind, _ in ours if name not in names} <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("method", METHODS)
def test_a_bound_methods_signature_lacks_only_self(
    pool_class: Any, class_name: str, method: str, server: FakeServer
) -> None:
    parameters = inspect.signature(getattr(pool_class(0, 1), method)).parameters
    unbound = inspect.signature(getattr(pool_class, method)).parameters
    assert list(parameters) == list(unbound)[1:]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_docstring(pool_class: Any, method: str) -> None:
    assert inspect.getdoc(getattr(pool_class, method))


def test_a_pool_is_true_also_when_it_is_empty_and_when_it_is_closed(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    assert pool
    pool.closeall()
    assert pool
    assert not hasattr(pool, "__len__")
    assert not hasattr(pool, "__bool__")


def test_a_pool_takes_attributes_and_weak_references(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    pool.something = "kept"
    assert pool.__dict__["something"] == "kept"
    assert weakref.ref(pool)() is pool


def test_a_pool_is_compared_and_hashed_by_identity(pool_class: Any, server: FakeServer) -> None:
    pool, other = pool_class(0, 1), pool_class(0, 1)
    assert pool == pool  # noqa: PLR0124  that is the question
    assert pool != other
    assert len({pool, other}) == 2


def test_a_pool_that_holds_a_connection_cannot_be_pickled(
    pool_class: Any, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    pool = pool_class(1, 1, dsn)
    try:
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(pool)
    finally:
        pool.closeall()


def test_the_attributes_are_there_from_the_start(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2, "somewhere", option=3)
    assert (pool.minconn, pool.maxconn, pool.closed) == (1, 2, False)
    assert type(pool.minconn) is int
    assert type(pool.maxconn) is int
    assert type(pool.closed) is bool
    assert (pool._args, pool._kwargs) == (("somewhere",), {"option": 3})
    assert type(pool._args) is tuple
    assert type(pool._kwargs) is dict
    assert list(pool._pool) == server.connections
    assert dict(pool._used) == {}
    assert dict(pool._rused) == {}
    assert pool._keys == 0


def test_only_the_threaded_pool_has_a_lock(pool_class: Any, class_name: str, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    assert hasattr(pool, "_lock") == (class_name == "ThreadedConnectionPool")
