"""What is shown of a loan, in `pool.loans()` and in the log."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from pgpool_rs._core import once
from pgpool_rs._foreign import CAUSED, asked

if TYPE_CHECKING:
    from types import CodeType


@once
class LoanInfo(NamedTuple):
    """One connection that is lent now."""

    key: Any
    """What it is lent under."""
    age: float
    """For how many seconds it has been lent."""
    thread: int
    """Who borrowed it, as `threading.get_ident()` says."""
    stack: traceback.StackSummary | None
    """Where it was borrowed, the innermost call last; recorded only with `leak_after`."""


def make(key: Any, age: float, thread: int, note: tuple[Any, ...] | None) -> LoanInfo:
    """Make a LoanInfo of what Rust knows."""
    return LoanInfo(key, age, thread, None if note is None else _stack(note))


def describe(loan: LoanInfo) -> str:
    """Describe a loan for the log, in one line and those of its stack."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    thread = f"thread {loan.thread} ({names.get(loan.thread, 'gone')})"
    line = f"lent for {loan.age:.1f} s under key {_shown(loan.key)}, borrowed by {thread}"
    return line if loan.stack is None else f"{line} at\n{''.join(loan.stack.format())}".rstrip()


def _shown(key: Any) -> str:
    try:
        return asked(repr, key)
    except CAUSED:
        return f"<{type(key).__name__}>"


def _stack(note: tuple[Any, ...]) -> traceback.StackSummary:
    """Look up the lines of a recorded stack: pairs of a code object and an offset into it, the innermost first."""
    pairs = list(zip(note[::2], note[1::2], strict=True))
    frames = [
        traceback.FrameSummary(code.co_filename, _line(code, offset), code.co_name, lookup_line=False)
        for code, offset in reversed(pairs)
    ]
    return traceback.StackSummary.from_list(frames)


def _line(code: CodeType, offset: int) -> int:
    lines = (line for start, end, line in code.co_lines() if start <= offset < end and line is not None)
    return next(lines, code.co_firstlineno)
