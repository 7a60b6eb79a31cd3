"""The limits that pools take."""

from __future__ import annotations

import errno
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from pgpool_rs import _publishing
from pgpool_rs._limits.file import LimitFile
from pgpool_rs._limits.folder import folder as checked
from pgpool_rs._limits.memory import Memory
from pgpool_rs._limits.table import CAPACITY, WANTED, Table
from pgpool_rs._limits.watcher import watch

if TYPE_CHECKING:
    import os
    from pathlib import Path

_NAME: Final = re.compile(r"\w[\w.-]{0,99}")


class Holder(NamedTuple):
    """A pool that holds places of a limit."""

    pid: int
    pool: str
    count: int  # type: ignore[assignment]  # `tuple.count` is of no use here


class _Limit:
    """What both limits can do."""

    def __init__(self, table: Table, limit: int, resized: tuple[int, int] = (0, 0)) -> None:
        self._table = table
        self.named = limit
        self.resized = resized

    def __deepcopy__(self, memo: object) -> _Limit:
        # Settings are copied, and all copies name one limit.
        return self

    @property
    def limit(self) -> int:
        """The limit that holds now: the lowest that any living process names."""
        return min([self.named, *(party.limit for party in self._table.parties(self._table.state()))])

    def resize(self, limit: int) -> None:
        """Change the limit, in all processes that have pools with it now.

        A lower limit is reached as loans end: no connection is taken from its borrower.
        """
        self.named = _checked(limit)
        self._table.resize(self._table.state(), limit)

    def holders(self) -> list[Holder]:
        """List the pools of all processes that hold places now, with how many."""
        parties = self._table.parties(self._table.state())
        return [Holder(party.pid, party.pool, party.holds) for party in parties if party.holds]

    # What a pool calls.

    def _attach(self, pool: Any) -> None:
        self._table.attach(pool, self)

    def _take(self, pool: Any) -> bool:
        member = self._table.member(pool, self)
        watch(self._table, self._table.state())
        return self._table.take(member)

    def _give(self, pool: Any, count: int) -> None:
        self._table.give(self._table.member(pool, self), count)

    def _wait(self, pool: Any) -> None:
        member = self._table.member(pool, self)
        watch(self._table, self._table.state())
        if not member.wanting:
            member.wanting = True
            self._table.rouse()
            self._table.bump(WANTED)

    def _holders(self) -> str:
        return ", ".join(f"pid {pid} ({pool}) {count}" for pid, pool, count in self.holders())


@final
class HostLimit(_Limit):
    """Limits the connections of all processes of this host that name the same limit.

    At most `limit` connections are open at once, those that are being opened or closed among them, whatever forks,
    reloads and crashes::

        pool = ThreadedConnectionPool(1, 10, dsn, timeout=5, limit=HostLimit("shop", 80))

    Where processes name different limits, the lowest holds.

    :param name: what the processes have in common: letters, digits, `.`, `-` and `_`.
    :param limit: the most connections of all processes together, 1 to 4096.
    :param folder: where the processes meet. By default a folder of the user's own in the runtime directory. One that is
        given must exist, on this host; its mode says which users may share the limit.
    :raises OSError: the folder or the file cannot be used, and why; or this is not Linux.
    """

    def __init__(self, name: str, limit: int, *, folder: str | os.PathLike[str] | None = None) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"a limit's name is of letters, digits, '.', '-' and '_', not {name!r}")
        if sys.platform != "linux":
            raise OSError(errno.ENOTSUP, "a HostLimit needs Linux")
        path: Path = checked(folder) / f"{name}.limit"
        file = LimitFile.at(path)
        super().__init__(file, _checked(limit), file.resized())
        self.name = name
        self._folder = folder
        _publishing.start(path.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(HostLimit, folder=self._folder), (self.name, self.named)

    def __repr__(self) -> str:
        return f"HostLimit({self.name!r}, {self.named})"


@final
class SharedLimit(_Limit):
    """Limits the connections of several pools of one process, those of its tenants for instance.

    ::

        limit = SharedLimit(80)
        pools = {tenant: ThreadedConnectionPool(0, 20, dsn, timeout=5, limit=limit) for tenant, dsn in tenants.items()}

    :param limit: the most connections of all these pools together, 1 to 4096.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(Memory(), _checked(limit))

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has a limit of its own, as the child of a fork has.
        return SharedLimit, (self.named,)

    def __repr__(self) -> str:
        return f"SharedLimit({self.named})"


def _checked(limit: int) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"a limit is a number of connections, not {type(limit).__name__}")
    if not 1 <= limit <= CAPACITY:
        raise ValueError(f"a limit is from 1 to {CAPACITY}, not {limit}")
    return limit
