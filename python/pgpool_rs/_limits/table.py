"""Hold places of a limit, without a lock: an interrupt, a fork or a collection may come between any two lines.

A thread claims a place by `dict.setdefault`, which is one step, before it locks the place against other processes.
"""

from __future__ import annotations

import math
import os
import weakref
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Protocol

from pgpool_rs._core import once
from pgpool_rs._session import leave

if TYPE_CHECKING:
    import threading

    from pgpool_rs._limits.shares import Party

CAPACITY: Final = 4096  # places, and so the highest limit
FREE: Final = b"\0"
_ALL_FREE: Final = bytes(CAPACITY)
WANTED: Final = 16  # the word that changes when a pool begins to want a place, and when the limit changes
FREED: Final = 20  # the word that changes when a place is free again
OWN: Final = -1  # no word: the watcher hears only its own process
NAMED: Final = 32  # the word that changes when a process names a limit


class Named(Protocol):
    """What names a limit."""

    named: int
    resized: tuple[int, int]  # the last resize that it has followed, also where a child has it from its parent


class Member:
    """A pool of this process."""

    def __init__(self, pool: Any, limit: Named) -> None:
        self.pool = weakref.ref(pool)
        self.name = str(getattr(pool, "name", "pool"))
        self.limit = limit
        self.places: list[int] = []
        self.joined: dict[str, int] = {}  # the record, by one step, since several threads may come first
        self.credit = 0  # places that a call gave back before it failed
        self.wants = 0
        self.minconn = 0
        self.wanting = False  # its watcher knows that it wants
        self.cap: int | None = None  # how many places it may hold while other pools starve
        self.leaves = 0  # how many free places it leaves to them once it holds `cap`
        self.pressed: int | None = None
        self.wanted_at = -math.inf
        self.quiet_since = -math.inf  # when it last wanted, or closed idle connections for others

    @property
    def record(self) -> int | None:
        """Where other processes read of it."""
        return self.joined.get("record")


@dataclass(eq=False, slots=True)
class State:
    """What one process holds. The child of a fork has one of its own."""

    naming: tuple[bytes, int] = b"", CAPACITY  # the word NAMED, and the limit that held then: the lowest
    claimed: dict[int, object] = field(default_factory=dict)
    records: dict[int, object] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)  # by the id of the pool, which need not be hashable
    left: list[Member] = field(default_factory=list)  # members whose pools have died
    threads: dict[str, threading.Thread] = field(default_factory=dict)
    parker: threading.Lock | None = None
    resized: tuple[int, int] = 0, 0  # the last resize that this process has read of
    # Places of killed processes: the hint that each left, and when it was first seen without a lock.
    dead: dict[int, tuple[int, float]] = field(default_factory=dict)
    orphans: dict[int, tuple[object, float]] = field(default_factory=dict)
    reaped: float = -math.inf
    busy: float = -math.inf
    looked: float = -math.inf
    pool_count: int = 0  # pools of all processes, those that hold nothing and may be dead among them
    resting: float = -math.inf  # until then the watcher serves its own pools and looks at no other
    said: set[str] = field(default_factory=set)
    hints: bytearray = field(default_factory=lambda: bytearray(CAPACITY))  # used by `SharedLimit` alone

    @property
    def limit(self) -> int:
        """The limit that holds."""
        return self.naming[1]


_tables: Final[weakref.WeakSet[Table]] = weakref.WeakSet()


@once
class Table(ABC):
    """The places of one limit."""

    def __init__(self) -> None:
        self._states: dict[int, State] = {}
        _tables.add(self)

    def state(self) -> State:
        """Return what this process holds. By its id, since uWSGI forks without the hooks of `os`."""
        process = os.getpid()
        state = self._states.get(process)
        if state is None:
            leave()
            state = self._states.setdefault(process, State())
        return state

    def attach(self, pool: Any, limit: Named) -> None:
        """Take in a new pool."""
        state = self.state()
        before, state.members[id(pool)] = state.members.get(id(pool)), Member(pool, limit)
        if before is not None:  # that of a dead pool with this id
            state.left.append(before)

    def member(self, pool: Any, limit: Named) -> Member:
        """Return the pool as a member. In the child of a fork it is a new one."""
        members = self.state().members
        return members.get(id(pool)) or members.setdefault(id(pool), Member(pool, limit))

    def take(self, member: Member) -> bool:
        """Take a place, if one is free and no other pool has more right to it."""
        state = self.state()
        if member.record is None:
            self.join(state, member)
        hints = self.hints()
        is_above = member.cap is not None and len(member.places) >= member.cap
        if is_above and hints.count(FREE, 0, state.limit) <= member.leaves:
            return False
        # A place above a limit that was lowered counts until its holder has moved or closed it.
        return hints.endswith(_ALL_FREE[state.limit :]) and self.claim(state, member, hints) is not None

    def claim(self, state: State, member: Member, hints: bytes) -> int | None:
        """Take the first place that is free, and return it."""
        limit = state.limit
        place = hints.find(FREE, 0, limit)
        while place >= 0:
            mine = object()
            try:
                if state.claimed.setdefault(place, mine) is mine:
                    if self.lock(place):
                        member.places.append(place)
                        self.write(member)
                        # A process that names a lower limit after this sees the place. One that did so before, or
                        # the thread that came first to this pool, may have made the limit known meanwhile.
                        self.heed(state)
                        if state.limit == limit or (place < state.limit and hints.endswith(_ALL_FREE[state.limit :])):
                            return place
                        self.drop(state, member, place)
                        return None
                    del state.claimed[place]
            except BaseException:
                with suppress(ValueError):
                    member.places.remove(place)
                if state.claimed.get(place) is mine:
                    self.free(state, place)
                raise
            place = hints.find(FREE, place + 1, limit)
        return None

    def drop(self, state: State, member: Member, place: int) -> None:
        """Give this place back. If a return has given it back meanwhile, give back the one that is left instead."""
        try:
            member.places.remove(place)
        except ValueError:
            try:
                place = member.places.pop()
            except IndexError:
                return
        self.write(member)
        self.free(state, place)

    def give(self, member: Member, count: int) -> None:
        """Give places back. A pool that calls again after an error gives back no more than it has said."""
        state = self.state()
        credit = min(count, member.credit)
        member.credit -= credit
        places: list[int] = []
        try:
            with suppress(IndexError):
                # One step, since an interrupt may come between two.
                places.extend(map(list.pop, repeat(member.places, count - credit)))
            self.write(member)  # before the places are free, so that nobody reads of more than there are
            for place in places:
                self.free(state, place)
            if places:
                self.bump(FREED)
        except BaseException:
            # The watcher frees what is left of them.
            member.credit += credit + len(places)
            raise

    def free(self, state: State, place: int) -> None:
        """Let go of a place, the claim last: another thread of this process must not lock it before the unlock."""
        self.unlock(place)
        state.claimed.pop(place, None)

    def rouse(self) -> None:
        """Wake this process's watcher if it sleeps on OWN."""
        parker = self.state().parker
        if parker is not None and parker.locked():
            with suppress(RuntimeError):  # another thread has just woken it
                parker.release()

    @abstractmethod
    def hints(self) -> bytes:
        """Read which places are taken."""

    @abstractmethod
    def lock(self, place: int) -> bool:
        """Lock a place that this process has claimed."""

    @abstractmethod
    def unlock(self, place: int) -> None:
        """Unlock a place."""

    @abstractmethod
    def is_held(self, place: int) -> bool:
        """Return whether another process, which is alive, holds a place."""

    @abstractmethod
    def join(self, state: State, member: Member) -> None:
        """Let all processes know of a pool."""

    @abstractmethod
    def leave(self, member: Member) -> None:
        """Forget a pool."""

    @abstractmethod
    def write(self, member: Member) -> None:
        """Tell all processes what a pool holds and wants."""

    @abstractmethod
    def parties(self, state: State) -> list[Party]:
        """Read of all pools of all living processes."""

    @abstractmethod
    def resize(self, state: State, limit: int) -> None:
        """Let all living processes name this limit."""

    @abstractmethod
    def named(self) -> bytes:
        """Read the word that changes when a process names a limit."""

    @abstractmethod
    def heed(self, state: State) -> bool:
        """Keep to what other processes have named by now, and return whether that is news."""

    @abstractmethod
    def repair(self, state: State) -> None:
        """Restore what others have damaged, and follow a resize."""

    @abstractmethod
    def words(self) -> dict[int, int]:
        """Read the words on which a watcher sleeps."""

    @abstractmethod
    def bump(self, word: int) -> None:
        """Change a word, and wake watchers that sleep on it: all, but only some where a place is free."""

    @abstractmethod
    def sleep(self, word: int, seen: int, seconds: float) -> None:
        """Sleep until a word is no longer as it was seen."""


def _forget() -> None:
    for table in _tables:
        table._states.clear()


os.register_at_fork(after_in_child=_forget)
