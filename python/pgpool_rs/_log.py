"""The pools' loggers, `pgpool_rs.<name>`.

Python never forgets a logger, so one is made only when it has something to say.
"""

from __future__ import annotations

import logging

_parent = logging.getLogger("pgpool_rs")


def logger(name: str, level: int) -> logging.Logger | None:
    """Return the logger of the pool of this name; None if nobody wants to hear it at this level."""
    full = f"pgpool_rs.{name}"
    # If there is none, nobody has set its level, and its parent's holds.
    known = full in logging.root.manager.loggerDict
    heard = (logging.getLogger(full) if known else _parent).isEnabledFor(level)
    return logging.getLogger(full) if heard else None
