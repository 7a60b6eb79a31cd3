"""How much measuring is done: enough to trust, or enough to see that it works."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Say how often and how long each thing is measured."""

    pairs: int  # of getconn and putconn in one timing
    pair_rounds: int
    option_rounds: int  # of the pair, with each option
    crowd_seconds: float  # that a crowd of threads is watched for
    crowd_rounds: int
    request_rounds: int  # of some requests over a network each
    loans: int  # after which memory is looked at again


FULL = Effort(
    pairs=2_000,
    pair_rounds=750,
    option_rounds=250,
    crowd_seconds=0.8,
    crowd_rounds=12,
    request_rounds=100,
    loans=1_000_000,
)
QUICK = Effort(
    pairs=2_000,
    pair_rounds=60,
    option_rounds=30,
    crowd_seconds=0.5,
    crowd_rounds=3,
    request_rounds=15,
    loans=100_000,
)
