"""What stands in a callback that a pool makes and does harm there, and a fake server with room for it everywhere.

A probe counts its calls, and does what it was told in the one that it was told, once.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import psycopg2

from pgpool_rs.testing import FakeConnection, FakeServer


class Odd(psycopg2.DatabaseError):
    """What a database says that goes wrong by itself in a scene, before the probe is called."""


class Late(BaseException):
    """What a signal or another thread sends while a callback runs, and what arrives when it has returned."""


_send_to_thread = ctypes.PyDLL(None).PyThreadState_SetAsyncExc
# It takes two arguments and ignores the third, a weak reference that the caller of its callback adds.
_send_to_thread.argtypes = [ctypes.c_ulong, ctypes.py_object, ctypes.py_object]


class Token:
    """Something whose end sends this thread a `Late`, without a line of Python, where it could be raised too soon."""

    def __init__(self) -> None:
        send = functools.partial(_send_to_thread, threading.get_ident(), Late)
        self.alive = True
        _references.append(weakref.ref(self, send))


_references: list[weakref.ref[Token]] = []


def last(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of a callback's, at whose very end a probe's token ends, if it has left one."""

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(self, *args, **kwargs)
        token = Probe.left_token()  # noqa: F841
        return result

    return wrapped


class Probe:
    """Stands in a callback: counts its calls, and acts in the one that it is told, once."""

    token: Token | None = None

    def __init__(self) -> None:
        self.calls = 0
        self.threads: set[int] = set()
        self._act: Callable[[Any], object] | None = None
        self._at = 0

    @property
    def armed(self) -> bool:
        """Tell whether it has not acted yet."""
        return self._act is not None

    def arm(self, act: Callable[[Any], object], at: int = 1) -> None:
        """Act in the call of this number from now on."""
        self._act, self._at = act, at

    def disarm(self) -> None:
        """Only count from now on."""
        self._act = None

    def __call__(self, connection: Any = None) -> None:
        """Be called."""
        self.calls += 1
        self._at -= 1
        act = self._act
        if act is not None and self._at == 0:
            self._act = None
            act(connection)

    def callback(self, *args: Any) -> None:
        """Be called where only a callable is wanted; its first argument is the connection."""
        self(args[0] if args else None)
        token = self.left_token()  # noqa: F841

    @classmethod
    def leave_token(cls, _: object = None) -> None:
        """Act: let the callback's caller get a `Late` when the callback has returned."""
        Probe.token = Token()

    @classmethod
    def left_token(cls) -> Token | None:
        """Take the token that was left, if there is one."""
        token, Probe.token = Probe.token, None
        return token


class SiteInfo:
    """What `connection.info` shows."""

    def __init__(self, connection: SiteConnection) -> None:
        self._connection = connection

    @property
    @last
    def transaction_status(self) -> Any:
        """Tell the transaction status, by way of the server's callbacks."""
        connection = self._connection
        connection.server.visit("info", connection)
        return connection.server.shown(connection.transaction_status)

    @last
    def parameter_status(self, _name: str) -> Any:
        """Tell what the server reports, in those scenes that have it."""
        return self._connection.server.part("parameter_status", self._connection)


class SiteConnection(FakeConnection):
    """A fake connection in whose every part a probe may stand, at the very end of it too."""

    server: SiteServer

    @property
    def info(self) -> Any:
        return SiteInfo(self)

    @property
    @last
    def closed(self) -> Any:
        return self.server.shown(super().closed)

    @last
    def get_transaction_status(self) -> int:
        return super().get_transaction_status()

    @last
    def rollback(self) -> None:
        super().rollback()

    @last
    def commit(self) -> None:
        super().commit()

    @last
    def close(self) -> None:
        super().close()

    def __getattr__(self, name: str) -> Any:
        """Find what only some scenes' connections have: async_, fileno, poll, readonly."""
        if name in ("async_", "fileno", "poll", "readonly"):
            return self.server.part(name, self)
        raise AttributeError(name)

    @last
    def __del__(self) -> None:
        # Asked for in the dict: an object whose making has failed has none.
        server = self.__dict__.get("server")
        if server is not None and server.at_end is not None:
            server.forget(self)
            server.at_end(self)


class SiteServer(FakeServer):
    """A fake server of such connections."""

    def __init__(self) -> None:
        super().__init__(SiteConnection)
        self.at_end: Callable[[Any], object] | None = None
        self.parts: dict[str, Callable[[Any], Any]] = {}
        self.shown: Callable[[int], Any] = lambda number: number

    @last
    def open_one(self, *args: Any, **kwargs: Any) -> Any:
        """Open a connection; a probe may stand at the very end."""
        return self.connect(*args, **kwargs)

    def part(self, name: str, connection: SiteConnection) -> Any:
        """Give what a connection has under this name in this scene."""
        if name not in self.parts:
            raise AttributeError(name)
        return self.parts[name](connection)
