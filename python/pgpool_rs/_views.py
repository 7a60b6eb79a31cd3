"""Live views of a pool's books, for programs that read `_pool`, `_used` and `_rused` or write into them.

In psycopg2.pool these are a list and two dicts of which a subclass may make what it likes. Here the ledger in Rust
keeps the books. Each view reads the ledger whenever it is read and edits it whenever it is written, one edit at a
time, so that code which re-implements psycopg2.pool's bookkeeping goes on working, next to threads that do not.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pgpool_rs import _core

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


# Automatic keys are below this.
_NUMBERS = 1 << 64


@_core.once
class AutomaticKey(int):
    """A key that the pool made up. It equals its number, yet is never taken for a user's key of the same value."""

    __slots__ = ()


class Idle(MutableSequence[Any]):
    """`_pool`: the idle connections as a list; the next to be lent stands last."""

    __slots__ = ("_pool",)

    def __init__(self, pool: _core.AbstractConnectionPool) -> None:
        self._pool = pool

    def _edit(self, edit: Callable[[list[Any]], T]) -> T:
        """Apply an edit to the list. Where another thread was faster, apply it to what that thread has left."""
        while True:
            seen = _core.idle(self._pool)
            wanted = list(seen)
            result = edit(wanted)
            if _core.replace_idle(self._pool, seen, wanted):
                return result

    def __len__(self) -> int:
        return len(_core.idle(self._pool))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return _core.idle(self._pool)[index]

    @overload
    def __setitem__(self, index: int, value: Any) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[Any]) -> None: ...
    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            value = list(value)
        self._edit(lambda connections: connections.__setitem__(index, value))

    def __delitem__(self, index: int | slice) -> None:
        self._edit(lambda connections: connections.__delitem__(index))

    def insert(self, index: int, value: Any) -> None:
        """Insert a connection before `index`."""
        self._edit(lambda connections: connections.insert(index, value))

    def pop(self, index: int = -1) -> Any:
        """Take a connection out of the pool and return it."""
        return self._edit(lambda connections: connections.pop(index))

    def remove(self, value: Any) -> None:
        """Take this connection out of the pool."""
        self._edit(lambda connections: connections.remove(value))

    def clear(self) -> None:
        """Take all idle connections out of the pool."""
        self._edit(list.clear)

    def reverse(self) -> None:
        """Lend the idle connections in the opposite order from now on."""
        self._edit(list.reverse)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """Sort the idle connections."""
        self._edit(lambda connections: connections.sort(key=key, reverse=reverse))

    def copy(self) -> list[Any]:
        """Return a plain list of what is idle now."""
        return list(self)

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        return list(self) == (list(other) if isinstance(other, Idle) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class _Loans(MutableMapping[Any, Any]):
    """What `_used` and `_rused` have in common.

    A program deletes a loan from one of them and then from the other. The first deletion strikes it out of the
    ledger; what the other view is still to show until the second one is kept in `rest`.
    """

    __slots__ = ("_pool", "_rest", "_twin")

    def __init__(self, pool: _core.AbstractConnectionPool) -> None:
        self._pool = pool
        self._rest: dict[Any, Any] = {}

    def _pairs(self) -> list[tuple[Any, Any]]:
        """List what there is now. An automatic key may stand beside a user's key that equals it."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, _ in self._pairs()])

    def __len__(self) -> int:
        return len(self._rest) + _core.count_lent(self._pool)

    def items(self) -> ItemsView[Any, Any]:
        """Show the pairs; a loop sees them as they were when it began, and may return connections."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Show the values; a loop sees them as they were when it began, and may return connections."""
        return _Values(self)

    def copy(self) -> dict[Any, Any]:
        """Return a plain dict of what there is now."""
        return dict(self._pairs())

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return self.copy() | dict(other)

    def __repr__(self) -> str:
        return repr(self.copy())


class _Items(ItemsView[Any, Any]):
    _mapping: _Loans

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self._mapping._pairs())


class _Values(ValuesView[Any]):
    _mapping: _Loans

    def __iter__(self) -> Iterator[Any]:
        return iter([value for _, value in self._mapping._pairs()])


class Used(_Loans):
    """`_used`: what is lent, by key."""

    __slots__ = ()
    _twin: Rused

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [*self._rest.items(), *_core.lent(self._pool)]

    def __getitem__(self, key: Any) -> Any:
        connection = _core.loan(self._pool, key)
        # A program may read a number that it was shown as a key of its own.
        if connection is None and isinstance(key, int) and 0 <= key < _NUMBERS:
            connection = _core.loan(self._pool, AutomaticKey(key))
        return self._rest[key] if connection is None else connection

    def __setitem__(self, key: Any, connection: Any) -> None:
        self._rest.pop(key, None)
        self._twin._rest.pop(id(connection), None)
        _core.enter_loan(self._pool, key, connection)

    def __delitem__(self, key: Any) -> None:
        if key in self._rest:
            del self._rest[key]
            return
        connection = _core.strike_loan(self._pool, key)
        if connection is None:
            raise KeyError(key)
        self._twin._rest[id(connection)] = key


class Rused(_Loans):
    """`_rused`: the keys of what is lent, by the id of the connection."""

    __slots__ = ()
    _twin: Used

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [*self._rest.items(), *((id(connection), key) for key, connection in _core.lent(self._pool))]

    def __getitem__(self, ident: int) -> Any:
        key = _core.key_of(self._pool, ident)
        return self._rest[ident] if key is None else key[0]

    def __setitem__(self, ident: int, key: Any) -> None:
        # A loan that is in the ledger has its key there.
        if _core.key_of(self._pool, ident) is None:
            self._rest[ident] = key

    def __delitem__(self, ident: int) -> None:
        if ident in self._rest:
            del self._rest[ident]
            return
        key = self[ident]
        self._twin._rest[key] = _core.strike_loan(self._pool, key)


class Views:
    """The three views of one pool."""

    __slots__ = ("idle", "rused", "used")

    def __init__(self, pool: _core.AbstractConnectionPool) -> None:
        self.idle = Idle(pool)
        self.used = Used(pool)
        self.rused = Rused(pool)
        self.used._twin = self.rused
        self.rused._twin = self.used
