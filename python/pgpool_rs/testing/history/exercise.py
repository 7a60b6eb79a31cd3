"""Threads that use a pool at random, so that there is a history to check."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from pgpool_rs.testing.history.recorder import Recorder

# How many of the loans are asked for under a key, if there are keys; and how many connections are closed on return.
KEYED = 0.5
CLOSED = 0.1


def exercise(
    recorder: Recorder,
    *,
    threads: int = 8,
    operations: int = 250,
    seed: int = 0,
    keys: Sequence[Hashable] = (),
    hold: float = 0.0,
    getconn: Mapping[str, Any] | None = None,
    capacity: int = 0,
) -> None:
    """Let threads borrow and return connections at random, each at most one at a time, and wait for them.

    What a call raises stands in the history and is not raised here, unless it is no `Exception`: that ends its thread.

    :param threads: how many threads there are; they start together.
    :param operations: how many calls each makes, loans and returns together.
    :param seed: another one is another run; how the threads take turns is up to the interpreter all the same.
    :param keys: what half of the loans are asked for under, if there are any.
    :param hold: how long a loan lasts at most, in seconds.
    :param getconn: what is passed to `getconn` besides, a timeout for instance.
    :param capacity: how many connections to borrow at once in the end, so that a slot that was lost shows.
    """
    start = threading.Barrier(threads)
    options = dict(getconn or {})

    def work(number: int) -> None:
        chance = random.Random(f"{seed} {number}")  # noqa: S311  (a test, no secret)
        start.wait()
        calls = 0
        while calls < operations:
            key = chance.choice(keys) if keys and chance.random() < KEYED else None
            conn = _borrow(recorder, key, options)
            time.sleep(chance.random() * hold)
            calls += 1 + _give_back(recorder, conn, close=chance.random() < CLOSED)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lent = [_borrow(recorder, None, options) for _ in range(capacity)]
    for conn in lent:
        _give_back(recorder, conn, close=False)


# What these two suppress is in the history.


def _borrow(recorder: Recorder, key: Hashable, options: Mapping[str, Any]) -> Any:
    with contextlib.suppress(Exception):
        return recorder.getconn(key, **options)
    return None


def _give_back(recorder: Recorder, conn: Any, *, close: bool) -> bool:
    if conn is None:
        return False
    with contextlib.suppress(Exception):
        recorder.putconn(conn, close=close)
    return True
