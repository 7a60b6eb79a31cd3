"""How much measuring is done: enough to trust, or enough to see that it works."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Say how often and how long each thing is measured."""

    pairs: int  # of getconn and putconn in one timing
    pair_rounds: int
    crowd_seconds: float  # that a crowd of threads is watched for
    crowd_rounds: int
    loans: int  # after which memory is looked at again


FULL = Effort(pairs=2_000, pair_rounds=750, crowd_seconds=0.8, crowd_rounds=12, loans=1_000_000)
QUICK = Effort(pairs=2_000, pair_rounds=60, crowd_seconds=0.5, crowd_rounds=3, loans=100_000)
