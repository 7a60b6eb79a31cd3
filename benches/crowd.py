"""A crowd of threads, each borrowing and giving back as fast as it can."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Loan = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """Tell what a crowd got done."""

    rate: float  # loans a second, all threads together
    spread: float  # the busiest thread's loans over the idlest's


def run(loans: Sequence[Loan], seconds: float) -> Outcome:
    """Repeat each of `loans` in a thread of its own, and count those that ended within `seconds`."""
    counts = [0] * len(loans)
    end = 0.0

    def begin() -> None:
        nonlocal end
        end = time.perf_counter() + seconds

    # The last thread to arrive starts the clock, so that starting 64 threads is not measured.
    gate = threading.Barrier(len(loans), action=begin)

    def work(index: int, loan: Loan) -> None:
        count = 0
        gate.wait()
        loan()
        while time.perf_counter() < end:
            count += 1
            loan()
        counts[index] = count

    threads = [threading.Thread(target=work, args=item) for item in enumerate(loans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Outcome(sum(counts) / seconds, max(counts) / max(1, min(counts)))


def rates(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, list[float]]:
    """Return each side's rates, round by round."""
    return {name: [outcome.rate for outcome in each] for name, each in outcomes.items()}
