//! Who waits, and in what order.

use std::collections::{HashMap, VecDeque};

use crate::key::{Caller, KeyTag};
use crate::slot::SlotId;

/// Wakes a waiter, or the housekeeper.
pub trait Wake {
    /// Wakes whoever gave this waker: a waiter once at most, the housekeeper each time there is something to do. Never called
    /// while the pool's mutex is held.
    fn wake(&self);
}

/// Names a waiter, in the order of arrival. One that waits for something else than before keeps its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaiterId {
    turn: u64,
    serial: u64,
}

/// Why a waiter waits, which decides what wakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The pool is full. It has a place in the queue and will be promised what comes free.
    Room,
    /// Its key is being opened by another caller. It has no place in the queue.
    Key,
    /// Another caller has been promised a slot for its key. It has no place in the queue.
    Promise,
}

/// What a waiter wants, and which caller it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) tag: KeyTag,
    pub(crate) caller: Caller,
}

struct Waiter<W> {
    id: WaiterId,
    reason: Reason,
    wish: Wish,
    /// Whether it has waited for its key, now or before.
    followed: bool,
    /// Gone once it has been woken; it brings a new one when it goes back to waiting.
    waker: Option<W>,
}

/// The queue. Promised waiters have left it: what they were promised is noted until they claim it.
pub(crate) struct Queue<W> {
    next: u64,
    /// Ordered by id.
    waiters: VecDeque<Waiter<W>>,
    /// How many of them wait for room.
    for_room: usize,
    promises: HashMap<WaiterId, Promise>,
}

/// A slot that is kept for a waiter until it claims it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) slot: SlotId,
    pub(crate) wish: Wish,
}

impl<W> Queue<W> {
    pub(crate) fn new() -> Self {
        Self { next: 0, waiters: VecDeque::new(), for_room: 0, promises: HashMap::new() }
    }

    /// Counts those who wait for room.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.for_room
    }

    /// Gives a place in the queue: at the end, or where the caller's turn is if it has waited before.
    pub(crate) fn join(&mut self, before: Option<WaiterId>, wish: Wish, waker: W) -> WaiterId {
        self.for_room += 1;
        self.insert(before, Reason::Room, wish, waker)
    }

    /// Lets a caller wait for a key that another caller is opening, or is about to open, as the reason says.
    pub(crate) fn follow(&mut self, before: Option<WaiterId>, reason: Reason, wish: Wish, waker: W) -> WaiterId {
        self.insert(before, reason, wish, waker)
    }

    fn insert(&mut self, before: Option<WaiterId>, reason: Reason, wish: Wish, waker: W) -> WaiterId {
        let followed = reason != Reason::Room || before.is_some_and(|before| self.has_followed(before));
        let serial = self.next;
        self.next += 1;
        let id = WaiterId { turn: before.map_or(serial, |before| before.turn), serial };
        let at = self.waiters.partition_point(|waiter| waiter.id < id);
        self.waiters.insert(at, Waiter { id, reason, wish, followed, waker: Some(waker) });
        id
    }

    fn position(&self, id: WaiterId) -> Option<usize> {
        self.waiters.binary_search_by_key(&id, |waiter| waiter.id).ok()
    }

    /// Says whether this waiter has a place in the queue.
    pub(crate) fn has_place(&self, id: WaiterId) -> bool {
        self.position(id).is_some_and(|at| self.waiters[at].reason == Reason::Room)
    }

    /// Says whether this waiter has waited for its key, now or before.
    pub(crate) fn has_followed(&self, id: WaiterId) -> bool {
        self.position(id).is_some_and(|at| self.waiters[at].followed)
    }

    /// Says whether a slot is promised to a waiter that wants the same, and that is another caller's.
    pub(crate) fn is_promised_to_another(&self, wish: Wish) -> bool {
        self.promises.values().any(|other| other.wish.tag == wish.tag && other.wish.caller != wish.caller)
    }

    /// Says whether a slot is promised to a waiter of this caller's.
    pub(crate) fn is_promised_to(&self, caller: Caller) -> bool {
        self.promises.values().any(|promise| promise.wish.caller == caller)
    }

    /// Counts those who wait for room and come before this waiter; all of them, if it has no place.
    pub(crate) fn ahead_of(&self, waiter: Option<WaiterId>) -> usize {
        let before = |other: &&Waiter<W>| waiter.is_none_or(|id| other.id < id) && other.reason == Reason::Room;
        self.waiters.iter().filter(before).count()
    }

    /// Promises a slot to the first in the queue, and gives its waker if it has not been woken already.
    pub(crate) fn promise(&mut self, slot: SlotId) -> Option<W> {
        let at = self.waiters.iter().position(|waiter| waiter.reason == Reason::Room)?;
        let waiter = self.waiters.remove(at)?;
        self.for_room -= 1;
        self.promises.insert(waiter.id, Promise { slot, wish: waiter.wish });
        waiter.waker
    }

    /// Hands out what was promised to this waiter.
    pub(crate) fn claim(&mut self, id: WaiterId) -> Option<Promise> {
        self.promises.remove(&id)
    }

    /// Arms a woken waiter again, which keeps its place if it has one; false if it is not known any more.
    pub(crate) fn rearm(&mut self, id: WaiterId, reason: Reason, waker: &mut Option<W>) -> bool {
        let Some(at) = self.position(id) else { return false };
        let waiter = &mut self.waiters[at];
        if waiter.reason != Reason::Room {
            waiter.reason = reason;
        }
        if waiter.waker.is_none() {
            waiter.waker = waker.take();
        }
        true
    }

    /// Forgets a waiter that has no promise, and gives its waker if it still has it.
    pub(crate) fn remove(&mut self, id: WaiterId) -> Option<W> {
        let at = self.position(id)?;
        let waiter = self.waiters.remove(at)?;
        self.for_room -= usize::from(waiter.reason == Reason::Room);
        waiter.waker
    }

    /// Takes the wakers of all who may want the same; they keep their places.
    pub(crate) fn take_key_wakers(&mut self, tag: KeyTag, to_wake: &mut Vec<W>) {
        let interested = self.waiters.iter_mut().filter(|waiter| waiter.wish.tag == tag);
        to_wake.extend(interested.filter_map(|waiter| waiter.waker.take()));
    }

    /// Gives those who waited for a key that has not come to be the places in the queue that are due to them.
    pub(crate) fn promote_key_waiters(&mut self, tag: KeyTag) {
        self.promote_where(tag, |reason| reason != Reason::Room);
    }

    /// The same for those who waited for a promise that was given up. One whose key is being opened goes on waiting for that.
    pub(crate) fn promote_promise_waiters(&mut self, tag: KeyTag) {
        self.promote_where(tag, |reason| reason == Reason::Promise);
    }

    fn promote_where(&mut self, tag: KeyTag, promotes: impl Fn(Reason) -> bool) {
        let followers = self.waiters.iter_mut().filter(|waiter| promotes(waiter.reason));
        for waiter in followers.filter(|waiter| waiter.wish.tag == tag) {
            waiter.reason = Reason::Room;
            self.for_room += 1;
        }
    }

    /// Counts all who wait, be it for room or for a key.
    pub(crate) fn count(&self) -> usize {
        self.waiters.len()
    }

    /// Forgets everybody, takes all wakers, and gives the slots that were promised and not claimed, in their order.
    pub(crate) fn dismiss(&mut self, to_wake: &mut Vec<W>) -> Vec<SlotId> {
        self.for_room = 0;
        to_wake.extend(self.waiters.drain(..).filter_map(|waiter| waiter.waker));
        let mut promised: Vec<_> = self.promises.drain().collect();
        promised.sort_unstable_by_key(|&(waiter, _)| waiter);
        promised.into_iter().map(|(_, promise)| promise.slot).collect()
    }
}
