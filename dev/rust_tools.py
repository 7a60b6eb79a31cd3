"""What Rust's instruments need besides the toolchain: LLVM's tools of the version that rustc was built with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from dev.servers import debian

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "proof"
HOST = "x86_64-unknown-linux-gnu"


def rustc(*arguments: str) -> str:
    """Ask the compiler that cargo uses."""
    asked = subprocess.run(["rustc", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return asked.stdout.strip()


def llvm_version() -> str:
    """Tell the major version of the LLVM in rustc. Profiles are read by tools of the same one."""
    found = re.search(r"^LLVM version: (\d+)", rustc("--version", "--verbose"), re.MULTILINE)
    if not found:
        raise debian.UnavailableError("rustc does not tell which LLVM it has")
    return found[1]


def libraries() -> Path:
    """Give the folder of the toolchain's own libraries: the sanitizers' runtimes are there."""
    return Path(rustc("--print", "sysroot"), "lib", "rustlib", HOST, "lib")


def llvm_tools() -> dict[str, str]:
    """Find llvm-cov and llvm-profdata; give the environment in which cargo-llvm-cov finds them.

    Looked for in LLVM_COV and LLVM_PROFDATA, in the toolchain (`rustup component add llvm-tools`), among what is
    installed, and at last in Debian's packages, which are unpacked into target/.
    """
    if {"LLVM_COV", "LLVM_PROFDATA"} <= os.environ.keys():
        return {}
    version = llvm_version()
    unpacked = TARGET / f"llvm-{version}"
    private = {"LD_LIBRARY_PATH": str(unpacked / "usr/lib/x86_64-linux-gnu")}
    places = [
        (libraries().parent / "bin", {}),
        (Path(f"/usr/lib/llvm-{version}/bin"), {}),
        (unpacked / f"usr/lib/llvm-{version}/bin", private),
    ]
    for folder, environment in places:
        if folder.is_relative_to(unpacked):
            debian.unpack([f"llvm-{version}", f"libllvm{version}"], unpacked)
        if (folder / "llvm-cov").exists():
            tools = {"LLVM_COV": str(folder / "llvm-cov"), "LLVM_PROFDATA": str(folder / "llvm-profdata")}
            asked = [tools["LLVM_COV"], "--version"]
            if subprocess.run(asked, env=os.environ | environment, capture_output=True, check=False).returncode == 0:
                return environment | tools
    raise debian.UnavailableError(
        f"no llvm-cov of LLVM {version} runs here: `rustup component add llvm-tools`, or, as root, "
        f"`apt-get install llvm-{version}`, or name LLVM_COV and LLVM_PROFDATA"
    )


def cargo_tool(name: str, version: str) -> Path:
    """Install one of cargo's subcommands into target/; give the folder of its binary. The first time takes minutes."""
    folder = TARGET / "tools"
    binary = folder / "bin" / name
    asked = [str(binary), name.removeprefix("cargo-"), "--version"]
    if not binary.exists() or version not in subprocess.run(asked, capture_output=True, text=True, check=False).stdout:
        if not shutil.which("cargo"):
            raise debian.UnavailableError("cargo is needed")
        install = ["cargo", "install", name, "--version", version, "--locked", "--root", str(folder), "--quiet"]
        subprocess.run(install, check=True)
    return binary.parent
