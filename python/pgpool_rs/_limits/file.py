"""The places of a host's limit: a file of which each process locks the bytes that it holds, and the kernel frees them.

The locks are POSIX record locks. A fork does not inherit them. The end of a process frees them, and so does the close
of any descriptor of the file: a process opens the file once and never closes it. The bytes themselves are hints, which
the locks correct.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import struct
import threading
import time
import zlib
from array import array
from typing import TYPE_CHECKING, ClassVar, Final, final

from pgpool_rs._core import once
from pgpool_rs._limits.futex import ALL, Futex
from pgpool_rs._limits.say import say
from pgpool_rs._limits.shares import Party
from pgpool_rs._limits.table import CAPACITY, FREE, FREED, NAMED, WANTED, Member, State, Table

if TYPE_CHECKING:
    from pathlib import Path

# The file: a header, a byte for each place, a record for each pool.
_HEADER: Final = struct.Struct("=8sII8xII")  # magic, version, capacity, two words, stamp and limit of the last resize
_MAGIC, _VERSION = b"pgpoollm", 1
_RESIZED: Final = 24
_PLACES: Final = 4096
_RECORDS: Final = _PLACES + CAPACITY
_RECORD: Final = struct.Struct("=IIIHHII40s")  # pid, checksum of what follows, limit, holds, minconn, wants, beat, name
_COUNT: Final = 1024
_SIZE: Final = _RECORDS + _COUNT * _RECORD.size
_FLOCK: Final = struct.Struct("hhqqi")

_POLL: Final = 0.02  # seconds between two looks at a word, where no futex is known
_STALE: Final = 1000  # milliseconds after which a process that should have written does not run, and so wants nothing
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@final
@once
class LimitFile(Table):
    """A file that is open in this process, once and for ever."""

    _known: ClassVar[dict[tuple[int, int], LimitFile]] = {}

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__()
        self.path = path
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self._identity = found.st_dev, found.st_ino
        self._futex = Futex(descriptor)

    @classmethod
    def at(cls, path: Path) -> LimitFile:
        """Open the file, or make it. A new file gets its name once it is whole."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            descriptor = _made(path)
        else:
            if known := cls._known.get((found.st_dev, found.st_ino)):
                return known
            descriptor = os.open(path, _OPEN)
        found = os.fstat(descriptor)
        identity = found.st_dev, found.st_ino
        # Another thread may have opened it meanwhile. Its locks would go if this descriptor were closed.
        if identity not in cls._known:
            _check(path, descriptor, found)
        return cls._known.setdefault(identity, cls(path, descriptor))

    @property
    def fd(self) -> int:
        """The descriptor, checked: other code may have closed it, a daemon's for instance, and opened another file.

        Methods that are called after one that has checked use `_descriptor`.
        """
        try:
            found = os.fstat(self._descriptor)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            self._reopen()
        return self._descriptor

    def _reopen(self) -> None:
        descriptor = os.open(self.path, _OPEN)
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != self._identity:
            os.close(descriptor)
            raise OSError(
                errno.EBADF, "other code has closed the descriptor of a file that was replaced", str(self.path)
            )
        self._descriptor = descriptor
        state = self.state()
        for offset in (*map(_place, state.claimed), *map(_record, state.records)):
            _lock(descriptor, offset)

    def hints(self) -> bytes:
        # Where the file is too short, nothing may be taken before it is whole again.
        return os.pread(self.fd, CAPACITY, _PLACES).ljust(CAPACITY, b"\1")

    def lock(self, place: int) -> bool:
        # Another hint each time: a process that was stopped must not take this holder's death for an older one's.
        hint = os.urandom(1).replace(FREE, b"\1")
        return _lock(self._descriptor, _place(place)) and os.pwrite(self._descriptor, hint, _place(place)) > 0

    def unlock(self, place: int) -> None:
        os.pwrite(self.fd, b"\0", _place(place))
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _place(place))

    def is_held(self, place: int) -> bool:
        return _is_locked(self.fd, _place(place))

    def join(self, state: State, member: Member) -> None:
        self._follow(state)
        for index in range(_COUNT):
            mine = object()
            if state.records.setdefault(index, mine) is mine:
                if _lock(self.fd, _record(index)):
                    if member.joined.setdefault("record", index) == index:
                        break
                    # Another thread has joined for this pool. With a second record, others would count the pool twice.
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _record(index))
                    del state.records[index]
                    return
                del state.records[index]
        else:
            raise OSError(errno.ENOSPC, f"{_COUNT} pools share the limit already", str(self.path))
        self.write(member)
        self.bump(NAMED)
        self.heed(state)
        self.bump(WANTED)

    def leave(self, member: Member) -> None:
        index = member.joined.pop("record", None)
        if index is not None:
            os.pwrite(self.fd, bytes(_RECORD.size), _record(index))
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _record(index))
            self.state().records.pop(index, None)

    def write(self, member: Member) -> None:
        if member.record is not None:
            name = member.name.encode(errors="replace")[:40]
            values = member.limit.named, len(member.places), member.minconn, member.wants, _beat(), name
            check = zlib.crc32(struct.pack("=IHHII40s", *values))
            os.pwrite(self.fd, _RECORD.pack(os.getpid(), check, *values), _record(member.record))

    def parties(self, state: State) -> list[Party]:
        data = os.pread(self.fd, _SIZE - _RECORDS, _RECORDS)
        pids = array("I", data[: len(data) // _RECORD.size * _RECORD.size])[:: _RECORD.size // 4]
        own = {member.record: member for member in tuple(state.members.values())}
        parties, quiet, now = [], [], _beat()
        for index, pid in enumerate(pids):
            if not pid:
                continue
            record = data[index * _RECORD.size : (index + 1) * _RECORD.size]
            _, check, limit, holds, minconn, wants, beat, name = _RECORD.unpack(record)
            if check != zlib.crc32(record[8:]):
                continue
            if (now - beat) % 2**32 > _STALE and index not in own:
                wants = 0
            pool = name.rstrip(b"\0").decode(errors="replace")
            party = Party(pid, pool, limit, holds, wants, mine=own.get(index), minconn=minconn)
            if index not in own and not (holds or wants or minconn):
                quiet.append((party, index))
            elif index in own or _is_locked(self._descriptor, _record(index)):
                parties.append(party)
        state.pool_count = len(parties) + len(quiet)
        # A pool that holds nothing matters only if it names a lower limit. To ask whether each is alive takes long.
        lowest = min((party.limit for party in parties), default=CAPACITY + 1)
        return parties + [
            party for party, index in quiet if party.limit < lowest and _is_locked(self._descriptor, _record(index))
        ]

    def resize(self, state: State, limit: int) -> None:
        os.pwrite(self.fd, os.urandom(4) + struct.pack("=I", limit), _RESIZED)
        self.repair(state)
        self.bump(NAMED)
        self.bump(WANTED)
        self.bump(FREED)

    def named(self) -> bytes:
        return os.pread(self._descriptor, 4, NAMED)

    def heed(self, state: State) -> bool:
        if (word := self.named()) == state.naming[0]:
            return False
        self._follow(state)
        own = [member for member in tuple(state.members.values()) if member.record is not None]
        for member in own:
            self.write(member)
        limits = [*(member.limit.named for member in own), *(party.limit for party in self.parties(state))]
        state.naming = word, min(limits, default=state.limit)
        return True

    def resized(self) -> tuple[int, int]:
        """Read the stamp and the limit of the last resize."""
        data = os.pread(self.fd, 8, _RESIZED).ljust(8, b"\0")
        stamp, limit = struct.unpack("=II", data)
        return stamp, limit

    def _follow(self, state: State) -> None:
        """Name the limit of a resize."""
        if (resized := self.resized()) == (0, 0):  # there was none, or the file is damaged
            return
        state.resized = resized
        for member in tuple(state.members.values()):
            if member.limit.resized != resized:
                if 0 < resized[1] <= CAPACITY:
                    member.limit.named = resized[1]
                member.limit.resized = resized

    def repair(self, state: State) -> None:
        head = os.pread(self.fd, _HEADER.size, 0)
        damaged = os.fstat(self._descriptor).st_size != _SIZE
        if damaged or head[:16] != _header()[:16]:
            os.truncate(self._descriptor, _SIZE)
            os.pwrite(self._descriptor, _header(state.resized), 0)
            self._say(state, "limit_repaired", "was damaged, and has been restored")
        else:
            self._follow(state)
        hints = os.pread(self._descriptor, CAPACITY, _PLACES)
        for member in tuple(state.members.values()):
            for place in tuple(member.places):
                if hints[place : place + 1] == FREE:
                    os.pwrite(self._descriptor, b"\1", _place(place))
        if (now := time.monotonic()) - state.looked >= 1:
            state.looked = now
            self._look_for_name(state)

    def _look_for_name(self, state: State) -> None:
        try:
            found = self.path.lstat()
        except PermissionError:  # the process has become another user since, which may not look
            return
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            what = "was removed or replaced: this process keeps to the old file, and new ones do not"
            self._say(state, "limit_replaced", what)

    def _say(self, state: State, event: str, what: str) -> None:
        if event not in state.said:
            state.said.add(event)
            say(logging.WARNING, "the file %s " + what, event, str(self.path))

    def words(self) -> dict[int, int]:
        wanted, freed = struct.unpack("=II", os.pread(self.fd, 8, WANTED).ljust(8, b"\0"))
        return {WANTED: wanted, FREED: freed}

    def bump(self, word: int) -> None:
        # At random, since two processes that add one at once would add one in all.
        os.pwrite(self.fd, os.urandom(4), word)
        # The others look at the next poll: too many would find that one has taken it.
        self._futex.wake(word, 8 if word == FREED else ALL)

    def sleep(self, word: int, seen: int, seconds: float) -> None:
        # gevent's and eventlet's threads must yield to each other.
        if type(threading.Lock()).__module__ == "_thread" and self._futex.wait(word, seen, seconds):
            return
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self.words()[word] == seen:
            time.sleep(min(left, _POLL))


def _place(place: int) -> int:
    return _PLACES + place


def _record(index: int) -> int:
    return _RECORDS + index * _RECORD.size


def _beat() -> int:
    return time.monotonic_ns() // 1_000_000 % 2**32


def _lock(descriptor: int, offset: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_locked(descriptor: int, offset: int) -> bool:
    """Return whether another process has locked the byte."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)


def _header(resized: tuple[int, int] = (0, 0)) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, CAPACITY, *resized)


def _made(path: Path) -> int:
    """Make the file, as open to others as its folder, and return a descriptor."""
    folder = path.parent.stat()
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(part, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if folder.st_gid != os.fstat(descriptor).st_gid and folder.st_mode & 0o020:
            os.fchown(descriptor, -1, folder.st_gid)
        os.fchmod(descriptor, 0o600 | folder.st_mode & 0o066)
        os.posix_fallocate(descriptor, 0, _SIZE)
        os.pwrite(descriptor, _header(), 0)
        os.fsync(descriptor)
        os.link(part, path)
    except FileExistsError:  # another process was first
        os.close(descriptor)
        return os.open(path, _OPEN)
    except OSError as error:
        os.close(descriptor)
        raise type(error)(error.errno, f"cannot make the limit's file: {error.strerror}", str(path)) from None
    finally:
        part.unlink()
    return descriptor


def _check(path: Path, descriptor: int, found: os.stat_result) -> None:
    whole = stat.S_ISREG(found.st_mode) and found.st_size == _SIZE
    if not whole or os.pread(descriptor, 16, 0) != _header()[:16]:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no limit's file of this version: remove it once no process uses it", str(path))
