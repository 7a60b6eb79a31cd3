"""A scene: one pool over a fake server, with one probe in one of its callbacks; and what must hold when it is over."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg2

import pgpool_rs
from pgpool_rs import _housekeeper
from tests.callbacks.probe import Odd, Probe, SiteServer, last
from tests.lib.log import listening
from tests.lib.pools import assert_balanced, assert_sound
from tests.lib.waits import counts, wait_until

ROOM = 4  # connections that a pool may have

Round = Callable[[], object]


class Handler(logging.Handler):
    """Calls a probe for each line that has a text in it."""

    def __init__(self, probe: Probe, text: str) -> None:
        super().__init__()
        self.probe, self.text = probe, text

    @last
    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.probe()


class Scene:
    """One pool, its server, and a probe in one of its callbacks."""

    def __init__(self, pool_class: Any, stack: ExitStack, more: dict[str, Any] | None = None) -> None:
        self.pool_class = pool_class
        self.stack = stack
        self.more = more or {}
        self.probe = Probe()
        self.server = SiteServer()
        self.pool: Any = None
        # What a borrower knows of, and whatever else is to be undone.
        self.mine: list[Any] = []
        self.unraisable: list[Any] = []
        self.popped: list[tuple[Any, dict[str, int]]] = []
        self.trouble = True
        self.handlers: list[Handler] = []
        stack.enter_context(self.server.installed())
        self.replace(psycopg2, "connect", functools.partial(SiteServer.open_one, self.server))
        self.log = stack.enter_context(listening("site", logging.WARNING))
        self.keepers_log = stack.enter_context(listening("housekeeping", logging.WARNING))

    @property
    def threaded(self) -> bool:
        """Tell whether the pool waits."""
        return issubclass(self.pool_class, pgpool_rs.ThreadedConnectionPool)

    def open(self, minconn: Any = 0, maxconn: Any = ROOM, **options: Any) -> Any:
        """Make the pool; close the one that there was, whatever its class makes of closeall."""
        before, self.pool = self.pool, None
        if before is not None and not before.closed:
            pgpool_rs.AbstractConnectionPool._closeall(before)
        # From the beginning, so that it is known to what its constructor calls.
        self.pool = self.pool_class.__new__(self.pool_class)
        try:
            self.pool.__init__(minconn, maxconn, name="site", **{**self.more, **options})
        except BaseException:
            self.pool = None
            raise
        return self.pool

    def on(self, call: str) -> None:
        """Put the probe into a call of the server's."""
        self.server.on(call, self.probe)

    def replace(self, module: Any, name: str, value: Any) -> None:
        """Put something in a module's place until the end."""
        self.stack.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)

    def listen(self, text: str, level: int = logging.DEBUG, probe: Probe | None = None) -> None:
        """Put the probe, or another one, into a log handler, for the lines with this text."""
        handler, logger = Handler(probe or self.probe, text), logging.getLogger("pgpool_rs.site")
        self.handlers.append(handler)
        logger.setLevel(level)
        logger.addHandler(handler)
        self.stack.callback(logger.removeHandler, handler)

    def go_wrong(self, _: object = None) -> None:
        """Fail, until the pool is to be looked at."""
        if self.trouble:
            raise Odd

    def leave_no_housekeeping(self) -> None:
        """Let no housekeeping thread come, until the pool is to be looked at."""
        _housekeeper.housekeeper._ended = True
        self.stack.callback(self.let_the_housekeeping_come)

    @staticmethod
    def let_the_housekeeping_come() -> None:
        """Undo that."""
        _housekeeper.housekeeper._ended = False

    # --- borrowing, with notes of who has what ---

    def lend(self, *args: Any, **kwargs: Any) -> Any:
        """Borrow."""
        connection = self.pool.getconn(*args, **kwargs)
        self.mine.append(connection)
        return connection

    def give(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        """Return what was borrowed. It is the borrower's for as long as the pool says that it is lent."""
        try:
            self.pool.putconn(connection, *args, **kwargs)
        finally:
            if id(connection) not in self.pool._rused:
                self.mine = [each for each in self.mine if each is not connection]

    def is_where_it_struck(self, error: BaseException) -> bool:
        """Tell whether an error came as getconn had returned, before its result had a name.

        The loan is nobody's then. `connection()` has no such moment.
        """
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        return frame is not None and frame.tb_frame.f_code is Scene.lend.__code__

    def strike_next(self, where: str, error: BaseException) -> None:
        """Raise an error in the next call of this name, or the next line of the log."""

        def strike(_: object = None) -> None:
            nonlocal error
            left, error = error, _SPENT
            if left is not _SPENT:
                raise left

        if where == "log handler":
            probe = Probe()
            probe.arm(strike)
            self.listen("", probe=probe)
        else:
            self.server.on(where, strike)

    def close_by_hand(self) -> None:
        """Close what a closed pool could not."""
        for connection in self.server.connections:
            connection.close()

    def quiesce(self) -> None:
        """Return what is lent, and give the pool its size again."""
        self.probe.disarm()
        self.server.calm()
        for handler in self.handlers:
            handler.probe.disarm()
        self.trouble = False
        self.let_the_housekeeping_come()
        if self.pool is None or self.pool.closed:
            for connection in self.mine:
                with suppress(pgpool_rs.PoolClosed):
                    self.pool.putconn(connection)
            return
        lent = list(self.pool._used.values())
        for connection in lent:
            self.give(connection)
        self.pool.resize(0, ROOM)
        self.pool.maintain()

    def assert_nothing_lost(self) -> None:
        """Assert that nothing is lent of which nobody knows."""
        if self.pool is not None and not self.pool.closed:
            known = {id(connection) for connection in self.mine}
            unknown = [connection for connection in self.pool._used.values() if id(connection) not in known]
            assert not unknown, f"lent, and nobody has it: {unknown}"

    def assert_sound(self) -> None:
        """Assert that the pool and the server agree, and that the pool lends what it may, if it is open."""
        if self.pool is None:
            assert self.server.open == 0, "a pool that was never made has left connections open"
        elif self.pool.closed:
            wait_until(lambda: not counts(self.pool)["returning"], "the end of all returns")
            assert_balanced(Summed(self), self.server)
            assert self.server.open == 0, "a closed pool has connections open"
        else:
            assert_sound(Summed(self), self.server, **({"timeout": 0} if self.threaded else {}))


_SPENT = Odd()


class Summed:
    """The pool of a scene, with what it has told in pop_stats added to its statistics."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __repr__(self) -> str:
        return repr(self._scene.pool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scene.pool, name)

    def get_stats(self) -> dict[str, int]:
        """Add them up. What is no count is as it is now."""
        stats: dict[str, int] = self._scene.pool.get_stats()
        for pool, popped in self._scene.popped:
            for name, number in popped.items():
                if pool is self._scene.pool and name.startswith(("closed_", "connections_")):
                    stats[name] += number
        return stats


@contextmanager
def scene_of(pool_class: Any, more: dict[str, Any] | None = None) -> Iterator[Scene]:
    """Give a scene; take it down at the end."""
    with ExitStack() as stack:
        scene = Scene(pool_class, stack, more)
        Probe.left_token()
        hook, sys.unraisablehook = sys.unraisablehook, scene.unraisable.append
        stack.callback(setattr, sys, "unraisablehook", hook)
        yield scene
        scene.probe.disarm()
        scene.server.at_end = None
        if scene.pool is not None and not scene.pool.closed:
            scene.pool.closed = True
