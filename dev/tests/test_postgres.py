"""The server that the other tests trust: it keeps what it should, and leaves nothing behind."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest

from dev.servers.postgres import PATIENCE, ThrowawayPostgres
from dev.servers.standby import ask, either_of, promote, wait_until_followed
from tests.lib.programs import ROOT


def has_ended(pid: int) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], PATIENCE)[0])
    finally:
        os.close(handle)


def test_its_port_and_committed_data_outlive_its_death_and_a_pause_changes_nothing(
    own_server: ThrowawayPostgres,
) -> None:
    ask(own_server, "create table kept as select 42 as answer")
    before = own_server.port, own_server.pid
    own_server.kill()
    own_server.start()
    assert (own_server.port == before[0], own_server.pid == before[1]) == (True, False)
    own_server.pause()
    with pytest.raises(psycopg2.OperationalError, match="timeout expired"):
        psycopg2.connect(own_server.dsn, connect_timeout=1)
    own_server.resume()
    assert ask(own_server, "select answer from kept") == 42
    ask(own_server, "drop table kept")


@pytest.mark.parametrize("leave", [ThrowawayPostgres.close, ThrowawayPostgres.kill], ids=["closed", "killed"])
def test_nothing_is_left_behind_even_while_paused(leave: Callable[[ThrowawayPostgres], object]) -> None:
    with ThrowawayPostgres() as server:
        folder, pid = server.folder, server.pid
        assert pid is not None
        # Its seventh line has the key and the id of the server's System V segment.
        segment = next(folder.rglob("postmaster.pid")).read_text().splitlines()[6].split()[1]
        server.pause()
        leave(server)
    assert not folder.exists()
    assert has_ended(pid)
    assert segment not in [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]


def test_the_server_stops_when_its_owner_is_killed() -> None:
    program = """if True:
        import sys
        from dev.servers.postgres import ThrowawayPostgres
        with ThrowawayPostgres() as server:
            server.pause()
            print(server.pid, server.folder, flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        owner.kill()
    assert has_ended(int(pid))
    # The one thing that a killed owner cannot do.
    shutil.rmtree(folder)


def test_a_standby_follows_its_primary_and_takes_over_when_that_is_dead() -> None:
    with ThrowawayPostgres() as primary, ThrowawayPostgres(standby_of=primary) as standby:
        ask(primary, "create table followed as select 42 as answer")
        wait_until_followed(primary, standby)
        assert ask(standby, "select answer from followed") == 42
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            ask(standby, "drop table followed")
        primary.kill()
        promote(standby)
        connection = psycopg2.connect(**either_of(primary, standby))
        assert connection.info.port == standby.port
        connection.close()
        ask(standby, "drop table followed")


def test_make_server_prints_an_address_that_a_shell_takes_and_ends_with_ctrl_c() -> None:
    with subprocess.Popen([sys.executable, "-m", "dev.servers"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        line = run.stdout.readline()
        dsn = subprocess.check_output(["sh", "-c", f'{line}printf %s "$DATABASE_URL"'], text=True)
        psycopg2.connect(dsn).close()
        run.send_signal(signal.SIGINT)
        assert run.wait(PATIENCE) == 0
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(dsn)
