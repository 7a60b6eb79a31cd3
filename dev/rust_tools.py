"""Rust's instruments: the sanitizers' runtimes, and LLVM's tools of the version that rustc was built with.

`python -m dev.rust_tools COMMAND` runs a command in which cargo-llvm-cov finds those tools.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from dev.servers import debian

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "proof"
HOST = "x86_64-unknown-linux-gnu"


def rustc(*arguments: str) -> str:
    """Ask the compiler that cargo uses."""
    asked = subprocess.run(["rustc", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return asked.stdout.strip()


def libraries() -> Path:
    """Give the folder of the toolchain's own libraries, with the sanitizers' runtimes."""
    return Path(rustc("--print", "sysroot"), "lib", "rustlib", HOST, "lib")


def llvm_tools() -> dict[str, str]:
    """Find llvm-cov and llvm-profdata; give the environment in which cargo-llvm-cov finds them.

    Looks in LLVM_COV and LLVM_PROFDATA, in the toolchain (`rustup component add llvm-tools`) and on the system, and at
    last unpacks Debian's packages into target/.
    """
    if {"LLVM_COV", "LLVM_PROFDATA"} <= os.environ.keys():
        return {}
    found = re.search(r"^LLVM version: (\d+)", rustc("--version", "--verbose"), re.MULTILINE)
    if not found:
        raise debian.UnavailableError("rustc does not tell which LLVM it has")
    version = found[1]
    unpacked = TARGET / f"llvm-{version}"
    for folder in (libraries().parent / "bin", Path(f"/usr/lib/llvm-{version}/bin")):
        if (folder / "llvm-cov").exists():
            return _in(folder)
    debian.unpack([f"llvm-{version}", f"libllvm{version}"], unpacked)
    libs = {"LD_LIBRARY_PATH": str(unpacked / "usr/lib/x86_64-linux-gnu")}
    return libs | _in(unpacked / f"usr/lib/llvm-{version}/bin")


def _in(folder: Path) -> dict[str, str]:
    return {"LLVM_COV": str(folder / "llvm-cov"), "LLVM_PROFDATA": str(folder / "llvm-profdata")}


if __name__ == "__main__":
    try:
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | llvm_tools(), check=False).returncode)
    except debian.UnavailableError as error:
        sys.exit(f"{error}; or name LLVM_COV and LLVM_PROFDATA")
