"""The code as it was at an earlier commit, built in a folder of its own and loaded beside today's."""

import importlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast

from benches.contenders import PoolClass

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "target" / "before"
PACKAGE = "pgpool_rs"


@cache  # An extension can be loaded once only.
def pool_class(commit: str) -> PoolClass:
    """Return the threaded pool of `commit`, which keeps its own extension and modules."""
    folder = build(commit)
    ours = forget()
    sys.path.insert(0, str(folder))
    try:
        return cast("PoolClass", importlib.import_module(PACKAGE).ThreadedConnectionPool)
    finally:
        sys.path.remove(str(folder))
        forget()
        sys.modules.update(ours)


def forget() -> dict[str, ModuleType]:
    """Take the package out of what has been imported, so that it can be imported from elsewhere."""
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


def build(commit: str) -> Path:
    """Build `commit` as `make build` does, and return the folder to import it from."""
    git = ["git", "-C", str(ROOT)]
    full = subprocess.check_output([*git, "rev-parse", "--verify", f"{commit}^{{commit}}"], text=True).strip()
    sources, wheels, unpacked, folder = (TARGET / full / name for name in ("sources", "wheels", "unpacked", "package"))
    if folder.exists():  # A file that is loaded must not be written to.
        return folder
    archive = subprocess.check_output([*git, "archive", full])
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(sources, filter="data")
    maturin = [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--interpreter", sys.executable]
    environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET / "cargo")}
    subprocess.run([*maturin, "--out", str(wheels)], cwd=sources, env=environment, check=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as package:
        package.extractall(unpacked)
    return unpacked.rename(folder)
