"""Run the tests under sanitizers, and fail if one finds anything.

    python -m dev.sanitize address     the Python tests on a binding with AddressSanitizer, and LeakSanitizer
    python -m dev.sanitize thread      the core's tests with real threads, with ThreadSanitizer

Needed: Linux on x86-64, a C compiler, ar, cargo, and for `thread` apt-get, since an instrumented std is built from
Debian's source packages. Nothing is installed: all downloads go into target/proof. Each sanitizer must first find a
mistake made on purpose (dev/sanitizers/*.rs).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from dev import rust_tools
from dev.rust_tools import HOST, ROOT, TARGET
from dev.servers import debian

HERE = ROOT / "dev" / "sanitizers"
EXTENSION = f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"

# greenlet copies stacks away and back, which the sanitizer's record of the stack does not follow. These tests get a
# build in which it watches the heap alone.
GREENLETS = ["green/test_gevent.py", "green/test_greenlets.py", "housekeeping/test_gevent.py"]
# The first is too slow for hypothesis. The next two measure speed. The others measure memory, and the sanitizer holds
# freed memory back.
LEFT_OUT = [
    "compat/test_differential.py",
    "house/test_benchmarks.py",
    "house/test_instructions.py",
    "threads/test_references.py",
    "threads/test_references_pool.py",
]
PATIENCE = ["-o", "timeout=600", "-o", "faulthandler_timeout=700"]

# Debian's Rust has the source of its std.
RUST_WITH_SOURCE = ["rustc-web", "libstd-rust-web-1.96", "libstd-rust-web-dev", "rust-web-src", "libllvm22"]


class FoundError(Exception):
    """Says that a sanitizer has found something, or cannot find anything."""


def run(*command: str | Path, **environment: str) -> None:
    """Run a command, and print it."""
    words = [str(word) for word in command]
    print("+", *words, flush=True)
    if subprocess.run(words, cwd=ROOT, env=os.environ | environment, check=False).returncode:
        raise FoundError(" ".join(words))


def expect(report: str, *command: str | Path, **environment: str) -> None:
    """Run a command that is wrong on purpose, and expect this report."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)
    if report not in done.stderr:
        raise FoundError(f"the sanitizer missed a mistake made on purpose: {report} in {' '.join(words)}")
    print(f"found, as it should be: {report}", flush=True)


def address_runtime() -> Path:
    """Make a shared library of the toolchain's runtime, to preload into a Python that was built without it.

    Rust links it into programs only. The part that runs before main is left out.
    """
    folder = TARGET / "address"
    shutil.rmtree(folder / "runtime", ignore_errors=True)
    (folder / "runtime").mkdir(parents=True)
    (archive,) = rust_tools.libraries().glob("librustc*_rt.asan.a")
    subprocess.run(["ar", "x", str(archive)], cwd=folder / "runtime", check=True)
    parts = [str(part) for part in (folder / "runtime").glob("*.o") if "preinit" not in part.name]
    # Not "libasan.so": that is GCC's runtime, beside which it refuses to run.
    library = folder / "runtime.so"
    # With C++'s own library, which the exceptions of other extensions need.
    libraries = ["-Wl,--no-as-needed", "-l:libstdc++.so.6", "-lpthread", "-ldl", "-lm", "-lrt"]
    subprocess.run(["cc", "-shared", "-o", str(library), *parts, *libraries], check=True)
    return library


def instrumented(name: str, flags: str) -> Path:
    """Build the extension with a sanitizer in it; give a folder that has the package with it."""
    target = TARGET / "address" / name
    flags = f"-Zsanitizer=address -Cforce-frame-pointers=yes -Cdebuginfo=1 {flags}".strip()
    build = ["cargo", "build", "--package", "pgpool-binding", "--locked", "--target", HOST, "--target-dir", str(target)]
    # A stable compiler takes these flags with RUSTC_BOOTSTRAP alone.
    run(*build, RUSTC_BOOTSTRAP="1", RUSTFLAGS=flags, PYO3_PYTHON=sys.executable)
    site = target / "site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "python", site, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(target / HOST / "debug" / "lib_core.so", site / "pgpool_rs" / EXTENSION)
    return site


def address() -> None:
    """Run the Python tests on the instrumented binding."""
    runtime = address_runtime()
    log = TARGET / "address" / "log"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir()

    def sanitized(site: Path, **options: str) -> Mapping[str, str]:
        # To files, since a test may discard the output of its children.
        given = {"detect_leaks": "0", "use_sigaltstack": "0", "allocator_may_return_null": "1"} | options
        return {
            "LD_PRELOAD": str(runtime),
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": str(site),
            "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in given.items()),
        }

    mistakes = TARGET / "address" / "mistakes.so"
    rustc = ["rustc", "--edition", "2024", "--crate-type", "cdylib", "-Zsanitizer=address", "--target", HOST]
    run(*rustc, HERE / "memory.rs", "-o", mistakes, RUSTC_BOOTSTRAP="1")
    call = "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); [library[sys.argv[2]]() for _ in range(3)]"
    seen = sanitized(ROOT / "python", detect_leaks="1")
    expect("heap-use-after-free", sys.executable, "-c", call, mistakes, "read_after_free", **seen)
    expect("detected memory leaks", sys.executable, "-c", call, mistakes, "leak", **seen)

    whole, heap = instrumented("whole", ""), instrumented("heap", "-Cllvm-args=-asan-stack=0")
    deep = {"detect_leaks": "1", "fast_unwind_on_malloc": "0", "malloc_context_size": "40"}
    run(sys.executable, HERE / "loans.py", **sanitized(whole, **deep))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PATIENCE]
    greenlets = [str(path) for name in GREENLETS for path in (ROOT / "tests").rglob(name)]
    left_out = [f"--ignore-glob=*/{name}" for name in GREENLETS + LEFT_OUT]
    logged = {"log_path": str(log / "report")}
    try:
        run(*tests, *left_out, **sanitized(whole, detect_stack_use_after_return="1", **logged))
        run(*tests, *greenlets, **sanitized(heap, detect_stack_use_after_return="0", **logged))
    finally:
        reports = sorted(log.iterdir())
        for report in reports:
            print(report.read_text())
    if reports:
        raise FoundError(f"{len(reports)} processes wrote a report")


def thread() -> None:
    """Run the core's tests with threads, with std and all else instrumented."""
    folder = TARGET / "thread"
    debian.unpack(RUST_WITH_SOURCE, folder / "rust")
    usr = folder / "rust" / "usr"
    compiler = folder / "rustc"
    libraries = f"{usr}/lib/x86_64-linux-gnu"
    compiler.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{usr}/bin/rustc" "$@"\n')
    compiler.chmod(0o755)
    (runtime,) = rust_tools.libraries().glob("librustc*_rt.tsan.a")
    shutil.copy(runtime, usr / "lib" / "rustlib" / HOST / "lib" / "librustc-stable_rt.tsan.a")

    mistake = folder / "mistake"
    unlike = ["-Zsanitizer=thread", "-Cunsafe-allow-abi-mismatch=sanitizer", "--target", HOST]
    run(compiler, "--edition", "2024", *unlike, HERE / "threads.rs", "-o", mistake, RUSTC_BOOTSTRAP="1")
    expect("ThreadSanitizer: data race", mistake)

    std = ["-Zbuild-std", "--target", HOST, "--target-dir", str(folder / "target")]
    environment = {
        "RUSTC": str(compiler),
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": "-Zsanitizer=thread -Cdebuginfo=1",
        # Or std would be built twice, and the two would meet.
        "CARGO_PROFILE_DEV_PANIC": "unwind",
        "TSAN_OPTIONS": "second_deadlock_stack=1",
    }
    test = ["cargo", "test", "--package", "pgpool-core", "--lib", "--locked"]
    run(*test, *std, "--", "threads::", **environment)


def main() -> int:
    """Run the given jobs, or all of them."""
    jobs = {"address": address, "thread": thread}
    asked = sys.argv[1:] or list(jobs)
    if not set(asked) <= jobs.keys():
        sys.exit(__doc__)
    try:
        for name in asked:
            jobs[name]()
    except (FoundError, debian.UnavailableError, subprocess.CalledProcessError) as error:
        print(f"sanitize: {error}", file=sys.stderr)
        return 1
    print(f"{' and '.join(asked)}: nothing found.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
