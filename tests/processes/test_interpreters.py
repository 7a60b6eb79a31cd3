"""What happens where the package is imported more than once, in another interpreter, or used when Python ends."""

from __future__ import annotations

import sys
import textwrap

import pytest

from tests.lib.programs import run_program

AGAIN = """
import sys
import psycopg2
import pgpool_rs as first
from pgpool_rs.testing import FakeServer

def again(*packages):
    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            del sys.modules[name]
    import pgpool_rs
    return pgpool_rs

def refused(pool, act, *classes):
    for one in classes:
        try:
            act(pool)
        except one as error:
            assert isinstance(error, one)
        else:
            raise AssertionError("not refused")

def full(package):
    import psycopg2
    psycopg2.connect = lambda *args, **kwargs: FakeServer().connect()
    pool = package.ThreadedConnectionPool(1, 1)
    pool.getconn()
    return pool

ACTS = {
    "PoolTimeout": lambda pool: pool.getconn(timeout=0.001),
    "PoolExhausted": lambda pool: pool.getconn(),
    "PoolError": lambda pool: pool.putconn(object()),
    "PoolClosed": lambda pool: (pool.closeall(), pool.closeall()) if not pool.closed else pool.closeall(),
}
"""


def test_every_import_catches_what_the_pools_of_every_import_raise() -> None:
    run_program(f"""{AGAIN}
second = again("pgpool_rs")
assert second is not first
assert second.LoanInfo is first.LoanInfo
pools = full(first), full(second)
for name, act in ACTS.items():
    for pool in pools:
        refused(pool, act, getattr(first, name), getattr(second, name), psycopg2.pool.PoolError)
""")


def test_a_driver_that_is_imported_anew_with_the_package_is_the_one_that_counts() -> None:
    run_program(f"""{AGAIN}
second = again("pgpool_rs", "psycopg2")
import psycopg2.pool
for name, act in ACTS.items():
    refused(full(second), act, getattr(second, name), psycopg2.pool.PoolError)
from pgpool_rs.testing import FakeServer
pool = full(second)
lent = list(pool._used.values())[0]
lent.close = lambda: (_ for _ in ()).throw(psycopg2.OperationalError("odd"))
pool.putconn(lent, close=True)
""")


def test_the_pools_of_each_import_work_and_take_the_fast_path() -> None:
    run_program(f"""{AGAIN}
for _ in range(3):
    package = again("pgpool_rs")
    pool = full(package)
    lent = next(iter(pool._used.values()))
    assert type(next(iter(pool._used))) is first._views.AutomaticKey
    pool.putconn(lent)
    # The fast path counts no request that finds nothing idle; an overridden hook is called in any case.
    pool.getconn()
    assert isinstance(pool.loans()[0], first.LoanInfo)
    pool.putconn(lent, next(iter(pool._used)))
    seen = []
    class Sub(package.ThreadedConnectionPool):
        def _getconn(self, key=None, **kwargs):
            seen.append(key)
            return super()._getconn(key, **kwargs)
    import psycopg2
    Sub(0, 1).getconn()
    assert seen == [None]
    calls = []
    def profile(frame, event, argument):
        if event == "c_call":
            calls.append(argument.__name__)
    pool.getconn()
    import sys
    sys.setprofile(profile)
    pool.putconn(lent)
    sys.setprofile(None)
    assert "get_ident" not in calls, calls
""")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="it has another module for this")
@pytest.mark.parametrize("imported_before", [True, False])
def test_a_subinterpreter_is_refused(imported_before: bool) -> None:
    inner = textwrap.dedent("""
        import sys
        sys.path[:] = {path}
        try:
            import pgpool_rs
        except ImportError as error:
            assert "subinterpreter" in str(error), error
        else:
            raise AssertionError("imported")
    """)
    run_program(f"""
import sys
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
if {imported_before}:
    import pgpool_rs
# psycopg2 itself can be imported in one interpreter at most, unless it has been in the main one.
ways = [dict(), dict(isolated=False)] if {imported_before} and sys.version_info < (3, 13) else [dict()]
for options in ways:
    number = interpreters.create(**options)
    failed = interpreters.run_string(number, {inner!r}.format(path=sys.path))
    assert failed is None, failed
    interpreters.destroy(number)
""")


@pytest.mark.parametrize("when", ["atexit", "a global of __main__", "a global of a module", "sys.modules is empty"])
@pytest.mark.parametrize("act", ["getconn", "key", "closeall", "putconn", "timeout", "connection", "resize"])
def test_a_pool_works_when_python_ends_as_psycopg2s_does(act: str, when: str) -> None:
    for package in ("psycopg2.pool", "pgpool_rs"):
        if package == "psycopg2.pool" and act in ("timeout", "connection", "resize"):
            continue
        out = run_program(f"""
import atexit
import sys
import types

from pgpool_rs.testing import FakeServer
import psycopg2
from {package} import PoolError, ThreadedConnectionPool

server = FakeServer()
psycopg2.connect = server.connect

class AtTheEnd:
    def __init__(self, pool):
        self.pool, self.error = pool, PoolError
        self.lent = pool.getconn("lent")
        self.write = sys.__stdout__.write

    def __del__(self):
        self.act()

    def act(self):
        try:
            if "{act}" == "getconn":
                self.pool.getconn()
                self.pool.getconn()
            elif "{act}" == "key":
                self.pool.getconn("other")
            elif "{act}" == "closeall":
                self.pool.closeall()
            elif "{act}" == "putconn":
                self.pool.putconn(self.lent, close=True)
            elif "{act}" == "timeout":
                try:
                    while True:
                        self.pool.getconn(timeout=0.001)
                except self.error:
                    pass
            elif "{act}" == "connection":
                with self.pool.connection():
                    pass
            else:
                self.pool.resize(0, 1)
            self.write("done")
        except BaseException as error:
            self.write(repr(error))
        self.act = lambda: None

end = AtTheEnd(ThreadedConnectionPool(0, 3))
when = {when!r}
if when == "atexit":
    atexit.register(end.act)
elif when == "a global of a module":
    module = sys.modules["late"] = types.ModuleType("late")
    module.end = end
    del end
elif when == "sys.modules is empty":
    atexit.register(lambda: (sys.modules.clear(), end.act()))
""")
        assert out.endswith("done"), (package, out)
