"""What happens where memory runs out: an allocation fails, each of those that an operation makes in turn."""

from __future__ import annotations

import pytest

from tests.lib.programs import run_program

pytest.importorskip("_testcapi")

# The common path: borrowing and returning, a block, a wait, a refusal. docs/maintainers/proof.md says which operations
# are left.
OPERATIONS = {
    "pair": "pool.putconn(pool.getconn())",
    "pair under a key": "pool.putconn(pool.getconn('key'), 'key')",
    "pair in a transaction": "c = pool.getconn(); c.status = INTRANS; pool.putconn(c)",
    "block": "with pool.connection(): pass",
    "block under a key": "with pool.connection('key'): pass",
    "block with a timeout": "with pool.connection(timeout=1): pass",
    "refusal": "a = pool.getconn(); b = pool.getconn(); pool.getconn()",
    "wait": "a = pool.getconn(); b = pool.getconn(); pool.getconn(timeout=0.01)",
    "return of a stranger": "pool.putconn(stranger)",
}


@pytest.mark.parametrize("options", ["", "leak_after=60", "timeout=0.01"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failed_allocation_is_an_error_and_costs_no_slot(operation: str, options: str) -> None:
    out = run_program(f"""
import _testcapi
import gc

import psycopg2
from pgpool_rs import PoolError, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer, INTRANS

server = FakeServer()
psycopg2.connect = server.connect
pool = ThreadedConnectionPool(2, 2, {options})
code = compile({OPERATIONS[operation]!r}, "operation", "exec")
scope = dict(pool=pool, INTRANS=INTRANS, stranger=object(), a=None, b=None, c=None)

def act():
    try:
        exec(code, scope)
    except PoolError:
        pass

def clean():
    scope.update(a=None, b=None, c=None)
    for loan in pool.loans():
        pool.putconn(pool._used[loan.key], loan.key)

act()
clean()
gc.disable()
failures = 0
for number in range(1, 150):
    _testcapi.set_nomemory(number, number + 1)
    try:
        exec(code, scope)
    except (MemoryError, RuntimeError):  # threading.Lock() raises the latter
        failures += 1
    except PoolError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
    borrowed = [scope[name] for name in "abc"]
    lent = [pool._used[loan.key] for loan in pool.loans()]
    assert all(any(one is other for other in borrowed) for one in lent), (number, "a slot is lost")
    clean()
    # A return that failed closes its connection; the room is there again.
    assert len(pool.loans()) == 0
    taken = pool.getconn(), pool.getconn()
    pool.putconn(taken[0])
    pool.putconn(taken[1])
print(failures)
""")
    # With CPython's free lists a pair of a getconn and a putconn takes no memory at all.
    assert int(out) > 0 or operation.startswith("pair")
