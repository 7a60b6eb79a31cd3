"""Ask what is known against the crates that are compiled in and the packages that developers install.

deny.toml judges licences, sources and duplicates of crates, which needs no network. Known vulnerabilities stand in
databases elsewhere: where one cannot be reached, this says so and goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from dev.interpreters import ROOT

TOOLS = Path(sys.executable).parent
PATIENCE = 120
UNREACHED = "failed to fetch advisory database"


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of the venv's; what it waits for in vain counts as out of reach."""
    command = [str(TOOLS / tool), *arguments]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", UNREACHED)


def crates() -> str:
    """Judge the crates; return what was found against them."""
    judged = run("cargo-deny", "--log-level", "error", "check", "bans", "licenses", "sources")
    known = run("cargo-deny", "--log-level", "error", "check", "advisories")
    found = judged.stderr if judged.returncode else ""
    if UNREACHED in known.stderr:
        print("crates: licences and sources were judged; the database of vulnerabilities cannot be reached here")
    elif known.returncode:
        found += known.stderr
    return found


def packages() -> str:
    """Look the packages up; return what is known against them."""
    lists = [argument for path in sorted(ROOT.glob("requirements-*.txt")) for argument in ("--requirement", str(path))]
    asked = run("pip-audit", *lists, "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    try:
        answers = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"packages: the database of vulnerabilities cannot be reached here\n{asked.stderr[-300:]}")
        return ""
    skipped = [answer["name"] for answer in answers if "skip_reason" in answer]
    if skipped:
        print(f"packages: the database has no answer here for {len(skipped)} of {len(answers)}")
    known = {answer["name"]: [each["id"] for each in answer.get("vulns", [])] for answer in answers}
    return "".join(f"{name}: {', '.join(ids)}\n" for name, ids in known.items() if ids)


if __name__ == "__main__":
    sys.exit(crates() + packages() or None)
