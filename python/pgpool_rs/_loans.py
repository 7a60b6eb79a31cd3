"""What `pool.loans()`, the log and errors show of a loan."""

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
    """One connection that the pool has lent."""

    key: Any
    """The key under which the pool lent it."""
    age: float
    """How long it has been lent, in seconds."""
    thread: int
    """The thread that borrowed it, by its `threading.get_ident()`."""
    stack: traceback.StackSummary | None
    """The stack that borrowed it, the innermost call last. Recorded only with `leak_after`, else None."""


def make(key: Any, age: float, thread: int, note: tuple[Any, ...] | None) -> LoanInfo:
    """Make a LoanInfo from what Rust has recorded."""
    return LoanInfo(key, age, thread, None if note is None else _stack(note))


def describe(loan: LoanInfo) -> str:
    """Describe a loan for the log: one line, and the lines of its stack."""
    thread = f"thread {loan.thread} ({thread_name(loan.thread) or 'gone'})"
    line = f"lent for {loan.age:.1f} s under key {_shown(loan.key)}, borrowed by {thread}"
    return line if loan.stack is None else f"{line} at\n{''.join(loan.stack.format())}".rstrip()


def thread_name(ident: int) -> str | None:
    """Return the name of a thread, and None if it has ended or `threading` does not know it."""
    # threading.enumerate() would wait for a lock that an interrupt may have left held.
    active = getattr(threading, "_active", None)
    thread = active.get(ident) if type(active) is dict else None
    return None if thread is None else thread.name


def _shown(key: Any) -> str:
    try:
        return asked(repr, key)
    except CAUSED:
        return f"<{type(key).__name__}>"


def _stack(note: tuple[Any, ...]) -> traceback.StackSummary:
    """Look up the lines of a recorded stack: pairs of a code object and an offset into it, the innermost call first."""
    pairs = list(zip(note[::2], note[1::2], strict=True))
    frames = [
        traceback.FrameSummary(code.co_filename, _line(code, offset), code.co_name, lookup_line=False)
        for code, offset in reversed(pairs)
    ]
    return traceback.StackSummary.from_list(frames)


def _line(code: CodeType, offset: int) -> int:
    # Not a generator: what strikes while one that was not read to its end is closed is raised by no call.
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno
