"""Publish the statistics of this process's pools once a second, for `python -m pgpool_rs top` and `exporter`.

Each process has a file of its own in the folder. The process writes a new one beside it, locks it and renames it, so a
reader sees either the old file or the new one. It holds the POSIX record lock as long as it lives: the kernel frees the
lock however the process ends, and a forked child does not inherit it. A pid would not do, since another process may
have it by now, and another container counts its own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import stat
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pgpool_rs import _log
from pgpool_rs._core import AbstractConnectionPool as _Pool
from pgpool_rs._core import if_free, speak
from pgpool_rs._histogram import Histogram
from pgpool_rs._pools import figures, pools
from pgpool_rs._threads import CANNOT_START, MOST_STARTS
from pgpool_rs._threads import start as start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

VARIABLE: Final = "PGPOOL_RS_PUBLISH"
INTERVAL: Final = 1.0
_SUFFIX: Final = ".pgpool_rs"

# All processes of a host have the same. It stays the real one where a test replaces the clocks of the module `time`.
clock: Callable[[], float] = time.monotonic


class _File:
    """What this process has published in one folder."""

    def __init__(self, folder: Path) -> None:
        # Processes of two containers may have one pid.
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._held: tuple[int, os.stat_result] | None = None

    def write(self, content: bytes) -> None:
        """Put this into the place of what there was."""
        new = self.path.with_suffix(".new")
        # In a folder that several users share, they may read it.
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with os.fdopen(file, "wb", closefd=False) as opened:
                opened.write(content)
            new.rename(self.path)
        except BaseException:
            os.close(file)
            raise
        self.close()
        self._held = file, os.fstat(file)

    def close(self) -> None:
        """Close it. A program that becomes a daemon may have closed it, and have another file of this number."""
        if self._held is not None:
            (file, seen), self._held = self._held, None
            with suppress(OSError):
                if os.path.samestat(os.fstat(file), seen):
                    os.close(file)

    def remove(self) -> None:
        """Have nothing published any more."""
        with suppress(OSError):
            self.path.unlink()
        self.close()


class _Publisher:
    """Publishes the pools of one process, in a thread. The child of a fork makes its own."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self.process = os.getpid()
        self.files = {folder: _File(folder) for folder in folders}
        self.thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._failed = False

    def start(self) -> None:
        """Start the thread, if there are pools and none runs."""
        # The next pool tries again.
        with suppress(*CANNOT_START):
            for _ in range(MOST_STARTS):
                done = self.thread is not None or not self.files or not pools()
                if done or not if_free(self._starting, self._begin):
                    break

    def _begin(self) -> None:
        if self.thread is None:
            thread = threading.Thread(target=self._run, name="pgpool_rs publishing", daemon=True)
            self.thread = thread
            try:
                start_thread(thread)
            except BaseException:
                self.thread = None
                raise

    def _run(self) -> None:
        for folder in list(self.files):
            with suppress(OSError):  # a program that becomes a daemon may close the descriptor of the listing
                remove_dead(folder)
        try:
            # A greenlet goes on in the child of a fork, where it must do nothing.
            while self.process == os.getpid() and self.files and pools():
                self.publish()
                time.sleep(INTERVAL)
        finally:
            if self.process == os.getpid():
                for file in list(self.files.values()):
                    file.remove()
                self.thread = None
        # A pool that was made until now has seen this thread.
        if self.process == os.getpid():
            self.start()

    def publish(self) -> None:
        """Publish what there is now. The first failure of several is logged."""
        content = json.dumps({"pid": self.process, "at": clock(), "pools": [_of(pool) for pool in pools()]}).encode()
        failure = None
        for file in list(self.files.values()):
            try:
                file.write(content)
            except OSError as error:
                failure = error
        if failure is not None and not self._failed:
            warn("cannot publish the statistics: %s", failure)
        self._failed = failure is not None


_publisher = _Publisher()


def start(folder: Path) -> None:
    """Publish the pools of this process in this folder from now on, as long as there are any."""
    publisher = _here()
    if folder not in publisher.files:
        publisher.files[folder] = _File(folder)
    publisher.start()


def pool_added(find_folder: Callable[[str | None], Path]) -> None:
    """Publish a new pool, if the process names a limit, or if PGPOOL_RS_PUBLISH is 1 or names a folder."""
    given = os.environ.get(VARIABLE, "0")
    if given in {"", "0"}:
        _here().start()
        return
    try:
        start(find_folder(None if given == "1" else given))
    except OSError as error:  # The pool works without.
        warn(f"{VARIABLE}: %s", error)


def _here() -> _Publisher:
    """Return this process's publisher. Not everything that forks runs the hooks of os.register_at_fork."""
    if _publisher.process != os.getpid():
        _in_child()
    return _publisher


def _in_child() -> None:
    global _publisher
    inherited, _publisher = _publisher, _Publisher(_publisher.files)
    for file in inherited.files.values():
        file.close()
    _publisher.start()


os.register_at_fork(after_in_child=_in_child)


def warn(text: str, error: OSError) -> None:
    """Log that something cannot be published."""
    child, said = "publishing", str(error)
    if _log.is_heard(child, logging.WARNING):
        speak(partial(_log.write, logging.WARNING, text, (said,), None, "publishing_failed", said, child))


def _of(pool: Any) -> dict[str, Any]:
    """Return what is published of a pool: no key, no source line, nothing else that may hold a secret."""
    histograms = _Pool.get_histograms(pool)
    stack: list[str] = []
    if pool.__dict__["_pgpool_options"].leak_after is not None and (loans := _Pool.loans(pool)):
        frames = max(loans, key=lambda loan: loan.age).stack or ()
        stack = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return {
        "name": _Pool._pgpool_name(pool),
        "stats": figures(pool),
        "histograms": {what: [times.buckets, times.sum] for what, times in histograms.items()},
        "stack": stack,
    }


@dataclass(frozen=True)
class PublishedPool:
    """A pool of another process, as that process has seen it last."""

    name: str
    stats: dict[str, int]
    histograms: dict[str, Histogram]
    stack: list[str]
    """What borrowed the oldest loan, the innermost call last. Recorded only with `leak_after`."""

    def get_stats(self) -> dict[str, int]:
        """Return its statistics."""
        return self.stats

    def get_histograms(self) -> dict[str, Histogram]:
        """Return its histograms."""
        return self.histograms


@dataclass(frozen=True)
class Process:
    """A living process, and its pools."""

    name: str
    pid: int
    at: float
    """When it has published this, by the clock of all processes."""
    pools: list[PublishedPool]

    @property
    def age(self) -> float:
        """How many seconds ago that was: more than two if the process is stopped, or too busy."""
        return max(clock() - self.at, 0.0)


def read(folder: Path) -> list[Process]:
    """Read what the other living processes have published in a folder, and remove what dead ones have left."""
    found = []
    for path in _published(folder):
        file = _open(path)
        if file is not None:
            # ValueError, AttributeError and so on: another version wrote it, or no pool at all.
            with os.fdopen(file, "rb") as opened, suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
                found.append(_process(path.stem, json.load(opened)))
    return sorted(found, key=lambda process: (process.pid, process.name))


def remove_dead(folder: Path) -> None:
    """Remove what dead processes have left."""
    for path in _published(folder):
        file = _open(path)
        if file is not None:
            os.close(file)


def _published(folder: Path) -> list[Path]:
    # The close of any descriptor of a file frees all locks that the process holds there.
    own = {file.path for file in _publisher.files.values()}
    return [path for path in folder.glob(f"*{_SUFFIX}") if path not in own]


def _open(path: Path) -> int | None:
    """Open the file of a living process. Remove that of a dead one."""
    while True:
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # it is gone, or another user's, or no file
            return None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return None
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the process lives
            return file
        with os.fdopen(file, "rb"), suppress(OSError):
            # Its process is dead, or has just put another file into its place.
            if os.path.samestat(os.fstat(file), path.stat()):
                path.unlink()
                path.with_suffix(".new").unlink(missing_ok=True)
                return None


def _process(name: str, data: Any) -> Process:
    found = [
        PublishedPool(
            "".join(letter if letter.isprintable() else "?" for letter in pool["name"]),
            {name: int(number) for name, number in pool["stats"].items()},
            {
                what: Histogram({float(bound): int(count) for bound, count in buckets.items()}, float(total))
                for what, (buckets, total) in pool["histograms"].items()
            },
            [str(line) for line in pool["stack"]],
        )
        for pool in data["pools"]
    ]
    return Process(name, int(data["pid"]), float(data["at"]), found)
