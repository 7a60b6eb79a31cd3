"""The lower bound: a bare extension, built from the crate beside this file when it is first needed."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import cast

from benches.contenders import Pool

CRATE = Path(__file__).parent / "lower_bound"
TARGET = Path(__file__).parent.parent / "target" / "lower_bound"


def build() -> Path:
    """Build the extension for the running interpreter, and return its file; Cargo sees whether there is work."""
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", str(TARGET)]
    subprocess.run(command, cwd=CRATE, env=os.environ | {"PYO3_PYTHON": sys.executable}, check=True)
    return TARGET / "release" / "liblower_bound.so"


def lower_bound(connections: Iterable[object]) -> Pool:
    """Open a pool without any policy over `connections`, which stay the caller's to close."""
    # Named here, since Cargo's name for the file is not one that an import would look for.
    loader = ExtensionFileLoader("lower_bound", str(build()))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    if spec is None:
        raise ImportError(f"no extension in {loader.path}")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return cast("Pool", module.Pool(*connections))
