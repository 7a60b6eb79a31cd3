"""Faults with a PgBouncer before the server: it dies, or the server is restarted, in each of two modes."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, ClassVar, final

import psycopg2
from psycopg2 import OperationalError

from dev.load import Load
from dev.servers.pgbouncer import Mode, PgBouncer
from dev.servers.postgres import PATIENCE
from dev.trials.errors import BROKEN_OFF, CLOSED, LOST, REFUSED
from dev.trials.fault import Effort, Fault, Strike


class Bounced(Fault):
    """Owns a server and a PgBouncer before it. The sessions that are counted are PgBouncer's clients."""

    mode: ClassVar[Mode]
    explanations = (LOST, CLOSED, REFUSED, BROKEN_OFF)

    def __init__(self, stack: ExitStack, effort: Effort) -> None:
        super().__init__(stack, effort)
        self.bouncer = stack.enter_context(PgBouncer(self.server, self.mode))

    @property
    def address(self) -> dict[str, Any]:
        return self.bouncer.dsn_kwargs

    def sessions(self, name: str) -> int:
        """Count PgBouncer's clients of this application_name."""
        return sum(client["application_name"] == name for client in self.bouncer.show("CLIENTS"))

    def strike(self, load: Load, name: str) -> Strike:
        """Stop one of the two, start it again, and wait until a client gets an answer."""
        struck = super().strike(load, name)
        self.wait_for_an_answer()
        return replace(struck, returned=time.monotonic())

    def wait_for_an_answer(self) -> None:
        """Wait until a client without a pool gets an answer.

        PgBouncer tries its server again only after server_login_retry. Until then it accepts clients and then
        disconnects them, so that their first query fails.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                connection = psycopg2.connect(**self.bouncer.dsn_kwargs)
                with closing(connection), connection.cursor() as cursor:
                    cursor.execute("select 1")
                    return
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.005)


@final
class SessionBouncerKilled(Bounced):
    """PgBouncer is killed, and with it all links between its clients and the server."""

    title = "PgBouncer, session mode: PgBouncer killed (`SIGKILL`)"
    mode = "session"
    is_compared = False

    def begin(self) -> None:
        self.bouncer.kill()

    def end(self) -> None:
        self.bouncer.start()


@final
class SessionServerRestarted(Bounced):
    """The server restarts; PgBouncer disconnects every client that is linked to it, which are all."""

    title = "PgBouncer, session mode: PostgreSQL restarted behind it"
    mode = "session"
    is_compared = False

    def begin(self) -> None:
        self.server.stop()


@final
class TransactionBouncerRestarted(Bounced):
    """PgBouncer is stopped in good order, in the middle of transactions."""

    title = "PgBouncer, transaction mode: PgBouncer restarted (`SIGTERM`)"
    mode = "transaction"

    def begin(self) -> None:
        self.bouncer.stop()

    def end(self) -> None:
        self.bouncer.start()


@final
class TransactionServerRestarted(Bounced):
    """The server restarts; clients outside of transactions stay, and wait for it."""

    title = "PgBouncer, transaction mode: PostgreSQL restarted behind it"
    mode = "transaction"

    def begin(self) -> None:
        self.server.stop()
