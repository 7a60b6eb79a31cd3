"""What type checkers are told, compared with what types-psycopg2 tells them of psycopg2.pool."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from inspect import signature
from pathlib import Path

from pgpool_rs import AbstractConnectionPool

# Options and `priority` of getconn are new, keyword-only, and not in psycopg2.pool's stub.
OPTIONS = set(signature(AbstractConnectionPool.__init__).parameters) - {"self", "minconn", "maxconn", "args", "kwargs"}
NEW_KEYWORDS = re.compile(rf'stub does not have parameter "({"|".join(OPTIONS | {"priority"})})"')


def complaints(module: str, stubs: Path) -> set[str]:
    """Run stubtest on a module and return its complaints, without the name of the module."""
    config = stubs / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {stubs}\n")
    command = [sys.executable, "-m", "mypy.stubtest", module, "--concise", "--ignore-missing-stub"]
    command += ["--mypy-config-file", str(config)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    lines = ran.stdout.splitlines()
    assert lines or ran.returncode == 0, ran.stderr
    return {line.replace(f"{module}.", "") for line in lines if not NEW_KEYWORDS.search(line)}


def test_against_psycopg2s_stub_nothing_shows_that_psycopg2_does_not_show(tmp_path: Path) -> None:
    files = distribution("types-psycopg2").files or []
    stub = next(file for file in files if file.name == "pool.pyi")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder, package in ((theirs, "psycopg2"), (ours, "pgpool_rs")):
        shutil.copytree(Path(str(stub.locate())).parent, folder / "psycopg2", dirs_exist_ok=True)
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.pyi").touch()
        shutil.copy(Path(str(stub.locate())), folder / package / "pool.pyi")
    new = complaints("pgpool_rs.pool", ours) - complaints("psycopg2.pool", theirs)
    assert not new, "\n".join(sorted(new))


PROGRAM = """
from pgpool_rs import PoolTimeout, ThreadedConnectionPool, replace_psycopg2_pool

pool = ThreadedConnectionPool(1, 2, "host=db", timeout=5, close_returns=True)

def today() -> str:
    with pool.connection() as conn:
        with conn.cursor() as cursor:
            cursor.execute("SELECT current_date")
            return str(cursor.fetchone())

def name() -> str | None:
    try:
        return today()
    except PoolTimeout as error:
        return error.pool_name
    finally:
        replace_psycopg2_pool()()
"""


def test_a_function_that_returns_from_a_block_returns_in_any_case(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(program)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
