"""The pools in the care of the housekeeping thread, which opens connections at moments that no test chooses."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from pgpool_rs import AbstractConnectionPool, _housekeeping

if TYPE_CHECKING:
    import weakref
    from collections.abc import Iterable
    from types import FrameType

    Pools = Iterable[weakref.ref[Any]]

_CALL_ON_A_POOL: Final = _housekeeping.Housekeeper._call_on.__code__


def pools() -> Pools:
    """List those that are in its care now."""
    house = _housekeeping.housekeeper._house()
    return [pool for pool, _ in list(house.pokes.values())] + [visit.pool for visit in list(house.visits.values())]


def is_calling(others: Pools) -> bool:
    """Tell whether it is the housekeeping thread that calls, for one of these pools."""
    housekeeper = _housekeeping.housekeeper._house().thread
    if housekeeper is None or housekeeper.ident != threading.get_ident():
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not _CALL_ON_A_POOL:
        frame = frame.f_back
    return frame is not None and _among(others, frame.f_locals["pool"])


def close_all_but(others: Pools) -> None:
    """Close those in its care that are not among these, so that it opens nothing for them any more."""
    for reference in pools():
        pool = reference()
        if isinstance(pool, AbstractConnectionPool) and not _among(others, pool):
            pool.closed = True


def _among(others: Pools, pool: object) -> bool:
    return any(other() is pool for other in others)
