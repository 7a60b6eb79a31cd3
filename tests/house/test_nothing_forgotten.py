"""An option, a close reason and a line of the log stand where they belong: one report names all that is forgotten."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pgpool_rs import AbstractConnectionPool
from pgpool_rs._options import Options
from pgpool_rs._settings import _TIMES
from tests.callbacks.table import SITES
from tests.harness.test_machine import KINDS

ROOT = Path(__file__).parents[2]


class Place(NamedTuple):
    """Where names stand: each is the group of a pattern, within a part of a file or of a folder."""

    file: str
    what: str
    pattern: str
    part: str = r"(?s:.*)"
    # Names that need not stand here.
    spared: tuple[str, ...] = ()

    def names(self) -> set[str]:
        """Find the names, in the spelling of Python."""
        part = re.search(self.part, text_of(self.file), re.MULTILINE)
        assert part, f"{self.file} has no {self.part}"
        found = re.findall(self.pattern, part[0], re.MULTILINE)
        return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in found}

    def lacks(self, name: str) -> str:
        """Say that a name is missing here."""
        return f"{name}: {self.file} lacks {self.what}"


def text_of(file: str) -> str:
    """Read a file, or all sources in a folder."""
    path = ROOT / file
    return path.read_text() if path.is_file() else "\n".join(source.read_text() for source in sorted(path.glob("*.rs")))


def part(begin: str, end: str) -> str:
    """Make the pattern of what stands between two others."""
    return rf"{begin}(?s:.*?){end}"


POOL, OPTIONS, PAGE = "python/pgpool_rs/pool.py", "python/pgpool_rs/_options.py", "docs/options.md"
BINDING, LEDGER, AGEING = "rust/binding/src/options.rs", "rust/core/src/ledger", "rust/core/src/tests/ageing"
SETTINGS, VALUES = "python/pgpool_rs/_settings.py", "tests/options/test_values.py"
CHECKED = part("def checked", r"\Z")

# Where each thing stands. Any of these may name a new one, and it must stand in all of both.
NAMED: dict[str, list[Place]] = {
    "option": [
        Place(POOL, "the constructor's keyword", r"^        (\w+): .* = ", part(r"def __init__\(\n", r"\*\*kwargs")),
        Place(OPTIONS, "the field", r"^    (\w+): ", part("^class Options", "@property")),
        Place(BINDING, "the field of Checked", r"^    (?:pub\(crate\) )?(?!has_)(\w+): ", part("struct Checked", "^}"),
              # Rust is given its connect.
              spared=("close_returns",)),
        Place(PAGE, "the row of the table", r"^\| `(?!m..conn)(\w+)` \|", part("^## All of them", "^## ")),
    ],
    "policy": [Place(f"{LEDGER}/limits.rs", "the field", r"^    pub (\w+):", part("^pub struct Policy", "^}"))],
    "reason": [Place("rust/core/src/close_reason.rs", "the reason", r'^    (\w+) = "\w+", "')],
    "line": [Place("rust/binding/src/log.rs", "the event", r'^    \w+ = \w+, "\w+", "(.*)";')],
}  # fmt: skip
BESIDES: dict[str, list[Place]] = {
    "option": [
        Place(POOL, "the docstring", r"^        :param (\w+):"),
        Place(POOL, "the argument of checked()", r"^            (\w+)=", part(r"Options\.checked\(", r"^        \)")),
        Place(OPTIONS, "the default", r"^        (\w+): object = ", CHECKED),
        Place(OPTIONS, "the check", r"^            (\w+)=", CHECKED),
        Place(PAGE, "the paragraph", r"^\*\*`(\w+)`\*\*"),
        Place(VALUES, "the default", r'^        "(\w+)": ', part("assert options == {", "}")),
        Place(VALUES, "the list of its kind", r'"(\w+)"', part("^SECONDS = ", r"^$"), spared=("name",)),
        Place(VALUES, "whether it needs housekeeping", r'"(\w+)": ', part(r'{"max_idle": 1},', "housekeeper is False")),
        Place("tests/harness/test_machine.py", "a pool that has it", r"\b(\w+)=", part("^KINDS", "^}"),
              # A FakeServer takes no connection_factory.
              spared=("close_returns",)),
        # Its borrowers close connections for good.
        Place("dev/soak/target.py", "the soak's option", r"^            (\w+)=", spared=("close_returns",)),
    ],
    "policy": [
        Place(BINDING, "the field in policy()", r"^            (\w+): ", part("fn policy", "^    }")),
        Place(LEDGER, "what it changes", r"policy\.(\w+)"),
        Place(AGEING, "what it changes in the model", r"policy\.(\w+)"),
        Place(f"{AGEING}/steps.rs", "its values in policies()", r"\w+", part("fn policies", r"Policy \{")),
    ],
    "reason": [
        Place(PAGE, "the row of the statistics", r"`closed_(\w+)`", part("^## Statistics", "^## ")),
        Place("rust/core/src/tests/counting.rs", "the way to be closed so", r"\(CloseReason::(\w+), \|world\| *"),
    ],
    "line": [Place(PAGE, "the row of the log", r"^\| `.*` \| [A-Z].* \| (.+?)(?:: the text of .*)? \| .*\|$")],
}  # fmt: skip


def forgotten() -> list[str]:
    """Say all that is missing."""
    found = []
    for thing, places in NAMED.items():
        names = sorted(set[str]().union(*(place.names() for place in places)))
        for place in places + BESIDES[thing]:
            missing = set(names) - place.names() - set(place.spared)
            found += [place.lacks(name) for name in names if name in missing]
    guide = text_of("CONTRIBUTING.md")
    files = dict.fromkeys(place.file for places in (*NAMED.values(), *BESIDES.values()) for place in places)
    found += [f"CONTRIBUTING.md lacks {file}" for file in files if f"`{file}" not in guide]
    return found + wrong_defaults()


def wrong_defaults() -> list[str]:
    """Say which defaults are not those that are told."""
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text_of(PAGE), re.MULTILINE))
    keywords: Any = inspect.signature(AbstractConnectionPool.__init__).parameters
    found = []
    for name, parameter in inspect.signature(Options.checked).parameters.items():
        default = "pool-1" if name == "name" else parameter.default
        shown = f'"{default}"' if isinstance(default, str) else getattr(default, "__name__", repr(default))
        if rows.get(name, shown) != shown:
            found.append(f"{name}: {PAGE} has the default {rows[name]} for {shown}")
        if name in keywords and keywords[name].default not in (parameter.default, ...):
            found.append(f"{name}: {POOL} has the default {keywords[name].default!r} for {default!r}")
        with contextlib.suppress(TypeError, ValueError):
            if getattr(Options.checked(**{name: None}), name) == math.inf and name not in _TIMES:
                found.append(f"{name}: {SETTINGS} lacks it in _TIMES, and shows infinity for None")
    return found


def test_nothing_is_forgotten() -> None:
    found = forgotten()
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("thing", NAMED)
def test_all_places_without_a_name_are_told_at_once(thing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = NAMED[thing] + BESIDES[thing]
    text, original = text_of(first.file), text_of
    match = next(re.finditer(first.pattern, text, re.MULTILINE))
    begin, end = match.span(1)
    line = f"{text[match.start() : begin]}trial{text[end : text.index(chr(10), end)]}\n"
    changed = text[: match.start()] + line + text[match.start() :]
    monkeypatch.setattr(f"{__name__}.text_of", lambda file: changed if file == first.file else original(file))
    assert forgotten() == [place.lacks("trial") for place in others]


def test_the_page_of_what_is_proved_counts_the_callbacks_and_the_kinds_of_pool() -> None:
    callbacks, theirs = len({site.callback for site in SITES.values()}), 2
    page = " ".join(text_of("docs/maintainers/proof.md").split())
    for said in (
        f"{len(SITES)} ways to {callbacks} callbacks",
        f"{len(SITES)} rows for {callbacks} callbacks",
        f"{len(KINDS)} kinds of pool,",
        f"{len(KINDS) - theirs} kinds of pgpool_rs's pools",
    ):
        assert said in page
