"""The watcher: one thread for each process and limit. It seeks places for waiters, and makes room for others'."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pgpool_rs import _log
from pgpool_rs._limits.say import say
from pgpool_rs._limits.shares import divide
from pgpool_rs._limits.table import CAPACITY, FREE, FREED, OWN, WANTED, Member, State, Table
from pgpool_rs._threads import CANNOT_START, start

if TYPE_CHECKING:
    from pgpool_rs._limits.shares import Party

# All in seconds.
POLL: Final = 0.02  # between two looks while own pools want, for each ten pools
ATTENTIVE: Final = 0.1  # the same while others want
IDLE: Final = 0.5
# Seconds of rest after a look at all pools, times the square of their number: each process looks at the pools of all
# others.
REST: Final = 2e-5
GRACE: Final = 0.3  # after a process was killed, the server needs this to end its sessions
FAILED: Final = 1.0
ABANDONED: Final = 5.0  # a place that a thread has claimed, and not taken in this time, because of an interrupt
_ended: list[bool] = []
atexit.register(_ended.append, True)


def watch(table: Table, state: State) -> None:
    """Start the thread if none runs."""
    if "watcher" not in state.threads and not _ended:
        thread = threading.Thread(target=_run, args=(table, state), name="pgpool_rs limit", daemon=True)
        try:
            if state.threads.setdefault("watcher", thread) is thread:
                start(thread)
        except BaseException as error:
            if state.threads.get("watcher") is thread and not thread.is_alive():
                state.threads.pop("watcher")
            if not isinstance(error, CANNOT_START):
                raise


def _run(table: Table, state: State) -> None:
    failed = False
    try:
        state.parker = threading.Lock()
        state.parker.acquire()
        while state is table.state() and not _ended and (state.members or state.left):
            try:
                words = table.words()
                word, pause = look(table, state)
                if word == OWN:
                    state.parker.acquire(timeout=pause)
                else:
                    table.sleep(word, words[word], pause)
                failed = False
            except Exception as error:  # noqa: BLE001  (the file's, or a pool's that closes connections)
                if not failed:
                    text = "the watcher of a limit failed: %s; it tries again each second"
                    say(logging.ERROR, text, "limit_failed", type(error).__name__ + _log.place(error))
                failed = True
                time.sleep(FAILED)
    finally:
        state.threads.pop("watcher", None)
        if state.members and state is table.state():  # one came, or an interrupt ended this thread
            watch(table, state)


def look(table: Table, state: State) -> tuple[int, float]:
    """Do all that is due. Return the word to sleep on, and the seconds."""
    now = time.monotonic()
    rests = now < state.resting
    if rests:
        for number, member in tuple(state.members.items()):
            if member.wanting:
                _ask(table, state, number, member, now)
    elif not _look_at_all(table, state, now):
        return WANTED, IDLE
    _grant(table, state)
    if any(member.wanting for member in tuple(state.members.values())):
        return FREED, POLL * max(1, state.pool_count / 10)
    rest = state.resting - now
    if rests or rest > POLL:
        return OWN, rest
    return WANTED, ATTENTIVE if now - state.busy < IDLE else IDLE


def _look_at_all(table: Table, state: State, now: float) -> bool:
    """Keep to what all pools have and want. Return whether there are any."""
    table.repair(state)
    for number, member in tuple(state.members.items()):
        _ask(table, state, number, member, now)
    while state.left:
        member = state.left.pop()
        table.give(member, len(member.places))
        table.leave(member)
    named = table.named()
    parties = table.parties(state)
    if not parties:
        return False
    state.naming = named, min(party.limit for party in parties)
    state.resting = now + REST * state.pool_count**2
    divide(parties, state.limit, now)
    if now - state.reaped >= ATTENTIVE:
        _reap(table, state, now)
        state.reaped = now
    full = table.hints().find(FREE, 0, state.limit) < 0
    for party in parties:
        if isinstance(party.mine, Member):
            _make_room(state, party, party.mine, parties, full=full, now=now)
            _move_down(table, state, party.mine)
    _warn(state, parties)
    if state.dead or any(party.wants for party in parties) or sum(party.holds for party in parties) > state.limit:
        state.busy = now
    return True


def _ask(table: Table, state: State, number: int, member: Member, now: float) -> None:
    """Ask a pool how many places its waiters want, and tell the others."""
    pool: Any = member.pool()
    if pool is None:
        state.members.pop(number, None)
        state.left.append(member)
        return
    member.wanting = False  # first, so that no waiter that comes now is missed
    member.wants = pool._pgpool_wanted()
    member.minconn = min(getattr(pool, "minconn", 0), CAPACITY)
    if member.record is None and member.wants:
        table.join(state, member)
    table.write(member)
    if member.wants:
        if now - member.wanted_at >= ATTENTIVE:  # the others look as often until then
            table.bump(WANTED)
        member.wanted_at = member.quiet_since = now
    member.wanting = member.wanting or now - member.wanted_at < ATTENTIVE


def _make_room(state: State, party: Party, member: Member, parties: list[Party], *, full: bool, now: float) -> None:
    """Have a pool keep to its share while another starves, and close what is idle while another wants."""
    pool: Any = member.pool()
    if pool is None:
        return
    over = sum(other.holds for other in parties) > state.limit
    missing = [min(it.wants, it.share - it.holds) for it in parties if it is not party and it.starves()]
    starved = over or bool(missing)
    member.leaves = CAPACITY if over else sum(missing)
    member.cap = party.share if starved else None
    pressed = party.share if starved and party.holds > party.share and (full or member.pressed is not None) else None
    if pressed != member.pressed:
        member.pressed = pressed
        pool._pgpool_press(pressed)
    wants = sum(other.wants for other in parties if other is not party)
    if wants and full and not member.wants and party.holds and now - member.quiet_since >= ATTENTIVE:
        # At this moment only: the pool may need the connections that come back next.
        member.quiet_since = now
        pool._pgpool_press(max(0, party.holds - wants))
        pool._pgpool_press(member.pressed)


def _warn(state: State, parties: list[Party]) -> None:
    """Warn once that pools keep others from connecting for ever."""
    minconns = [party.minconn for party in parties if party.minconn]
    if sum(minconns) > state.limit and "minconn" not in state.said:
        state.said.add("minconn")
        text = "%d pools keep %d connections together (minconn), above the limit of %d: some will not get theirs"
        say(logging.WARNING, text, "limit_below_minconn", len(minconns), sum(minconns), state.limit)


def _move_down(table: Table, state: State, member: Member) -> None:
    """Exchange places above a limit that was lowered."""
    for place in tuple(member.places):
        if place >= state.limit and (lower := table.claim(state, member, table.hints())) is not None:
            table.drop(state, member, place if place in member.places else lower)


def _grant(table: Table, state: State) -> None:
    """Take places for the pools that want some, one for each in turn."""
    hungry = sorted((member for member in tuple(state.members.values()) if member.wants), key=lambda it: len(it.places))
    while hungry:
        for member in tuple(hungry):
            pool: Any = member.pool()
            if pool is None or member.wants <= 0 or not table.take(member):
                hungry.remove(member)
                continue
            member.wants -= 1
            if unused := pool._pgpool_grant(1):
                table.give(member, unused)
                hungry.remove(member)


def _reap(table: Table, state: State, now: float) -> None:
    """Free the places of processes that were killed, and those that an interrupt has left behind."""
    dead = {}
    for place, hint in enumerate(table.hints().rstrip(FREE)):
        if hint and place not in state.claimed and not table.is_held(place):
            # The clock again, since this process may have been stopped after the last look at it.
            left, since = state.dead.get(place, (0, now))
            if left != hint:
                since = time.monotonic()
            mine = object()
            if now - since < GRACE:
                dead[place] = hint, since
            elif state.claimed.setdefault(place, mine) is mine:
                if table.lock(place):
                    table.free(state, place)
                    table.bump(FREED)
                else:
                    del state.claimed[place]
    state.dead = dead
    held = {place for member in (*state.members.values(), *state.left) for place in member.places}
    orphans = {}
    for place, claim in tuple(state.claimed.items()):
        before = state.orphans.get(place, (None, now))
        if place not in held:
            orphans[place] = claim, before[1] if before[0] is claim else now
            if now - orphans[place][1] >= ABANDONED:
                table.free(state, place)
    state.orphans = orphans
