"""Each block of Python in README runs as it stands."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from pgpool_rs.testing import BrokenInvariant

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)

# What a server does with the application of the quick start.
REQUEST = """
def start_response(status, headers):
    assert status == "200 OK", status

assert application({}, start_response)[0].startswith(b"20")
pool.closeall()
"""


def test_the_readme_has_blocks_to_run_and_no_blanks_to_fill() -> None:
    assert len(BLOCKS) >= 5
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b(?<!DATABASE_URL)", README.read_text())


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_readme_runs(number: int, dsn: str) -> None:
    block = BLOCKS[number] + (REQUEST if "def application" in BLOCKS[number] else "")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        env={"DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    # Where a line says what is printed, it is.
    for said in re.findall(r"print\(.*\)  # (.*?)(?: ?\.\.\.)?$", block, re.MULTILINE):
        assert re.sub(r"\d\.\d\d", "0.05", ran.stdout).find(said) >= 0, ran.stdout


def test_the_machine_says_of_the_broken_wrapper_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = [block for block in BLOCKS if "TestPatientPool" in block]
    (shown,) = re.findall(r"^```text\n(BrokenInvariant: .*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "test_patient_pool.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    case = importlib.import_module("test_patient_pool").TestPatientPool
    case.settings = settings(case.settings, database=None, derandomize=True)
    with pytest.raises(BrokenInvariant) as raised:
        case("runTest").runTest()
    assert f"BrokenInvariant: {raised.value}\n\n{raised.value.program}\n" == shown
