"""How a pool's lines reach `logging`: on the logger `pgpool_rs.<pool name>`.

Nothing here takes the lock of the module `logging`, which an interrupt can leave held on Python 3.11 and 3.12. So no
logger is made, and none is asked `isEnabledFor`. A pool whose name has no logger has no handler or level of its own
either, and its lines go where those of the nearest logger above go.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_parent = logging.getLogger("pgpool_rs")


def is_heard(child: str, level: int) -> bool:
    """Tell whether a line at this level is wanted on the logger of this name below `pgpool_rs`."""
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
    """Write a line, which shows the place that called us: on the pool's logger, or another child of `pgpool_rs`."""
    child = str(pool) if child is None else child
    logger, name = _nearest(child), f"pgpool_rs.{child}"
    caller = sys._getframe().f_back
    path, number, function = "(unknown file)", 0, "(unknown function)"
    if caller is not None:
        path, number, function = caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name
    record = logger.makeRecord(name, level, path, number, template, args, None, function)
    # Not by makeRecord's `extra`, which raises where the program's own record factory has set one of these.
    record.__dict__.update(pool=pool, event=event, reason=reason)
    if logger.name == name:
        logger.handle(record)
    else:
        # A logger's filters are for its own lines.
        logger.callHandlers(record)


def _nearest(child: str) -> logging.Logger:
    """Find the logger of this name, or the nearest above it."""
    known = logging.root.manager.loggerDict
    name = f"pgpool_rs.{child}"
    while name != _parent.name:
        logger = known.get(name)
        if isinstance(logger, logging.Logger):
            return logger
        name = name.rpartition(".")[0]
    return _parent
