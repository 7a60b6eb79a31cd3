"""Decide how many places each pool may hold while others want some. Knows no file, no thread and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Seconds for which one pool has a place more than another, where the limit does not divide evenly.
TURN: Final = 1.0
# The same where there are more pools than places, so that a pool without a place does not wait for long.
SHORT_TURN: Final = 0.25


@dataclass(eq=False, slots=True)
class Party:
    """A pool of some process, as every process sees it."""

    pid: int
    pool: str
    limit: int
    holds: int
    wants: int
    mine: object = None  # what this process knows of a pool of its own
    minconn: int = 0
    share: int = 0

    def starves(self) -> bool:
        """Return whether others must make room for this pool."""
        return self.wants > 0 and self.holds < self.share


def divide(parties: list[Party], limit: int, now: float) -> None:
    """Set each pool's share.

    A pool that wants nothing and holds less than an equal part leaves the rest of its part to the others. What an equal
    division leaves over goes round.
    """
    rest, left, part, over = [party for party in parties if party.holds or party.wants], limit, limit, 0
    while rest:
        part, over = divmod(max(left, 0), len(rest))
        content = [party for party in rest if not party.wants and party.holds <= part]
        if not content:
            break
        left -= sum(party.holds for party in content)
        rest = [party for party in rest if party.wants or party.holds > part]
    turn = int(now / (TURN if part else SHORT_TURN))
    for party in parties:
        party.share = part
    for rank, party in enumerate(rest):
        party.share += (rank + turn * over) % len(rest) < over
