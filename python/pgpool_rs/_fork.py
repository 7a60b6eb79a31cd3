"""Locks that are free in the child of a fork, even if a thread held them in the parent."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

_locks: weakref.WeakSet[threading.Lock] = weakref.WeakSet()


def renewed_by_fork(lock: threading.Lock) -> threading.Lock:
    """Return the lock, and make it free in every child process. gevent and eventlet do so with their own locks."""
    if hasattr(lock, "_at_fork_reinit"):
        _locks.add(lock)
    return lock


def _renew() -> None:
    for lock in _locks:
        # CPython does this to the locks of its own modules.
        lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_renew)
