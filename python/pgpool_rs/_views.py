"""Live views of the ledger, for programs that read or write `_pool`, `_used` and `_rused`.

In psycopg2.pool these are a list and two dicts, which a subclass may read and write. Here, reading a view reads the
ledger in Rust, and each write into a view is one edit of the ledger. So code that re-implements psycopg2.pool's
bookkeeping goes on working, also while other threads use the pool.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, ValuesView
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pgpool_rs import _core

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


# Automatic keys are below this.
_NUMBERS = 1 << 64


@_core.once
class AutomaticKey(int):
    """A key that the pool made. It equals its number, but the ledger never takes it for a user's key of that value."""

    __slots__ = ()


class Idle(MutableSequence[Any]):
    """`_pool`: the idle connections as a list. The pool lends the last one next."""

    __slots__ = ("_pool",)

    def __init__(self, pool: _core.AbstractConnectionPool) -> None:
        self._pool = pool

    def _edit(self, edit: Callable[[list[Any]], T]) -> T:
        """Apply an edit to the list. If another thread has changed the list meanwhile, apply it to the new list."""
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

    # The mixins would ask the ledger anew for each element.
    def __iter__(self) -> Iterator[Any]:
        return iter(_core.idle(self._pool))

    def __reversed__(self) -> Iterator[Any]:
        return iter(_core.idle(self._pool)[::-1])

    def __contains__(self, value: object) -> bool:
        return value in _core.idle(self._pool)

    def index(self, value: Any, *limits: int) -> int:
        """Return the first index of a connection."""
        return _core.idle(self._pool).index(value, *limits)

    def count(self, value: Any) -> int:
        """Count how often a connection is in the list."""
        return _core.idle(self._pool).count(value)

    def append(self, value: Any) -> None:
        """Add a connection, which the pool lends next."""
        self._edit(lambda connections: connections.append(value))

    def extend(self, values: Iterable[Any]) -> None:
        """Add connections, of which the pool lends the last one next."""
        values = list(values)
        self._edit(lambda connections: connections.extend(values))

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
        """Return a plain list of the connections that are idle now."""
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

    A program deletes a loan from one of them and then from the other. The first deletion removes the loan from the
    ledger. Until the second one, `_rest` of the other view has what that view must still show.
    """

    __slots__ = ("_other", "_pool", "_rest")

    def __init__(self, pool: _core.AbstractConnectionPool) -> None:
        self._pool = pool
        self._rest: dict[Any, Any] = {}

    def _pairs(self) -> list[tuple[Any, Any]]:
        """List the pairs. An automatic key and a user's key that equals it may both be there."""
        raise NotImplementedError

    def _take(self, key: Any) -> Any:
        """Remove a loan and return its value."""
        raise NotImplementedError

    def __delitem__(self, key: Any) -> None:
        self._take(key)

    # The mixins would look a key up, and then delete it: another thread may return the connection in between.
    def pop(self, key: Any, *default: Any) -> Any:
        """Remove a loan and return its value, or the default if there is none."""
        try:
            return self._take(key)
        except KeyError:
            if not default:
                raise
            return default[0]

    def popitem(self) -> tuple[Any, Any]:
        """Remove the last loan and return its pair."""
        for key in reversed([*self]):
            with suppress(KeyError):
                return key, self._take(key)
        raise KeyError("no connection is lent")

    def clear(self) -> None:
        """Remove the loans."""
        for key in self:
            self.pop(key, None)

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, _ in self._pairs()])

    def __len__(self) -> int:
        return len(self._rest) + _core.count_lent(self._pool)

    def items(self) -> ItemsView[Any, Any]:
        """Return the pairs. A loop sees them as they were when it began, and may return connections."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return the values. A loop sees them as they were when it began, and may return connections."""
        return _Values(self)

    def copy(self) -> dict[Any, Any]:
        """Return a plain dict of the pairs."""
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

    def __contains__(self, value: object) -> bool:
        return value in [*self]


class Used(_Loans):
    """`_used`: the lent connections by key."""

    __slots__ = ()
    _other: Rused

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [*self._rest.items(), *_core.lent(self._pool)]

    def _ask(self, ask: Callable[[_core.AbstractConnectionPool, Any], Any], key: Any) -> Any:
        """Ask the ledger for a loan. A program may give the number of an automatic key that a view has shown."""
        connection = ask(self._pool, key)
        if connection is None and isinstance(key, int) and 0 <= key < _NUMBERS:
            connection = ask(self._pool, AutomaticKey(key))
        return connection

    def __getitem__(self, key: Any) -> Any:
        connection = self._ask(_core.loan, key)
        return self._rest[key] if connection is None else connection

    def __setitem__(self, key: Any, connection: Any) -> None:
        self._rest.pop(key, None)
        self._other._rest.pop(id(connection), None)
        _core.enter_loan(self._pool, key, connection)

    def _take(self, key: Any) -> Any:
        if key in self._rest:
            return self._rest.pop(key)
        connection = self._ask(_core.strike_loan, key)
        if connection is None:
            raise KeyError(key)
        self._other._rest[id(connection)] = key
        return connection


class Rused(_Loans):
    """`_rused`: the keys of the lent connections by `id(connection)`."""

    __slots__ = ()
    _other: Used

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [*self._rest.items(), *((id(connection), key) for key, connection in _core.lent(self._pool))]

    def __getitem__(self, ident: int) -> Any:
        key = _core.key_of(self._pool, ident)
        return self._rest[ident] if key is None else key[0]

    def __setitem__(self, ident: int, key: Any) -> None:
        # The ledger has the key of each loan that it knows.
        if _core.key_of(self._pool, ident) is None:
            self._rest[ident] = key

    def _take(self, ident: int) -> Any:
        if ident in self._rest:
            return self._rest.pop(ident)
        key = self[ident]
        connection = _core.strike_loan(self._pool, key)
        if connection is None:  # Another thread has just returned it.
            raise KeyError(ident)
        self._other._rest[key] = connection
        return key


class Views:
    """The three views of one pool."""

    __slots__ = ("idle", "rused", "used")

    def __init__(self, pool: _core.AbstractConnectionPool) -> None:
        self.idle = Idle(pool)
        self.used = Used(pool)
        self.rused = Rused(pool)
        self.used._other = self.rused
        self.rused._other = self.used
