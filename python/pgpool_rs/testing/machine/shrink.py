"""Shrinks a program that has failed: leaves out what is not needed, and takes the plainer of two steps.

hypothesis shrinks the numbers from which it chose the steps, in which a step that is left out changes what all later
ones mean. Here the steps themselves are left out, which takes some tens of runs.
"""

from __future__ import annotations

__tracebackhide__ = True

from typing import TYPE_CHECKING, Any

from pgpool_rs.testing.machine.invariant import BrokenInvariant
from pgpool_rs.testing.machine.program import written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs.testing.machine.machine import PoolMachine

    Step = tuple[str, dict[str, Any]]

# Steps that do more than others do, and what to try in their place.
_PLAINER = {
    "start_to_borrow": "borrow",
    "wait_for_a_connection": "borrow",
    "borrow_as_the_connect_fails": "borrow",
    "find_it_broken": "close_the_connection",
    "start_to_give_back": "give_back",
    "start_to_give_back_to_be_closed": "give_back_to_be_closed",
    "start_closeall": "closeall",
    "start_to_leave_the_block": "leave_the_block",
    "leave_the_block_as_the_commit_fails": "leave_the_block",
    "leave_behind": "fail_a_statement",
}

# What the plainer one is given besides.
_GIVEN: dict[str, dict[str, Any]] = {"closeall": {"close_fails": None}, "leave_the_block": {"raises": False}}


def shrink(machine: type[PoolMachine], failure: BaseException) -> BaseException:
    """Return the failure of the shortest program that was found, and that program with it.

    What is shorter may break another invariant: one mistake mostly breaks several, and the shortest says most.
    """
    steps = list(machine.failed_steps or ())
    shortest = _run(machine, steps)
    if shortest is None or machine.replayed is None:
        # It does not fail each time: hypothesis shows what it has.
        return failure
    again = True
    while again:
        again = False
        for candidate in _shorter(steps):
            found = _run(machine, candidate)
            if found is not None:
                steps, shortest, again = candidate, found, True
                break
    error, lines = shortest
    error.program = written(*machine.replayed, lines)
    return error


def _shorter(steps: list[Step]) -> Iterator[list[Step]]:
    """Give programs that are shorter, or as long and plainer."""
    for size in (8, 4, 2, 1):
        for end in range(len(steps), size - 1, -(size // 2 or 1)):
            yield steps[: end - size] + steps[end:]
    for number, (name, given) in enumerate(steps):
        before, after = steps[:number], steps[number + 1 :]
        if name in _PLAINER:
            plainer = _PLAINER[name]
            kept = {key: value for key, value in given.items() if key not in ("error", "what")}
            yield [*before, (plainer, {**kept, **_GIVEN.get(plainer, {})}), *after]
        if given.get("key") is not None and name != "give_back_under_a_key":
            yield [*before, (name, {**given, "key": None}), *after]
        if given.get("error") == "KeyboardInterrupt":
            yield [*before, (name, {**given, "error": "OperationalError"}), *after]
    numbers = list(dict.fromkeys(given["borrower"] for _, given in steps if "borrower" in given))
    if numbers != sorted(numbers) or numbers != list(range(1, len(numbers) + 1)):
        new = {number: place for place, number in enumerate(numbers, 1)}
        yield [
            (name, {**given, "borrower": new[given["borrower"]]} if "borrower" in given else given)
            for name, given in steps
        ]


def _run(machine: type[PoolMachine], steps: list[Step]) -> tuple[BrokenInvariant, list[str]] | None:
    """Run a program; return how it fails, and its lines; or None if it does not, or cannot be run like this."""
    rules = {rule.function.__name__: rule for rule in machine.setup_state().rules}
    state = machine()
    lines: list[str] = []
    before: dict[str, str] = {}
    try:
        for name, given in steps:
            lines.append(f"machine.{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})")
            if not all(holds(state) for holds in rules[name].preconditions):
                raise LookupError(name)  # noqa: TRY301  cannot be run: ends like any other error
            rules[name].function(state, **given)
            now = {str(one): one.doing() for one in state.driver.model.borrowers}
            new = [f"{one} {doing}" for one, doing in now.items() if doing and doing != before.get(one)]
            lines[-1] += f"  # {', '.join(new)}" if new else ""
            before = now
    except BrokenInvariant as failure:
        state.teardown()
        return failure, [*lines[:-1], f"{lines[-1]}  # raises BrokenInvariant: {failure.invariant}"]
    except Exception:  # noqa: BLE001  whatever it is, this program is none
        state.teardown()
        return None
    try:
        state.teardown()
    except BrokenInvariant as failure:
        return failure, [*lines, f"machine.teardown()  # raises BrokenInvariant: {failure.invariant}"]
    return None
