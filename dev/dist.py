"""Make what is released, and try it as its users will: an sdist, and a wheel for each Python that is found.

    python -m dev.dist [ARGUMENTS OF PYTEST]

All is built from the unpacked sdist, outside of this repository. Each wheel is installed into clean venvs and used on a
real PostgreSQL, with psycopg2-binary and with psycopg2; the sdist's tests run on the wheel of this Python. What has
passed lies in target/dist. PYTHONS names the interpreters, instead of those that are found.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from dev import interpreters
from dev.interpreters import ROOT, Interpreter
from dev.matrix import BESIDE_EACH_OTHER
from dev.servers.postgres import ThrowawayPostgres

OUT = ROOT / "target" / "dist"
CRATES = ROOT / "target" / "dist-cargo"
# Older than every system that still gets security updates.
OLDEST_GLIBC = "manylinux_2_17"
TESTS = ["-q", "tests/compat", "tests/options", "tests/house"]
# Variables of the Makefile's that name the developer's venv.
OF_THE_VENV = {"VIRTUAL_ENV", "PYO3_PYTHON", "PYTHONPATH"}
CARGO = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))


class NotFitError(Exception):
    """Says what keeps a file from being released."""


def run(
    *command: str | Path, folder: Path = ROOT, quiet: bool = False, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command, show its output unless it is quiet, and return it."""
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    # The Makefile's, which name the developer's venv.
    inherited = {
        name: text for name, text in os.environ.items() if name not in {"VIRTUAL_ENV", "PYO3_PYTHON", "PYTHONPATH"}
    }
    done = subprocess.run(
        words,
        cwd=folder,
        env={**inherited, **(environment or {})},
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotFitError(f"{' '.join(words)}\n{done.stdout or ''}")
    return done.stdout or ""


def make_sdist(work: Path) -> tuple[Path, Path]:
    """Make the sdist; return it, and the folder into which it is unpacked."""
    run(sys.executable, "-m", "maturin", "sdist", "--out", OUT, quiet=True)
    (sdist,) = OUT.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    return sdist, work / sdist.name.removesuffix(".tar.gz")


def make_wheel(interpreter: Interpreter, sources: Path, work: Path) -> Path:
    """Build the wheel of one interpreter, without the paths of this machine."""
    renamed = {str(sources): "pgpool_rs"} | {str(path): "crates" for path in CARGO.glob("registry/src/*")}
    flags = [f"--remap-path-prefix={path}={name}" for path, name in renamed.items()]
    build = ["--release", "--strip", "--interpreter", interpreter.path, "--target-dir", str(CRATES)]
    if sys.platform == "linux":
        build += ["--zig", "--compatibility", OLDEST_GLIBC]
    built = work / f"built-{interpreter.name}"
    command = [sys.executable, "-m", "maturin", "build", *build, "--out", str(built)]
    environment = {"CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags), "CARGO_ZIGBUILD_PYTHON_PATH": sys.executable}
    run(*command, folder=sources, environment=environment)
    (wheel,) = built.glob("*.whl")
    # maturin writes into the SBOM where the crates lay.
    run(sys.executable, "-m", "wheel", "unpack", "--dest", built, wheel, quiet=True)
    (unpacked,) = (path for path in built.iterdir() if path.is_dir())
    for sbom in unpacked.glob("*.dist-info/sboms/*"):
        sbom.write_text(sbom.read_text().replace(f"{sources}/", "/"))
    # With maturin's own date of every file, so that the same sources make the same wheel.
    date = {"SOURCE_DATE_EPOCH": "315532800"}
    run(sys.executable, "-m", "wheel", "pack", "--dest-dir", OUT, unpacked, quiet=True, environment=date)
    return OUT / wheel.name


def paths_within(archive: Path, *others: Path) -> list[str]:
    """Name the files of an archive in which a path of this machine stands."""
    told = {os.fsencode(path) for path in (ROOT, CARGO, Path.home(), *others) if len(path.parts) > 1}
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            contents = {name: opened.read(name) for name in opened.namelist()}
    else:
        with tarfile.open(archive) as packed:
            files = ((member.name, packed.extractfile(member)) for member in packed)
            contents = {name: file.read() for name, file in files if file}
    return sorted(name for name, content in contents.items() if any(path in content for path in told))


def venv(interpreter: str, folder: Path, *packages: str | Path) -> Path:
    """Make a venv with these packages; return its Python."""
    run(interpreter, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *packages)
    return python


def try_wheel(interpreter: Interpreter, wheel: Path, dsn: str, work: Path) -> str:
    """Use the wheel with each of psycopg2's packages, and without; say with which."""
    extras = ["binary", "c"] if shutil.which("pg_config") else ["binary"]
    smoke = shutil.copy(ROOT / "dev" / "smoke.py", work)
    for extra in extras:
        folder = work / f"{extra}-{interpreter.name}"
        run(venv(interpreter.path, folder, f"{wheel}[{extra}]"), "-I", "-W", "error", smoke, dsn, folder=work)
    # Without psycopg2, other people's tests run, and the package says what it lacks.
    python = venv(interpreter.path, work / f"testing-{interpreter.name}", f"{wheel}[testing]", "pytest")
    (work / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_nothing.py", folder=work, quiet=True)
    ask = "try:\n    import pgpool_rs.testing\nexcept ImportError as error:\n    print(error)"
    if "install psycopg2-binary" not in run(python, "-c", ask, folder=work, quiet=True):
        raise NotFitError(f"{wheel.name} does not say that it needs psycopg2")
    return "psycopg2-binary, psycopg2" if "c" in extras else "psycopg2-binary (psycopg2: no pg_config here)"


def try_sdist(sources: Path, wheel: Path, tests: list[str], work: Path) -> None:
    """Run the tests of the unpacked sdist, on the wheel that was built from it."""
    lists = [word for name in ("dev", "frameworks") for word in ("--requirement", sources / f"requirements-{name}.txt")]
    python = venv(sys.executable, work / "tests", *lists, wheel)
    run(python, "-m", "pytest", "-p", "no:cacheprovider", *BESIDE_EACH_OTHER, *tests, folder=sources)


def make(tests: list[str]) -> None:
    """Make and try all."""
    shutil.rmtree(OUT, ignore_errors=True)
    found = [interpreter for interpreter in interpreters.find() if not interpreter.name.endswith("d")]
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    tried: dict[Path, str] = {}
    with tempfile.TemporaryDirectory(prefix="dist_") as temporary, ThrowawayPostgres() as server:
        work = Path(temporary)
        sdist, sources = make_sdist(work)
        tried[sdist] = "not tested: no wheel of this Python"
        for interpreter in found:
            wheel = make_wheel(interpreter, sources, work)
            tried[wheel] = try_wheel(interpreter, wheel, server.dsn, work)
            if interpreter.name == own:
                try_sdist(sources, wheel, tests, work)
                tried[sdist] = f"its tests: {' '.join(tests)}"
        for archive in tried:
            if told := paths_within(archive, work):
                raise NotFitError(f"paths of this machine in {archive.name}: {', '.join(told)}")
    run(sys.executable, "-m", "twine", "check", "--strict", *tried)
    print(f"\n{'KiB':>6}  file, and what it was tried with")
    for archive, what in tried.items():
        print(f"{archive.stat().st_size / 1024:6.0f}  {archive.relative_to(ROOT)}: {what}")
    lacking = set(interpreters.claimed()) - {re.sub(r"\D+$", "", interpreter.name) for interpreter in found}
    if lacking:
        print(f"claimed, and no wheel made here: {', '.join(sorted(lacking))}")


if __name__ == "__main__":
    try:
        make(sys.argv[1:] or TESTS)
    except NotFitError as error:
        sys.exit(f"dist: {error}")
