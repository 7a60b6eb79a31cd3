//! The waiters, in the order in which the ledger serves them.

use std::collections::{BTreeMap, VecDeque, btree_map};

use crate::caller::Caller;
use crate::key::KeyTag;
use crate::question::Wish;
use crate::slot::SlotId;

/// Wakes a waiter or the housekeeper, or calls a worker.
pub trait Wake {
    /// Wakes the caller that gave this waker. A waiter is woken once at most, the housekeeper each time there is a chore.
    /// It is never called while the ledger's mutex is held. Says whether the wake-up has arrived.
    fn wake(&self) -> bool;
}

/// Whether a caller may take the reserve. Waiters that may are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The caller may take the reserve.
    Priority,
    /// The caller leaves it.
    Normal,
}

/// Names a waiter, in the order of service: by rank, and then by arrival. A waiter that begins to wait for something else keeps its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId {
    rank: Rank,
    turn: u64,
    serial: u64,
}

/// What a waiter waits for, which decides what wakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// The pool is full. The waiter has a place in the queue, and the ledger promises it the next slot that is free.
    Room,
    /// Another caller is opening the waiter's key. The waiter has no place in the queue.
    Key,
    /// Another caller has been promised a slot for the waiter's key. The waiter has no place in the queue.
    Promise,
}

/// What a waiter was told last of when to ask again, if it is not woken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    /// A moment.
    When,
    /// That another caller opens its key. It is woken when that ends, even if it has a place in the queue.
    Key,
}

struct Entry<W> {
    id: WaiterId,
    wait_for: WaitFor,
    wish: Wish,
    /// Whether the waiter has waited for its key, now or before.
    followed: bool,
    told: Told,
    /// Gone once the waiter has been woken. The waiter brings a new one when it goes back to waiting.
    waker: Option<W>,
}

/// All waiters. One that has been promised a slot has left the queue; its promise is noted until it claims the slot.
pub(crate) struct Queue<W> {
    next: u64,
    /// Ordered by id.
    entries: VecDeque<Entry<W>>,
    /// How many of them wait for room, by rank.
    for_room: [usize; 2],
    /// How many of them want the same, so that a loan that none of them wants is quick however many wait.
    wanted: BTreeMap<KeyTag, usize>,
    promises: BTreeMap<WaiterId, Promise>,
}

/// A slot that is held for a waiter until it claims the slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) slot: SlotId,
    pub(crate) wish: Wish,
}

impl<W> Queue<W> {
    pub(crate) fn new() -> Self {
        Self { next: 0, entries: VecDeque::new(), for_room: [0; 2], wanted: BTreeMap::new(), promises: BTreeMap::new() }
    }

    /// Counts the waiters that wait for room.
    #[inline]
    pub(crate) fn waiting_for_room(&self) -> usize {
        let [priority, normal] = self.for_room;
        priority + normal
    }

    /// Counts the waiters for room that have priority.
    pub(crate) fn waiting_with_priority(&self) -> usize {
        self.for_room[Rank::Priority as usize]
    }

    /// Counts all waiters, whether they wait for room or for a key.
    pub(crate) fn waiting(&self) -> usize {
        self.entries.len()
    }

    /// Adds a waiter: at the end of its rank, or at the turn that it had if it has waited before.
    pub(crate) fn join(
        &mut self,
        before: Option<WaiterId>,
        wait_for: WaitFor,
        rank: Rank,
        wish: Wish,
        waker: W,
    ) -> WaiterId {
        let followed = wait_for != WaitFor::Room || before.is_some_and(|before| self.has_followed(before));
        self.for_room[rank as usize] += usize::from(wait_for == WaitFor::Room);
        *self.wanted.entry(wish.tag).or_default() += 1;
        let serial = self.next;
        self.next += 1;
        let id = WaiterId { rank, turn: before.map_or(serial, |before| before.turn), serial };
        let at = self.entries.partition_point(|entry| entry.id < id);
        self.entries.insert(at, Entry { id, wait_for, wish, followed, told: Told::Nothing, waker: Some(waker) });
        id
    }

    /// Takes the entry at this position out.
    fn take_at(&mut self, at: usize) -> Option<Entry<W>> {
        let entry = self.entries.remove(at)?;
        self.for_room[entry.id.rank as usize] -= usize::from(entry.wait_for == WaitFor::Room);
        if let btree_map::Entry::Occupied(mut wanted) = self.wanted.entry(entry.wish.tag) {
            *wanted.get_mut() -= 1;
            if *wanted.get() == 0 {
                wanted.remove();
            }
        }
        Some(entry)
    }

    fn position(&self, id: WaiterId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    /// The entries before this waiter. Without a place, it would be the last of its rank.
    fn before(&self, waiter: Option<WaiterId>, rank: Rank) -> impl Iterator<Item = &Entry<W>> {
        let is_before = move |id: WaiterId| waiter.map_or(id.rank <= rank, |waiter| id < waiter);
        self.entries.iter().take_while(move |entry| is_before(entry.id))
    }

    /// Says whether this waiter has a place in the queue.
    pub(crate) fn has_place(&self, id: WaiterId) -> bool {
        self.position(id).is_some_and(|at| self.entries[at].wait_for == WaitFor::Room)
    }

    /// Says whether this waiter has waited for its key, now or before.
    pub(crate) fn has_followed(&self, id: WaiterId) -> bool {
        self.position(id).is_some_and(|at| self.entries[at].followed)
    }

    /// Says whether a slot is promised to another caller that wants the same.
    pub(crate) fn is_promised_to_another(&self, wish: Wish) -> bool {
        self.promises.values().any(|other| other.wish.tag == wish.tag && other.wish.caller != wish.caller)
    }

    /// Says whether a slot is promised to this caller.
    pub(crate) fn is_promised_to(&self, caller: Caller) -> bool {
        self.promises.values().any(|promise| promise.wish.caller == caller)
    }

    /// Counts the waiters for room that come before this one. Without a place, it would be the last of its rank.
    pub(crate) fn ahead_of(&self, waiter: Option<WaiterId>, rank: Rank) -> usize {
        let Some(id) = waiter else { return self.for_room[..=rank as usize].iter().sum() };
        let before = self.entries.iter().take_while(|entry| entry.id < id);
        before.filter(|entry| entry.wait_for == WaitFor::Room).count()
    }

    /// Counts as `ahead_of`. If a waiter ahead wants the same for another caller, counts those ahead of that one, since what it gets
    /// serves both. Also gives the rank of the waiter that it counted for.
    pub(crate) fn ahead_of_wish(&self, waiter: Option<WaiterId>, rank: Rank, wish: Wish) -> (usize, Rank) {
        let wants_the_same = |entry: &&Entry<W>| {
            entry.wait_for == WaitFor::Room && entry.wish.tag == wish.tag && entry.wish.caller != wish.caller
        };
        let mut before = self.before(waiter, rank).filter(wants_the_same).map(|entry| entry.id);
        let first = if self.wanted.contains_key(&wish.tag) { before.next() } else { None };
        (self.ahead_of(first.or(waiter), rank), first.map_or(rank, |first| first.rank))
    }

    /// Promises a slot to the first waiter for room, and gives its waker unless the waiter has been woken already.
    pub(crate) fn promise(&mut self, slot: SlotId) -> Option<W> {
        let at = self.entries.iter().position(|entry| entry.wait_for == WaitFor::Room)?;
        let Entry { id, wish, waker, .. } = self.take_at(at)?;
        self.promises.insert(id, Promise { slot, wish });
        waker
    }

    /// Gives the number that the next waiter will have.
    pub(crate) fn next_serial(&self) -> u64 {
        self.next
    }

    /// Takes the first waiters for room out of the queue, with their wakers; `most` of those that joined before this number.
    pub(crate) fn take_first(&mut self, before: u64, most: usize, to_wake: &mut Vec<W>) -> Vec<WaiterId> {
        let waits = |entry: &&Entry<W>| entry.wait_for == WaitFor::Room && entry.id.serial < before;
        let first: Vec<_> = self.entries.iter().filter(waits).take(most).map(|entry| entry.id).collect();
        to_wake.extend(first.iter().filter_map(|&id| self.remove(id)));
        first
    }

    /// Takes what was promised to this waiter.
    pub(crate) fn claim(&mut self, id: WaiterId) -> Option<Promise> {
        self.promises.remove(&id)
    }

    /// Arms a woken waiter again. It keeps its place if it has one. False: the waiter is unknown.
    pub(crate) fn rearm(&mut self, id: WaiterId, wait_for: WaitFor, waker: &mut Option<W>) -> bool {
        let Some(at) = self.position(id) else { return false };
        let entry = &mut self.entries[at];
        if entry.wait_for != WaitFor::Room {
            entry.wait_for = wait_for;
        }
        if entry.waker.is_none() {
            entry.waker = waker.take();
        }
        true
    }

    /// Notes what a waiter is told.
    pub(crate) fn tell(&mut self, id: WaiterId, told: Told) {
        if let Some(at) = self.position(id) {
            self.entries[at].told = told;
        }
    }

    /// Says whether this waiter is the one that keeps the time for all: the first for room that does not wait for its key. Without a
    /// place, it would be the last of its rank.
    pub(crate) fn keeps_time(&self, waiter: Option<WaiterId>, rank: Rank) -> bool {
        !self.before(waiter, rank).any(|entry| entry.wait_for == WaitFor::Room && entry.told != Told::Key)
    }

    /// Takes the waker of the waiter that keeps the time, unless it has been told when to ask again. It keeps its place.
    pub(crate) fn wake_to_tell(&mut self) -> Option<W> {
        let first = self.entries.iter_mut().find(|entry| entry.wait_for == WaitFor::Room && entry.told != Told::Key)?;
        if first.told == Told::When { None } else { first.waker.take() }
    }

    /// Removes a waiter that has no promise, and gives its waker if it still has one.
    pub(crate) fn remove(&mut self, id: WaiterId) -> Option<W> {
        let at = self.position(id)?;
        self.take_at(at)?.waker
    }

    /// Takes the wakers of all waiters that may want the same key. They keep their places.
    pub(crate) fn take_key_wakers(&mut self, tag: KeyTag, to_wake: &mut Vec<W>) {
        if !self.wanted.contains_key(&tag) {
            return;
        }
        let interested = self.entries.iter_mut().filter(|entry| entry.wish.tag == tag);
        to_wake.extend(interested.filter_map(|entry| entry.waker.take()));
    }

    /// As `take_key_wakers`, of those alone that were told to wait for another caller.
    pub(crate) fn take_follower_wakers(&mut self, tag: KeyTag, to_wake: &mut Vec<W>) {
        if self.wanted.contains_key(&tag) {
            let followers = self.entries.iter_mut().filter(|entry| entry.wish.tag == tag && entry.told == Told::Key);
            to_wake.extend(followers.filter_map(|entry| entry.waker.take()));
        }
    }

    /// Gives the waiters for a key that is gone their places in the queue.
    pub(crate) fn promote_key_waiters(&mut self, tag: KeyTag) {
        self.promote_where(tag, |wait_for| wait_for != WaitFor::Room);
    }

    /// Does the same for the waiters for a promise that was given up. Those whose key is being opened go on waiting for it.
    pub(crate) fn promote_promise_waiters(&mut self, tag: KeyTag) {
        self.promote_where(tag, |wait_for| wait_for == WaitFor::Promise);
    }

    fn promote_where(&mut self, tag: KeyTag, promotes: impl Fn(WaitFor) -> bool) {
        if !self.wanted.contains_key(&tag) {
            return;
        }
        let followers = self.entries.iter_mut().filter(|entry| promotes(entry.wait_for));
        for entry in followers.filter(|entry| entry.wish.tag == tag) {
            entry.wait_for = WaitFor::Room;
            self.for_room[entry.id.rank as usize] += 1;
        }
    }

    /// Removes all waiters, takes their wakers, and gives the slots that were promised and not claimed, in their order.
    pub(crate) fn dismiss(&mut self, to_wake: &mut Vec<W>) -> Vec<SlotId> {
        self.for_room = [0; 2];
        self.wanted.clear();
        to_wake.extend(self.entries.drain(..).filter_map(|entry| entry.waker));
        std::mem::take(&mut self.promises).into_values().map(|promise| promise.slot).collect()
    }
}
