"""Run a PgBouncer before a server, and leave nothing of it behind.

    with ThrowawayPostgres() as server, PgBouncer(server, "transaction") as bouncer:
        connection = psycopg2.connect(**bouncer.dsn_kwargs)

Where the program is missing, `python -m dev.servers.pgbouncer install`, or `install()`, unpacks Debian's packages into
a folder of .venv, which starts no service and adds no account.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import psycopg2

from dev.servers import debian
from dev.servers.postgres import (
    PATIENCE,
    PostgresError,
    ThrowawayPostgres,
    account_to_run_as,
    is_open_to_others,
    temporary_parent,
)
from dev.sockets import free_port

BINARY_VARIABLE = "PGPOOL_PGBOUNCER"
DEBIAN_PLACE = Path("/usr/sbin/pgbouncer")
UNPACKED = Path(__file__).resolve().parents[2] / ".venv" / "pgbouncer"
"""Where install() unpacks to. `make clean` removes it."""
LIBRARIES = ["libc-ares2", "libevent-2.1-7"]
"""What it needs beside what any Debian 12 has, for a machine whose apt has no lists to look it up in."""
HOST = "127.0.0.1"
SETTINGS = {
    "auth_type": "any",  # On loopback only, and everybody is let in as postgres.
    "max_client_conn": "400",
    "default_pool_size": "50",
    # By default it tries a server that has failed only every 15 seconds.
    "server_login_retry": "0.2",
}

Mode = Literal["session", "transaction"]


@final
class PgBouncer:
    """Owns one PgBouncer and its folder. It listens on loopback only, as the account that the server runs as.

    `settings` are names and values of pgbouncer.ini's [pgbouncer]. Start it in the main thread where you can: the
    kernel then stops it even if this process is killed.
    """

    def __init__(self, server: ThrowawayPostgres, mode: Mode, settings: Mapping[str, str] | None = None) -> None:
        self._server = server
        self._settings = {**SETTINGS, "pool_mode": mode, **(settings or {})}
        self._folder: Path | None = None
        self._program = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        """The TCP port on 127.0.0.1, chosen at the first start and kept over a restart."""

    def __enter__(self) -> PgBouncer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it and remove its folder."""
        self.close()

    @property
    def pid(self) -> int | None:
        """Give its process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def dsn_kwargs(self) -> dict[str, Any]:
        """Give what psycopg2.connect(**dsn_kwargs) takes."""
        return {**self._server.dsn_kwargs, "host": HOST, "port": self.port}

    def start(self) -> None:
        """Start it, unless it runs, and return when it takes connections."""
        if self.pid is not None:
            return
        try:
            if self._folder is None:
                self._make_folder()
            self._run()
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Stop it in good order: its clients' connections end with it, and the server learns it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as in a crash: its clients and the server learn it from the kernel alone."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it and remove its folder; do nothing the second time."""
        try:
            self._end(signal.SIGKILL)
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder)
                self._folder = None

    def show(self, what: str) -> list[dict[str, Any]]:
        """Give what its console answers to SHOW, such as SHOW CLIENTS, as a dict for each row."""
        console = psycopg2.connect(**{**self.dsn_kwargs, "dbname": "pgbouncer"})
        try:
            console.autocommit = True  # It knows no BEGIN.
            with console.cursor() as cursor:
                cursor.execute(f"SHOW {what}")
                assert cursor.description is not None
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor]
        finally:
            console.close()

    def _make_folder(self) -> None:
        account = account_to_run_as()
        program = find_pgbouncer()
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer_", dir=temporary_parent(account)))
        if account is not None and not is_open_to_others(program):
            copied = self._folder / "program"
            root = UNPACKED if program.is_relative_to(UNPACKED) else program.parent
            shutil.copytree(root, copied, symlinks=True)
            program = copied / program.relative_to(root)
        self._program = program
        self.port = free_port()
        address = self._server.dsn_kwargs
        database = f"host={address['host']} port={address['port']} dbname={address['dbname']} user={address['user']}"
        settings = {"listen_addr": HOST, "listen_port": str(self.port), "unix_socket_dir": "", **self._settings}
        lines = ["[databases]", f"{address['dbname']} = {database}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        (self._folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        (self._folder / "log").touch()
        if account is not None:
            for place in (self._folder, *self._folder.rglob("*")):
                os.chown(place, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def _run(self) -> None:
        assert self._folder is not None
        command = [str(self._program), str(self._folder / "pgbouncer.ini")]
        setpriv = shutil.which("setpriv")
        # The signal comes when the thread that started the process ends, so only the main one will do.
        if setpriv is not None and threading.current_thread() is threading.main_thread():
            command = [setpriv, "--pdeathsig", "KILL", *command]
        account = account_to_run_as()  # It refuses root, as PostgreSQL does.
        identity: dict[str, Any] = {}
        if account is not None:
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env={"PATH": os.defpath, "LC_ALL": "C", **_libraries(self._program)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # A terminal's Ctrl-C is for us.
                **identity,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._listens():
            try:
                self._process.wait(0.005)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
            raise PostgresError(f"PgBouncer did not start\n{(self._folder / 'log').read_text()[-2000:]}")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)  # It does nothing to one that has ended.
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise PostgresError(f"PgBouncer still runs after {PATIENCE:g} seconds") from None
        self._process = None


def find_pgbouncer() -> Path:
    """Find the program: by the environment variable, on PATH, where Debian has it, or where install() put it.

    Raises PostgresError that lists the places looked at.
    """
    chosen = os.environ.get(BINARY_VARIABLE)
    on_path = shutil.which("pgbouncer")
    places = [Path(chosen)] if chosen else [*([Path(on_path)] if on_path else []), DEBIAN_PLACE, _unpacked_program()]
    for place in places:
        if os.access(place, os.X_OK):
            return place
    raise PostgresError(f"no pgbouncer was found: looked at {BINARY_VARIABLE}, PATH and {places}")


def install() -> Path:
    """Return where PgBouncer is; where it is nowhere, download Debian's packages and unpack them.

    Raises PostgresError, which says what to do, if this is no Debian or its packages cannot be had.
    """
    try:
        return find_pgbouncer()
    except PostgresError:
        try:
            debian.unpack(["pgbouncer", *_missing_libraries()], UNPACKED)
        except debian.UnavailableError as error:
            raise PostgresError(
                f"PgBouncer cannot be fetched: {error}\n"
                f"Install it by your system's means, and put it on PATH or name it in {BINARY_VARIABLE}"
            ) from error
        return find_pgbouncer()


def _missing_libraries() -> list[str]:
    """List the libraries' packages that PgBouncer depends on and that are not installed."""
    if shutil.which("apt-cache") is None:
        return []
    answer = _call("apt-cache", "depends", "pgbouncer").stdout
    depends = [line.split()[1] for line in answer.splitlines() if line.strip().startswith("Depends:")]
    libraries = [package for package in depends if package.startswith("lib")] or LIBRARIES
    return [package for package in libraries if _call("dpkg", "--status", package).returncode != 0]


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)


def _unpacked_program() -> Path:
    return UNPACKED / "usr" / "sbin" / "pgbouncer"


def _libraries(program: Path) -> dict[str, str]:
    """Say where the libraries are that were unpacked beside the program, if any."""
    folders = [str(place) for place in program.parent.parent.glob("lib/*-linux-*") if program.parent.name == "sbin"]
    return {"LD_LIBRARY_PATH": ":".join(folders)} if folders and program != DEBIAN_PLACE else {}


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python -m dev.servers.pgbouncer install")
    print(install())
