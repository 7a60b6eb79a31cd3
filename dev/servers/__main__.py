"""Run a PostgreSQL to try things on, until Ctrl-C: `make server`."""

import contextlib
import signal

from dev.servers.postgres import ThrowawayPostgres

with contextlib.suppress(KeyboardInterrupt), ThrowawayPostgres() as server:
    print(f"export DATABASE_URL='{server.dsn}'  # until Ctrl-C", flush=True)
    signal.pause()
