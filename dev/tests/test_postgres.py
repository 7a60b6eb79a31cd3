"""The server that the other tests trust: it starts anywhere, keeps what it should, and leaves nothing behind."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from dev.servers import postgres as throwaway_postgres
from dev.servers.postgres import BINARIES_VARIABLE, PATIENCE, PostgresError, ThrowawayPostgres, find_binaries

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayPostgres]:
    """Give a running server that tests may stop and kill, as long as it runs again when they end."""
    with ThrowawayPostgres() as server:
        yield server


def ask(dsn: str, statement: str) -> object:
    """Run one statement on a connection of its own, commit, and give the first column of the first row, if any."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


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


def start_after_a_death(server: ThrowawayPostgres) -> None:
    """Let the server die without its owner's knowledge, and start it again."""
    assert server.pid is not None
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)
    server.start()


def is_halted(pid: int) -> bool:
    """Tell whether a process has been stopped by a signal and not gone on since."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def segments() -> set[str]:
    """Give the ids of the System V segments in the kernel."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def test_it_takes_connections_over_tcp_and_over_its_socket(server: ThrowawayPostgres) -> None:
    assert ask(server.dsn, "select 1") == 1
    assert ask(server.socket_dsn, "select 1") == 1
    assert psycopg2.connect(**server.dsn_kwargs).info.host == "127.0.0.1"


def test_it_has_room_for_two_hundred_connections_unless_told_otherwise(server: ThrowawayPostgres) -> None:
    assert ask(server.dsn, "show max_connections") == "200"


@pytest.mark.parametrize(
    "restart",
    [
        ThrowawayPostgres.restart,
        lambda server: server.restart("immediate"),
        lambda server: (server.kill(), server.start()),
    ],
    ids=["fast", "immediate", "killed"],
)
def test_its_port_and_committed_data_outlive_a_restart(
    server: ThrowawayPostgres, restart: Callable[[ThrowawayPostgres], object]
) -> None:
    port, pid = server.port, server.pid
    ask(server.dsn, "drop table if exists kept; create table kept as select 42 as answer")
    # Even with a client still there.
    client = psycopg2.connect(server.dsn)
    restart(server)
    assert server.port == port
    assert server.pid != pid
    assert ask(server.dsn, "select answer from kept") == 42
    client.close()


def test_it_starts_again_after_dying_by_itself(server: ThrowawayPostgres) -> None:
    start_after_a_death(server)
    assert ask(server.dsn, "select 1") == 1


def test_a_paused_server_answers_nobody_and_goes_on_where_it_was(server: ThrowawayPostgres) -> None:
    client = psycopg2.connect(server.dsn)
    server.pause()
    server.pause()
    assert server.pid is not None
    assert is_halted(server.pid)
    assert is_halted(client.info.backend_pid)
    # The kernel takes the connection and nobody lets the client in.
    with pytest.raises(psycopg2.OperationalError, match="timeout expired"):
        psycopg2.connect(server.dsn, connect_timeout=1)
    with socket.fromfd(client.fileno(), socket.AF_INET, socket.SOCK_STREAM) as wire:
        wire.send(b"Q\0\0\0\x0dselect 1\0")
        assert not select.select([wire], [], [], 0.1)[0]
        server.resume()
        server.resume()
        assert select.select([wire], [], [], PATIENCE)[0]
    client.close()
    assert ask(server.dsn, "select 1") == 1


@pytest.mark.parametrize(
    "restart",
    [
        ThrowawayPostgres.restart,
        lambda server: server.restart("immediate"),
        lambda server: (server.kill(), server.start()),
        start_after_a_death,
    ],
    ids=["fast", "immediate", "killed", "dead"],
)
def test_a_paused_server_can_be_restarted(
    server: ThrowawayPostgres, restart: Callable[[ThrowawayPostgres], object]
) -> None:
    client = psycopg2.connect(server.dsn)
    server.pause()
    restart(server)
    assert ask(server.dsn, "select 1") == 1
    client.close()


def test_a_server_that_does_not_run_cannot_be_paused(server: ThrowawayPostgres) -> None:
    server.stop()
    with pytest.raises(PostgresError, match="cannot be paused"):
        server.pause()
    server.resume()
    server.start()


def test_tls_encrypts_and_proves_who_is_there(server: ThrowawayPostgres) -> None:
    with ThrowawayPostgres(tls=True) as encrypted:
        for address in (encrypted.dsn_kwargs, psycopg2.extensions.parse_dsn(encrypted.dsn)):
            connection = psycopg2.connect(**address)
            assert connection.info.ssl_in_use
            connection.close()
        assert ask(encrypted.dsn, "select ssl from pg_stat_ssl where pid = pg_backend_pid()") is True
        encrypted.restart()
        assert ask(encrypted.dsn, "select 1") == 1
        encrypted.close()
        encrypted.start()
        assert ask(encrypted.dsn, "select 1") == 1
        assert ask(encrypted.socket_dsn, "select 1") == 1
        with ThrowawayPostgres(tls=True) as other, pytest.raises(psycopg2.OperationalError, match="verify failed"):
            psycopg2.connect(other.dsn, sslrootcert=encrypted.dsn_kwargs["sslrootcert"])
    assert not psycopg2.connect(server.dsn).info.ssl_in_use


def test_a_second_start_changes_nothing(server: ThrowawayPostgres) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


@pytest.mark.parametrize(
    "leave",
    [
        ThrowawayPostgres.close,
        ThrowawayPostgres.kill,
        lambda server: (server.pause(), server.close()),
        lambda server: (server.pause(), server.kill()),
    ],
    ids=["closed", "killed", "closed while paused", "killed while paused"],
)
def test_nothing_is_left_behind(leave: Callable[[ThrowawayPostgres], object]) -> None:
    with ThrowawayPostgres() as server:
        folder, pid = server.folder, server.pid
        assert pid is not None
        # Its seventh line has the key and the id of the server's System V segment.
        segment = next(folder.rglob("postmaster.pid")).read_text().splitlines()[6].split()[1]
        assert segment in segments()
        leave(server)
    assert not folder.exists()
    assert has_ended(pid)
    assert segment not in segments()
    server.close()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing_behind() -> None:
    server = ThrowawayPostgres(settings={"shared_buffers": "nonsense"})
    with pytest.raises(PostgresError, match=r'invalid value for parameter "shared_buffers"'):
        server.start()
    with pytest.raises(PostgresError, match="no folder"):
        _ = server.folder


def test_binaries_that_are_named_but_missing_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(BINARIES_VARIABLE, str(tmp_path))
    with pytest.raises(PostgresError, match=f"looked at {BINARIES_VARIABLE}={tmp_path}"):
        find_binaries()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_without_any_binaries_the_error_lists_the_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, tls: bool
) -> None:
    monkeypatch.delenv(BINARIES_VARIABLE, raising=False)
    monkeypatch.setattr(throwaway_postgres, "TLS_PACKAGES" if tls else "PACKAGES", ("no_such_package",))
    monkeypatch.setattr(throwaway_postgres, "DEBIAN_FOLDER", tmp_path)
    with pytest.raises(PostgresError, match=f"no_such_package.*{tmp_path}"):
        find_binaries(tls=tls)


def test_binaries_in_a_folder_closed_to_others_are_usable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = find_binaries().parent.parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():
            shutil.copytree(source, closed / source.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    monkeypatch.setenv(BINARIES_VARIABLE, str(closed / package.name / "pginstall" / "bin"))
    with ThrowawayPostgres() as server:
        assert ask(server.dsn, "select 1") == 1


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_the_server_stops_when_its_owner_is_killed(*, paused: bool) -> None:
    program = f"""if True:
        import sys
        from dev.servers.postgres import ThrowawayPostgres
        with ThrowawayPostgres() as server:
            if {paused}:
                server.pause()
            print(server.pid, server.folder, flush=True)
            sys.stdin.read()
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        owner.kill()
    assert has_ended(int(pid))
    # The one thing that a killed owner cannot do.
    shutil.rmtree(folder)
