"""What a pool under test promises: which invariants hold of it, and which faults it survives."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import TYPE_CHECKING, Any

import psycopg2.pool

from pgpool_rs import AbstractConnectionPool
from pgpool_rs.testing.machine.invariants import INVARIANTS

if TYPE_CHECKING:
    from collections.abc import Collection

# What may be spared a pool that does not bear it, by name.
FAULTS = {
    "connect": "a connect fails",
    "rollback": "a rollback fails while a connection is given back",
    "close": "a close fails",
    "commit": "a commit fails at the end of a connection() block",
    "check": "a check of an idle connection fails, where that is `server.check` (only where `check` is promised)",
    "interrupt": "any of these is interrupted, as by Ctrl-C: it raises a KeyboardInterrupt",
    "accounts": "a connection comes back in a transaction of which libpq or psycopg2 knows nothing, in a two-phase one "
    "or in a COPY",
    "broken": "a connection comes back that its borrower has closed, or that broke while it was lent",
    "killed": "the server ends an idle connection without a word (only where `check` is promised)",
    "number_keys": "a key is a number, as the pool's own keys may be",
    "unhashable_keys": "a key cannot be hashed",
    "wrong_key": "a connection is given back under a key that it was not lent under",
    "not_lent": "a connection is given back twice, or is not of this pool",
}


@dataclasses.dataclass(frozen=True)
class Promises:
    """Say what a pool under test promises. What is None is found out by looking at the pool.

    :param maxconn: how many connections there are at most, those being opened included.
    :param minconn: how many idle connections are kept whatever `max_idle` says.
    :param max_idle: seconds after which an idle connection beyond `minconn` is lent no more; None promises nothing.
    :param max_lifetime: seconds after which a connection is lent no more; None promises nothing.
    :param check: whether a connection that the server has ended while it was idle is never lent.
    :param keys: whether `getconn(key)` gives the same connection for the same key. None: if getconn takes one.
    :param waits: whether `getconn` waits where all are lent. "timeout" is for as long as its argument `timeout` says,
        "always" until a connection is free, "never" refuses at once. None: "timeout" if getconn takes one.
    :param threads: whether several threads may use it at once. None: unless it is a SimpleConnectionPool.
    :param parallel: whether a call never waits for a connect, rollback or close of another call. None: only if it is a
        pool of pgpool_rs.
    :param backs_off: whether it may refuse requests for a time after a failed connect, with the error of that connect.
    :param spare: the names of faults that it does not survive, and that the machine leaves out: any of `FAULTS`.
    :param waive: the names of invariants that it does not promise: any of `INVARIANTS`.
    :raises TypeError: a value is of a wrong type.
    :raises ValueError: a value is out of its range, or a name unknown.
    """

    maxconn: int
    minconn: int = 0
    max_idle: float | None = None
    max_lifetime: float | None = None
    check: bool = False
    keys: bool | None = None
    waits: str | None = None
    threads: bool | None = None
    parallel: bool | None = None
    backs_off: bool = False
    spare: Collection[str] = frozenset()
    waive: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("maxconn", "minconn"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
        if self.maxconn < 1:
            raise ValueError(f"maxconn must be 1 or more, not {self.maxconn}")
        if not 0 <= self.minconn <= self.maxconn:
            raise ValueError(f"minconn must be from 0 to maxconn, which is {self.maxconn}, not {self.minconn}")
        for name in ("max_idle", "max_lifetime"):
            _check_seconds(name, getattr(self, name))
        for name, choices in (
            ("check", (True, False)),
            ("backs_off", (True, False)),
            ("keys", (None, True, False)),
            ("threads", (None, True, False)),
            ("parallel", (None, True, False)),
            ("waits", (None, "never", "timeout", "always")),
        ):
            value = getattr(self, name)
            if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
        object.__setattr__(self, "spare", _names("spare", self.spare, FAULTS))
        object.__setattr__(self, "waive", _names("waive", self.waive, INVARIANTS))

    def bears(self, fault: str) -> bool:
        """Tell whether the pool promises to survive a fault of this name."""
        return fault not in self.spare

    def seen_in(self, pool: Any) -> Promises:
        """Return these promises, with what is None found out from the pool."""
        ours = isinstance(pool, AbstractConnectionPool)
        simple = isinstance(pool, psycopg2.pool.SimpleConnectionPool)
        takes_timeout = not simple and "timeout" in _parameters(pool, "getconn")
        return dataclasses.replace(
            self,
            keys=_takes(pool, "getconn", 1) if self.keys is None else self.keys,
            waits=self.waits or ("timeout" if takes_timeout else "never"),
            threads=not simple if self.threads is None else self.threads,
            parallel=ours if self.parallel is None else self.parallel,
        )


class Abilities:
    """What a pool can be asked for, found out by looking at it."""

    def __init__(self, pool: Any) -> None:
        for name in ("getconn", "putconn"):
            if not callable(getattr(pool, name, None)):
                raise TypeError(f"a pool needs getconn() and putconn(): {type(pool).__name__} has no {name}()")
        self.closes_on_return = "close" in _parameters(pool, "putconn")
        self.takes_keys_back = _takes(pool, "putconn", 2)
        self.blocks_take_keys = _takes(pool, "connection", 1)
        names = ("closeall", "connection", "maintain", "drain", "check", "resize")
        methods = {name for name in names if callable(getattr(pool, name, None))}
        timeout = _parameters(pool, "close").get("timeout")
        # Another pool's close() may close what is lent, too, or wait; and its open() may open a connection.
        if timeout is not None and timeout.default is None:
            methods.add("close")
        if isinstance(pool, AbstractConnectionPool):
            methods.add("open")
        self.methods = frozenset(methods)


# What a method may take without a key standing there.
_NO_KEYS = ("timeout", "close")


def _parameters(pool: Any, method: str) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(getattr(pool, method)).parameters)
    except (TypeError, ValueError, AttributeError):
        return {}


def _takes(pool: Any, method: str, number: int) -> bool:
    """Tell whether a method takes so many positional arguments."""
    kinds = [parameter.kind for name, parameter in _parameters(pool, method).items() if name not in _NO_KEYS]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Parameter.VAR_POSITIONAL in kinds or sum(kind in positional for kind in kinds) >= number


def _check_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more seconds, or None to promise nothing, not {value!r}")


def _names(option: str, given: object, known: dict[str, Any]) -> frozenset[str]:
    if isinstance(given, str) or not isinstance(given, (set, frozenset, list, tuple)):
        raise TypeError(f"{option} must be a set of names, not {given!r}")
    unknown = sorted(repr(name) for name in given if name not in known)
    if unknown:
        raise ValueError(f"{option} has unknown names: {', '.join(unknown)}. Known are {', '.join(known)}")
    return frozenset(given)
