"""The ways to borrow: each is a statement with a pool of its own, whose instructions and time are compared."""

import importlib.util
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import psycopg2
import psycopg2.pool

from benches.harness import Run
from pgpool_rs import ThreadedConnectionPool

ROOT = Path(__file__).parent.parent
SIZE = 4
DEPTH = 10

TIMES = 200  # in one timing: few, so that in most of them no other process takes the core

PAIR = "pool.putconn(pool.getconn())"
BOUND = "the lower bound"
THEIRS = "psycopg2.pool"
THEIRS_KEYED = "psycopg2.pool, with a key"
SUBCLASS_OF_BOUND = "a subclass of the lower bound"
OUR_PAIR = "the pair"


@dataclass(frozen=True, kw_only=True)
class Way:
    """Open a pool and repeat a statement on it."""

    name: str
    open: Callable[[str], Any]
    statement: str = PAIR
    depth: int = 0  # calls between the caller and the statement
    names: Mapping[str, object] = field(default_factory=dict)
    basis: str | None = None  # the way whose cost, times the limit, is the target
    limit: float = 0.0

    def repeat(self, dsn: str) -> Callable[[int], float]:
        """Open the pool; return a function that times the statement so many times, in seconds."""
        # A Timer compiles its own loop: in one shared by all pools, the interpreter could specialise for none of them.
        timer = timeit.Timer(self.statement, globals={"pool": self.open(dsn), **self.names})
        return lambda number: deep(self.depth, lambda: timer.timeit(number))


def deep(calls: int, do: Callable[[], float]) -> float:
    """Do something so many calls further down."""
    return deep(calls - 1, do) if calls else do()


@cache  # An extension can be loaded only once.
def lower_bound() -> type[Any]:
    """Build the extension in lower_bound/ for the running interpreter, if it is out of date, and return its class.

    It lends the connections that it is called with, and has no policy.
    """
    target = ROOT / "target" / "lower_bound"
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", str(target)]
    environment = os.environ | {"PYO3_PYTHON": sys.executable}
    subprocess.run(command, cwd=Path(__file__).parent / "lower_bound", env=environment, check=True)
    # By its path: an import would not find Cargo's name for the file.
    loader = ExtensionFileLoader("lower_bound", str(target / "release" / "liblower_bound.so"))
    spec = importlib.util.spec_from_file_location(loader.name, loader.path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    pool: type[Any] = module.Pool
    return pool


def connections(dsn: str) -> list[Any]:
    """Connect as often as a pool does."""
    return [psycopg2.connect(dsn) for _ in range(SIZE)]


def bound(dsn: str) -> Any:
    """Open the least that a pool can be."""
    return lower_bound()(*connections(dsn))


def theirs(dsn: str) -> Any:
    """Open psycopg2.pool's pool."""
    return psycopg2.pool.ThreadedConnectionPool(SIZE, SIZE, dsn)


def ours(**options: Any) -> Callable[[str], Any]:
    """Return what opens our pool with these options."""
    return lambda dsn: ThreadedConnectionPool(SIZE, SIZE, dsn, **options)


class Subclass(ThreadedConnectionPool):
    """Stands between the caller and the pool, as many programs' own classes do."""

    def getconn(self, key: Any = None) -> Any:  # type: ignore[override]
        return super().getconn(key)

    def putconn(self, conn: Any = None, key: Any = None, close: Any = False) -> None:
        super().putconn(conn, key, close)


def subclass_of_bound(dsn: str) -> Any:
    """Open a subclass that does the same two Python calls, and nearly nothing in them."""

    class SubclassOfBound(lower_bound()):  # type: ignore[misc]
        def getconn(self, key: Any = None) -> Any:
            return super().getconn(key)

        def putconn(self, conn: Any = None, key: Any = None, close: Any = False) -> None:
            super().putconn_with(conn, key, close)

    return SubclassOfBound(*connections(dsn))


def nothing(_connection: object) -> None:
    """Reset nothing, so that only the pool's part is measured."""


# Told of each loan, it does nothing, so that only the pool's part is measured.
LISTENER = SimpleNamespace(borrowed=lambda _pool, _wait: None, returned=lambda _pool, _use: None)

# Equal keys, which are two objects.
EQUAL = {"key": int("7000"), "same": int("7000")}

WAYS = (
    Way(name=BOUND, open=bound),
    Way(name=THEIRS, open=theirs),
    Way(name=THEIRS_KEYED, open=theirs, statement='pool.putconn(pool.getconn("k"), "k")'),
    Way(name=SUBCLASS_OF_BOUND, open=subclass_of_bound),
    Way(name=OUR_PAIR, open=ours(), basis=BOUND, limit=1.1),
    Way(name="a block", open=ours(), statement="with pool.connection(): pass", basis=THEIRS, limit=0.25),
    Way(
        name="by keyword",
        open=ours(),
        statement="pool.putconn(pool.getconn(timeout=5), None, False)",
        basis=THEIRS,
        limit=0.2,
    ),
    Way(
        name="a key: a str",
        open=ours(),
        statement='pool.putconn(pool.getconn("k"), "k")',
        basis=THEIRS_KEYED,
        limit=0.35,
    ),
    Way(
        name="a key: an int",
        open=ours(),
        statement="pool.putconn(pool.getconn(key), same)",
        names=EQUAL,
        basis=THEIRS_KEYED,
        limit=0.35,
    ),
    Way(name="reclaim=True", open=ours(reclaim=True), basis=THEIRS, limit=0.5),
    Way(name=f"leak_after=60, {DEPTH} calls deep", open=ours(leak_after=60), depth=DEPTH, basis=THEIRS, limit=1.0),
    Way(name='order="fifo"', open=ours(order="fifo"), basis=THEIRS, limit=0.4),
    Way(name="reserve=1", open=ours(reserve=1), basis=THEIRS, limit=0.4),
    Way(name="reset=, which does nothing", open=ours(reset=nothing), basis=THEIRS, limit=0.4),
    Way(name="listener=, told of each loan", open=ours(listener=LISTENER), basis=THEIRS, limit=0.75),
    Way(
        name="a subclass that calls super()",
        open=lambda dsn: Subclass(SIZE, SIZE, dsn),
        basis=SUBCLASS_OF_BOUND,
        limit=1.15,
    ),
)


def times(run: Run, share: float, dsn: str) -> dict[str, float]:
    """Time each way, in nanoseconds."""
    samples = run.turns(share, {way.name: partial(way.repeat(dsn), TIMES) for way in WAYS})
    return {name: median(each) / TIMES * 1e9 for name, each in samples.items()}
