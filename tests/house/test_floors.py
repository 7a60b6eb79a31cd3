"""The modules of the binding stand on floors, and each imports only from floors above its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "rust" / "binding" / "src"


def floors() -> dict[str, int]:
    """Read the table at the head of lib.rs."""
    table = re.findall(r"^//! \| (\d+) +\| `([\w:]+)` +\|", (SOURCES / "lib.rs").read_text(), re.MULTILINE)
    return {module: int(floor) for floor, module in table}


def modules() -> dict[str, str]:
    """Give the code of each module by its path in the crate."""
    found = {}
    for source in SOURCES.rglob("*.rs"):
        path = "::".join(source.relative_to(SOURCES).with_suffix("").parts).removesuffix("::mod")
        found[path] = re.sub(r"//.*", "", source.read_text())
    del found["lib"]
    return found


def arrows_upwards(floors: dict[str, int], modules: dict[str, str]) -> set[str]:
    """Name the imports of a module from its own floor, or from one below, and those that name no module."""
    found = set()
    for module, code in modules.items():
        found |= {f"{module} -> {start}" for start in re.findall(r"\bcrate::[{*]|\bsuper::", code)}
        for path in re.findall(r"\bcrate::(\w+(?:::\w+)*)", code):
            parts = path.split("::")
            other = next(name for name in ("::".join(parts[:2]), parts[0]) if name in floors)
            # A folder may use its own parts.
            if other != module and not other.startswith(f"{module}::") and floors[other] >= floors[module]:
                found.add(f"{module} -> {other}")
    return found


def test_every_module_has_a_floor() -> None:
    assert set(floors()) == set(modules())


def test_no_module_imports_from_its_own_floor_or_one_below() -> None:
    assert not arrows_upwards(floors(), modules())


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("use crate::pool::AbstractPool;", "pool"),
        ("use crate::{pool::AbstractPool, methods};", "crate::{"),
        ("use crate::*;", "crate::*"),
        ("use super::pool::AbstractPool;", "super::"),
    ],
)
def test_an_arrow_upwards_is_seen(code: str, seen: str) -> None:
    assert arrows_upwards(floors(), modules() | {"text": code}) == {f"text -> {seen}"}
