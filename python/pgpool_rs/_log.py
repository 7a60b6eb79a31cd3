"""Write a pool's log lines to the logger `pgpool_rs.<pool name>`.

This module never takes the lock of `logging`, which an interrupt can leave held on Python 3.11 and 3.12. So it makes no
logger and does not call `isEnabledFor`. If no logger has the pool's name, no handler or level can be set for the pool
either, and its lines go to the handlers of the nearest logger above.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_parent = logging.getLogger("pgpool_rs")


def is_heard(child: str, level: int) -> bool:
    """Return whether the logger `pgpool_rs.<child>` is enabled for this level."""
    logger = _nearest(child)
    return not logger.disabled and level > logger.manager.disable and level >= logger.getEffectiveLevel()


def write(  # noqa: PLR0917  (Rust passes them by position)
    level: int,
    template: str,
    args: tuple[Any, ...],
    pool: str | None,
    event: str,
    reason: str | None,
    child: str | None = None,
) -> None:
    """Write a line to the logger of the pool, or of another `child` of `pgpool_rs`. The line names our caller."""
    child = str(pool) if child is None else child
    logger, name = _nearest(child), f"pgpool_rs.{child}"
    caller = sys._getframe().f_back
    path, number, function = "(unknown file)", 0, "(unknown function)"
    if caller is not None:
        path, number, function = caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name
    record = logger.makeRecord(name, level, path, number, template, args, None, function)
    # makeRecord's `extra` would raise if the program's own record factory has set one of these.
    record.__dict__.update(pool=pool, event=event, reason=reason)
    if logger.name == name:
        logger.handle(record)
    else:
        # This skips the logger's filters, which are for its own lines.
        logger.callHandlers(record)


def place(error: BaseException) -> str:
    """Return where Python code raised the error, as the end of a line; nothing if no Python code did."""
    traceback = error.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f" ({code.co_filename}:{traceback.tb_lineno} in {code.co_name})"


def _nearest(child: str) -> logging.Logger:
    """Return the logger of this name, or the nearest one above it."""
    known = logging.root.manager.loggerDict
    name = f"pgpool_rs.{child}"
    while name != _parent.name:
        logger = known.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return _parent
