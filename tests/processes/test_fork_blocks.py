"""A block that is left in the child of a fork ends silently, wherever the fork came."""

from __future__ import annotations

import pytest

from tests.lib.programs import FORKS, PROLOGUE, run_forking_program


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize(
    ("options", "call", "raises"),
    [
        ("", "connect", False),
        ("", "commit", False),
        ("", "rollback", True),
        (", reset=fork_once", "none", False),
        (", configure=fork_once", "none", True),
    ],
)
def test_a_block_ends_silently_in_a_child_that_is_forked_in_its_midst(
    how: str, options: str, call: str, raises: bool
) -> None:
    run_forking_program(f"""{PROLOGUE}
armed, pids = [], []

def fork_once(*_):
    if armed:
        armed.clear()
        pids.append(FORKS[{how!r}]())

pool = ThreadedConnectionPool(0, 2{options})
with pool.connection() as outer:
    outer.cursor().execute("insert")
    armed.append(True)
    if {call!r} != "none":
        server.on({call!r}, fork_once)
    try:
        with pool.connection("k") as inner:
            inner.cursor().execute("insert")
            if {raises!r}:
                raise KeyError
    except KeyError:
        pass
    armed.clear()
    before = list(server.log)
if pids == [0]:
    with ending_the_child():
        mine = other_server()
        assert [entry for entry in server.log[len(before):] if entry[0] in ("commit", "rollback", "close")] == []
        assert outer.status == INTRANS, "it is the parent's"
        assert_whole(pool)
for pid in pids:
    assert wait_for_end(pid) == 0
assert server.log[-1] == ("commit", outer.serial) or server.log[-2] == ("commit", outer.serial)
assert counts(pool)["lent"] == 0
""")
