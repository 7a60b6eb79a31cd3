"""What a command answers. rich prints it where it is installed and a terminal looks on; elsewhere it is plain text."""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import re
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgpool_rs._secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

USAGE = 2
_WIDTH = 110
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


class Failed(Exception):
    """Says why a command has no answer. `main` masks the secrets of the command line in it."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def hide(text: str, words: Iterable[str]) -> str:
    """Mask in a text the secrets of a command line: each of its words may be a connection string, or a part of one."""
    for word in words:
        value = re.sub(r"^--[\w-]*=?", "", word)
        if re.search("[=@]|://", value):
            text = mask(text, (value,), {})
    return text


def can_show(text: str) -> bool:
    """Return whether the encoding of the output has these characters."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding) == text


@dataclass(frozen=True)
class Table:
    """Holds rows of texts. A column whose name begins with `>` stands to the right. The last one may be long."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Answer:
    """Holds what a command prints: data for --json, paragraphs and tables for a reader."""

    data: Mapping[str, Any]
    parts: Sequence[str | Table]
    is_well: bool = True

    def show(self) -> None:
        """Print the parts."""
        try:
            rich = importlib.import_module("rich") if sys.stdout.isatty() else None
        except ImportError:
            rich = None
        for number, part in enumerate(self.parts):
            if number:
                print()
            if isinstance(part, str):
                print(part)
            elif rich is None:
                print("\n".join(_lines(part)))
            else:
                rich.print(_rich(part))


def _lines(table: Table) -> list[str]:
    """Lay a table out as plain text."""
    rows = [[column.lstrip(">") for column in table.columns], *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = min(widths[-1], _WIDTH - sum(widths[:-1]) - 2 * len(widths))
    sides = [">" if column.startswith(">") else "<" for column in table.columns]
    lines = []
    for row in rows:
        cells = [
            [piece for text in cell.splitlines() for piece in textwrap.wrap(text, width)]
            for cell, width in zip(row, widths, strict=True)
        ]
        for pieces in itertools.zip_longest(*cells, fillvalue=""):
            laid = [f"{piece:{side}{width}}" for piece, side, width in zip(pieces, sides, widths, strict=True)]
            lines.append("  ".join(laid).rstrip())
    return lines


def _rich(table: Table) -> Any:
    """Make rich's table of it."""
    made = importlib.import_module("rich.table").Table()
    text = importlib.import_module("rich.text").Text
    for column in table.columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    for row in table.rows:
        made.add_row(*(text(cell) for cell in row), style=_STYLES.get(row[0]))
    return made


def _argument(text: str, what: str, is_right: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_right(value):
        raise argparse.ArgumentTypeError(f"{what}, not {text!r}")
    return value


def number(text: str) -> float:
    """Read a number, 0 or more."""
    return _argument(text, "must be a number, 0 or more", lambda value: 0 <= value < math.inf)


def positive(text: str) -> float:
    """Read a number, more than 0."""
    return _argument(text, "must be a number, more than 0", lambda value: 0 < value < math.inf)


def percentile(text: str) -> float:
    """Read a percentile."""
    return _argument(text, "must be more than 0 and less than 100", lambda value: 0 < value < 100)  # noqa: PLR2004


def count(text: str) -> int:
    """Read a whole number, 0 or more."""
    return int(_argument(text, "must be a whole number, 0 or more", lambda value: value >= 0 and value.is_integer()))


def whole(text: str) -> int:
    """Read a whole number, 1 or more."""
    return int(_argument(text, "must be a whole number, 1 or more", lambda value: value >= 1 and value.is_integer()))
