"""`pool.options`: what a pool was made with, to be read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from pgpool_rs import _core, _keywords
from pgpool_rs._foreign import CAUSED
from pgpool_rs._secrets import MASK, mask
from pgpool_rs.health import discard_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs._options import Options

# What psycopg2.connect calls its positional parameters.
_POSITIONAL = ("dsn", "connection_factory", "cursor_factory")
# These options take None, which the pool keeps as infinity.
_TIMES = ("timeout", "max_idle", "max_lifetime", "leak_after")
# Only a pool whose class waits takes these.
_WAITING = ("timeout", "max_waiting")


class PoolOptions(Mapping[str, Any]):
    """The sizes, the options and the connection's arguments of a pool at one moment, by the constructor's names.

    `type(pool)(**pool.options)` makes another pool like it. Arguments without a name have those of `psycopg2.connect`.
    The repr shows no password: of an argument that neither psycopg2 nor libpq knows, and of an object, only the class.
    """

    __slots__ = ("_args", "_given", "_kwargs")

    def __init__(self, own: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._args, self._kwargs = args, dict(kwargs)
        self._given = {**own, **dict(zip(_POSITIONAL, args, strict=False)), **self._kwargs}

    @classmethod
    def of(cls, pool: Any, options: Options) -> PoolOptions:
        """Read the options of a pool."""
        waits = isinstance(pool, _core.ThreadedConnectionPool)
        base = _core.AbstractConnectionPool
        own = {name: getattr(base, name).__get__(pool) for name in ("minconn", "maxconn")}
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            if waits or field.name not in _WAITING:
                own[field.name] = None if field.name in _TIMES and value == math.inf else value
        if own["reset"] is discard_all:
            own["reset"] = "discard"
        return cls(own, tuple(pool._args), pool._kwargs)

    def __getitem__(self, name: str) -> Any:
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        try:
            shown = ", ".join(f"{name}={self._shown(name, value)}" for name, value in self._given.items())
        except CAUSED:
            shown = MASK
        return f"{type(self).__name__}({mask(shown, self._args, self._kwargs)})"

    def _shown(self, name: str, value: Any) -> str:
        if isinstance(value, type | FunctionType):
            return value.__qualname__
        known = name not in self._kwargs or _keywords.is_known(name)
        plain = value is None or type(value) in {bool, int, float, str, bytes}
        return repr(value) if known and plain else f"<{_core.kind(value)}>"
