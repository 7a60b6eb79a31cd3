"""What a release says of itself: one version, one date, and the Pythons that are tried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import metadata, version
from pathlib import Path

import pgpool_rs
from dev import interpreters

ROOT = Path(__file__).parents[2]


def read(file: str, pattern: str) -> str:
    """Find what stands in a file."""
    found = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert found, f"{file} has no {pattern}"
    return found[1]


def test_the_package_says_which_version_it_is() -> None:
    assert pgpool_rs.__version__ == version("pgpool-rs") == read("Cargo.toml", r'^version = "(.*)"')


def test_changelog_and_citation_have_the_version_and_its_date() -> None:
    dated = read("CHANGELOG.md", rf"^## \[{re.escape(pgpool_rs.__version__)}\] - (\d{{4}}-\d\d-\d\d)$")
    assert read("CITATION.cff", r"^version: (.*)$") == pgpool_rs.__version__
    assert read("CITATION.cff", r'^date-released: "(.*)"$') == dated


def test_the_first_release_has_nothing_fixed_that_nobody_had() -> None:
    first = (ROOT / "CHANGELOG.md").read_text().partition("\n## [0.1.0] - ")
    assert first[1]
    assert "### Fixed" not in first[2]


def test_every_page_names_the_same_repository() -> None:
    address = read("Cargo.toml", r'^repository = "(.*)"')
    assert f"Source, {address}" in (metadata("pgpool-rs").get_all("Project-URL") or [])
    for file in ("pyproject.toml", "CITATION.cff", "SECURITY.md", "CHANGELOG.md", ".github/ISSUE_TEMPLATE/config.yml"):
        named = re.findall(r"https://github\.com/[\w-]+/[\w-]+", (ROOT / file).read_text())
        assert set(named) == {address}, file


def test_every_claimed_python_is_in_the_matrix_of_ci_and_the_least_is_the_one_required() -> None:
    claimed = interpreters.claimed()
    assert f">={claimed[0]}" == metadata("pgpool-rs")["Requires-Python"]
    tried = re.findall(r'"(3\.\d+t?)"', read(".github/workflows/ci.yml", r"^ +python: (.*)$"))
    assert set(claimed) <= set(tried)


def test_a_python_that_is_not_claimed_is_not_released_and_does_not_fail_ci() -> None:
    for pattern in (r'PYTHONS="(.*)"', r"python-version: \|\n((?: +3\.\d+\n)+)"):
        released = read(".github/workflows/release.yml", pattern).replace("python", "").split()
        assert {*released} == {*interpreters.claimed()}
    spared = read(".github/workflows/ci.yml", r"continue-on-error: .*startsWith\(matrix\.python, '(.*?)'\)")
    tried = re.findall(r'"(3\.\d+t?)"', read(".github/workflows/ci.yml", r"^ +python: (.*)$"))
    assert [python for python in tried if not python.startswith(spared)] == interpreters.claimed()


def test_an_old_cargo_is_refused_before_anything_is_set_up(tmp_path: Path) -> None:
    for file in ("Makefile", "Cargo.toml", "requirements-dev.txt"):
        shutil.copy(ROOT / file, tmp_path)
    asked = read("Cargo.toml", r'^rust-version = "(.*)"')
    refused = f"with Rust {asked} or later, not cargo"
    for found, text in (("1.85.0", refused), ("1.9.0", refused), (f"{asked}.1", "no Python"), ("2.0.0", "no Python")):
        (tmp_path / "cargo").write_text(f"#!/bin/sh\necho 'cargo {found} (f2d3ce0bd 2026-03-21)'\n")
        (tmp_path / "cargo").chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        make = ["make", "PYTHON=echo no Python; exit 3;", "build"]
        ran = subprocess.run(make, cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False)
        assert text in ran.stdout + ran.stderr, found


def test_every_workflow_takes_the_rust_that_cargo_asks_for() -> None:
    asked = read("Cargo.toml", r'^rust-version = "(.*)"')
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert read(str(workflow.relative_to(ROOT)), r'^  RUST: "(.*)"$') == asked
