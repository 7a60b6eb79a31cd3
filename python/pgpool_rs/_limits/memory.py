"""The places of one process's limit."""

from __future__ import annotations

import os
from itertools import count
from typing import final

from pgpool_rs._limits.shares import Party
from pgpool_rs._limits.table import FREED, WANTED, Member, State, Table


@final
class Memory(Table):
    """Places that no other process knows."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count()
        self._words = dict.fromkeys((WANTED, FREED), 0)

    def hints(self) -> bytes:
        return bytes(self.state().hints)

    def lock(self, place: int) -> bool:
        self.state().hints[place] = 1
        return True

    def unlock(self, place: int) -> None:
        self.state().hints[place] = 0

    def is_held(self, place: int) -> bool:  # noqa: ARG002  (no other process holds one)
        return False

    def join(self, state: State, member: Member) -> None:
        member.joined["record"] = 0
        state.naming = b"", member.limit.named

    def leave(self, member: Member) -> None:
        member.joined.clear()

    def write(self, member: Member) -> None:
        pass

    def parties(self, state: State) -> list[Party]:
        return [
            Party(
                os.getpid(),
                member.name,
                member.limit.named,
                len(member.places),
                member.wants,
                mine=member,
                minconn=member.minconn,
            )
            for member in tuple(state.members.values())
        ]

    def resize(self, state: State, limit: int) -> None:
        state.naming = b"", limit

    def named(self) -> bytes:
        return b""

    def heed(self, state: State) -> bool:  # noqa: ARG002  (no other process names one)
        return False

    def repair(self, state: State) -> None:
        pass

    def words(self) -> dict[int, int]:
        return dict(self._words)

    def bump(self, word: int) -> None:
        self._words[word] = next(self._numbers)
        self.rouse()

    def sleep(self, word: int, seen: int, seconds: float) -> None:
        parker = self.state().parker
        if parker is not None and self._words[word] == seen:
            parker.acquire(timeout=seconds)
