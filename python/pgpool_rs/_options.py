"""A pool's options: their defaults, their checks, and the form in which Rust reads them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pgpool_rs import _listener, _validate
from pgpool_rs._core import check_socket
from pgpool_rs.health import discard_all

if TYPE_CHECKING:
    from collections.abc import Callable

# Numbers the pools that have no name.
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of one pool, checked. Times are in seconds; infinity stands for None."""

    name: str
    timeout: float
    max_waiting: int
    # The repr of a callable may show a password: functools.partial shows all of its arguments.
    check: Callable[[Any], object] | None = field(repr=False)
    check_after: float
    max_idle: float
    max_lifetime: float
    configure: Callable[[Any], object] | None = field(repr=False)
    reset: Callable[[Any], object] | None = field(repr=False)
    connect: Callable[..., Any] | None = field(repr=False)
    open_workers: int
    grow: str
    reconnect_backoff: tuple[float, float] | None
    order: str
    reserve: int
    background: bool
    leak_after: float
    reclaim: bool
    close_returns: bool
    open: bool
    listener: Any = field(repr=False)
    limit: Any

    @property
    def listens(self) -> _listener.Methods:
        """Return the methods of the listener, in the order in which Rust numbers them."""
        return _listener.methods(self.listener)

    @property
    def has_housekeeper(self) -> bool:
        """Return whether the housekeeper has work on this pool."""
        return (
            self.background
            or self.max_idle > 0
            or min(self.max_lifetime, self.leak_after) < math.inf
            or (self.check is not None and self.check is not check_socket)
        )

    @classmethod
    def checked(
        cls,
        *,
        timeout: object = 0,
        max_waiting: object = 0,
        name: object = None,
        check: object = check_socket,
        check_after: object = 0.5,
        max_idle: object = 0,
        max_lifetime: object = None,
        configure: object = None,
        reset: object = None,
        connect: object = None,
        open_workers: object = 1,
        grow: object = "caller",
        reconnect_backoff: object = None,
        order: object = "lifo",
        reserve: object = 0,
        background: object = False,
        leak_after: object = None,
        reclaim: object = False,
        close_returns: object = False,
        open: object = True,  # noqa: A002  (psycopg_pool's name)
        listener: object = None,
        limit: object = None,
    ) -> Options:
        """Check the options of a pool's constructor.

        Each error names the option, and shows the value unless that may be a connection string.

        :raises TypeError: a value has a wrong type.
        :raises ValueError: a value is out of range.
        """
        return cls(
            timeout=_validate.seconds("timeout", timeout, none="to wait for ever"),
            max_waiting=_validate.count("max_waiting", max_waiting, least=0, note=" (no bound)"),
            check=_validate.callback("check", check),
            check_after=_validate.seconds("check_after", check_after),
            max_idle=_validate.seconds("max_idle", max_idle, none="to keep idle connections for ever"),
            max_lifetime=_validate.seconds("max_lifetime", max_lifetime, none="for no limit", zero=False),
            configure=_validate.callback("configure", configure),
            reset=_validate.callback("reset", reset, discard=discard_all),
            # A caller may pass the connection string here by mistake: the error must not show the password.
            connect=_validate.callback("connect", connect, secret=True),
            open_workers=_validate.count("open_workers", open_workers, least=1),
            grow=_validate.word("grow", grow, "caller", "workers"),
            reconnect_backoff=_validate.pauses("reconnect_backoff", reconnect_backoff),
            order=_validate.word("order", order, "lifo", "fifo"),
            reserve=_validate.count("reserve", reserve, least=0),
            background=_validate.flag("background", background),
            leak_after=_validate.seconds("leak_after", leak_after, none="to watch no loan", zero=False),
            reclaim=_validate.flag("reclaim", reclaim),
            close_returns=_validate.flag("close_returns", close_returns),
            open=_validate.flag("open", open),
            listener=_validate.listener("listener", listener),
            limit=_validate.limit("limit", limit),
            # Last, so that refused options take no number.
            name=f"pool-{next(_numbers)}" if name is None else _validate.text("name", name),
        )
