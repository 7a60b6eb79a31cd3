"""The pools that are compared, each opened in the same way; connections without a server; and other builds."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast
from unittest import mock

import psycopg2.pool
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS

import pgpool_rs

ROOT = Path(__file__).parent.parent
PACKAGE = "pgpool_rs"


class Pool(Protocol):
    """Lend connections: the two methods that all contenders have."""

    def getconn(self) -> Any: ...

    def putconn(self, conn: Any, /) -> None: ...


class KeyedPool(Pool, Protocol):
    """Lend under a key too, as psycopg2.pool and its replacement do."""

    def getconn(self, key: Any = None) -> Any: ...

    def closeall(self) -> None: ...


class PoolClass(Protocol):
    """Open a pool as psycopg2.pool's classes do."""

    def __call__(self, minconn: int, maxconn: int, /, *args: Any, **kwargs: Any) -> KeyedPool: ...


PSYCOPG2 = "psycopg2.pool"
PGPOOL = "pgpool_rs"
LOWER_BOUND = "lower bound"
IDEAL = "a connection each"

CLASSES: Mapping[str, PoolClass] = {
    PSYCOPG2: psycopg2.pool.ThreadedConnectionPool,
    PGPOOL: pgpool_rs.ThreadedConnectionPool,
}


class FakeConnection:
    """Sleep where a real connection waits for its server. It is its own `info`."""

    def __init__(self, rollback_seconds: float = 0.0) -> None:
        self.closed = 0
        self.info = self
        self.transaction_status = TRANSACTION_STATUS_IDLE
        self.rollback_seconds = rollback_seconds

    def get_transaction_status(self) -> int:
        return self.transaction_status

    def query(self, seconds: float) -> None:
        """Take `seconds`, and leave a transaction open."""
        time.sleep(seconds)
        self.transaction_status = TRANSACTION_STATUS_INTRANS

    def rollback(self) -> None:
        time.sleep(self.rollback_seconds)
        self.transaction_status = TRANSACTION_STATUS_IDLE

    def close(self) -> None:
        self.closed = 1


@contextmanager
def fake_connect(rollback_seconds: float = 0.0) -> Iterator[None]:
    """Make `psycopg2.connect`, which every pool looks up when it connects, return fakes."""
    with mock.patch("psycopg2.connect", lambda *_, **__: FakeConnection(rollback_seconds)):
        yield


def lower_bound(connections: Iterable[object]) -> Pool:
    """Open a pool without any policy over `connections`, which stay the caller's to close.

    It is the extension in lower_bound/, which Cargo builds for the running interpreter if it is out of date.
    """
    target = ROOT / "target" / "lower_bound"
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", str(target)]
    environment = os.environ | {"PYO3_PYTHON": sys.executable}
    subprocess.run(command, cwd=Path(__file__).parent / "lower_bound", env=environment, check=True)
    # By its path: an import would not find Cargo's name for the file.
    loader = ExtensionFileLoader("lower_bound", str(target / "release" / "liblower_bound.so"))
    return cast("Pool", _load(loader).Pool(*connections))


@cache  # An extension can be loaded only once.
def class_before(commit: str) -> PoolClass:
    """Build an earlier commit, and load its threaded pool, with an extension and modules of its own, beside today's."""
    folder = _build(commit)
    ours = _forget_package()
    try:
        return cast(
            "PoolClass", _load(SourceFileLoader(PACKAGE, str(folder / PACKAGE / "__init__.py"))).ThreadedConnectionPool
        )
    finally:
        _forget_package()
        sys.modules.update(ours)


def _load(loader: ExtensionFileLoader | SourceFileLoader) -> ModuleType:
    spec = importlib.util.spec_from_file_location(loader.name, loader.path, loader=loader)
    if spec is None:
        raise ImportError(f"no module in {loader.path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def _forget_package() -> dict[str, ModuleType]:
    """Remove the package from the imported modules, so that it can be imported from another folder."""
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


def _build(commit: str) -> Path:
    """Build `commit` as `make build` does, and return the folder to import it from."""
    git = ["git", "-C", str(ROOT)]
    full = subprocess.check_output([*git, "rev-parse", "--verify", f"{commit}^{{commit}}"], text=True).strip()
    target = ROOT / "target" / "before"
    sources, wheels, unpacked, folder = (target / full / name for name in ("sources", "wheels", "unpacked", "package"))
    if folder.exists():  # A loaded file must not be written to.
        return folder
    archive = subprocess.check_output([*git, "archive", full])
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(sources, filter="data")
    maturin = [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--interpreter", sys.executable]
    environment = os.environ | {"CARGO_TARGET_DIR": str(target / "cargo")}
    subprocess.run([*maturin, "--out", str(wheels)], cwd=sources, env=environment, check=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as package:
        package.extractall(unpacked)
    return unpacked.rename(folder)
