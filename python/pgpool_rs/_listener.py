"""What a pool tells its `listener`."""
# ruff: noqa: ARG002  (the methods do nothing; without `return`, mypy would take them for abstract)

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pgpool_rs._core import once

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgpool_rs.pool import AbstractConnectionPool


@once
class Listener(Protocol):
    """What a pool tells an object of yours that has some of these methods. Its class may inherit from this one.

    One listener may serve several pools, so each method is given the pool. Times are in seconds. The call of the pool
    in which something happened tells it at its end, in the same thread, or before it waits. It holds nothing then.

    A pool call that a listener makes waits for nothing, logs nothing, and tells no listener. If a listener raises an
    `Exception`, the pool logs it. Its call raises anything else, such as a KeyboardInterrupt.
    """

    def connected(self, pool: AbstractConnectionPool, took: float, /) -> None:
        """Hear that a connection was opened, and how long that took, `configure` included."""
        return

    def connect_failed(self, pool: AbstractConnectionPool, error: BaseException, /) -> None:
        """Hear why a connect or a `configure` failed. The text of the error may show a secret."""
        return

    def borrowed(self, pool: AbstractConnectionPool, wait: float, /) -> None:
        """Hear that a request got a connection, and how long that took: 0 for an idle one."""
        return

    def returned(self, pool: AbstractConnectionPool, use: float, /) -> None:
        """Hear that a borrower gave a connection back, and how long it had it, exact to 4 ms."""
        return

    def closed(self, pool: AbstractConnectionPool, reason: str, /) -> None:
        """Hear that a connection was closed, and why: a reason as in `closed_<reason>` of the statistics."""
        return

    def timed_out(self, pool: AbstractConnectionPool, wait: float, /) -> None:
        """Hear that a request ended with PoolTimeout, and how long it had waited."""
        return


# In the order in which Rust numbers them.
EVENTS = ("connected", "connect_failed", "borrowed", "returned", "closed", "timed_out")

Methods = tuple["Callable[..., object] | None", ...]


def methods(listener: Any) -> Methods:
    """Look up what a listener has of the methods, in the order of EVENTS. What does nothing is left out."""
    found = ((getattr(listener, name, None), getattr(Listener, name)) for name in EVENTS)
    return tuple(None if getattr(method, "__func__", None) is ours else method for method, ours in found)
