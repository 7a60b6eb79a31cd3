//! A slot: room for one connection, and what that room is used for now.

use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::key::Key;
use crate::question::Caller;
use crate::time::{Moment, Span};

/// What a slot is used for. `lib.rs` has the diagram of the usual moves; [`State::may_become`] has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing: the slot's number is free to be used again.
    Vacant,
    /// Somebody holds the right to open a connection for it.
    Opening,
    /// Its connection lies in the pool.
    Idle,
    /// Its connection is kept for one waiter, who has been woken and will claim it.
    Promised,
    /// A borrower has its connection.
    Lent,
    /// Its connection is being looked at, before it is lent or left in peace.
    Checking,
    /// Its connection is being rolled back or closed.
    Returning,
}

impl State {
    /// How many states there are.
    pub(crate) const COUNT: usize = 7;

    /// Says whether a slot in this state may come to be in `next`.
    pub(crate) fn may_become(self, next: Self) -> bool {
        use State::{Checking, Idle, Lent, Opening, Promised, Returning, Vacant};
        match self {
            // To Idle and Lent at once: a subclass keeps its own books and writes into them.
            Vacant => matches!(next, Opening | Idle | Lent),
            Opening => matches!(next, Idle | Lent | Vacant),
            Idle => matches!(next, Lent | Promised | Checking | Returning | Vacant),
            Promised => matches!(next, Lent | Idle | Checking | Returning),
            // Opening: it was dead, and its room is used for another.
            Checking => matches!(next, Lent | Idle | Opening | Vacant),
            // Opening again: a hook that connects a second time.
            Lent => matches!(next, Idle | Returning | Vacant | Opening),
            Returning => matches!(next, Idle | Vacant),
        }
    }
}

/// Names one stay of one slot in one state.
///
/// Every move of a slot gives it a new generation, drawn from a counter that never repeats, so an id that has
/// been overtaken by events is detected rather than followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId {
    pub(crate) index: u32,
    pub(crate) generation: u64,
}

/// One entry of the table of slots.
#[derive(Debug)]
pub(crate) struct Slot<H> {
    pub(crate) state: State,
    pub(crate) generation: u64,
    /// Where the connection object lives; meaningful only while there is one.
    pub(crate) address: usize,
    pub(crate) connection: Option<Arc<H>>,
    /// What it is filed under while it is opening or lent.
    pub(crate) key: Key<H>,
    /// Who opens it for a key, until that is done: a hook may go on after the connection has been filed.
    pub(crate) opener: Option<Caller>,
    /// While there is an opener, the generation that its reservation knows the slot by.
    pub(crate) reserved: u64,
    /// The loan whose place it takes when it is filled, if one was made under the same key before.
    pub(crate) replaces: Option<SlotId>,
    /// Another slot with the very same connection object. A mocked `connect` gives one object again and again.
    pub(crate) alias: Option<u32>,
    /// Since when it has been idle or lent.
    pub(crate) since: Moment,
    /// What is to be thought of its connection.
    pub(crate) health: Health,
    /// Who borrowed it last.
    pub(crate) borrower: Caller,
    /// Whether another caller has been given it under the same key since.
    pub(crate) shared: bool,
    /// What was noted of the loan when it was made.
    pub(crate) note: Option<Arc<H>>,
    /// Whether the loan has been reported as one that lasts too long.
    pub(crate) overdue: bool,
    /// Whether it is on its way to be free, and nobody in particular waits for that.
    pub(crate) in_transit: bool,
}

impl<H> Slot<H> {
    /// Sets the key of a slot that is filed under no user's key.
    #[inline]
    pub(crate) fn refile(&mut self, key: Key<H>) {
        let displaced = std::mem::replace(&mut self.key, key);
        debug_assert!(!matches!(displaced, Key::User(_)), "a user's key is unfiled");
        // A number, or nothing at all. The compiler does not know, and would look.
        std::mem::forget(displaced);
    }

    /// Notes that the connection is idle from now on, and how long it may be lent unseen.
    #[inline]
    pub(crate) fn mark_idle(&mut self, now: Moment, check_after: Span) {
        self.since = now;
        let unseen = if self.health.suspect { Moment::START } else { now.after(check_after) };
        self.health.fresh_until = unseen.min(self.health.replace_at);
    }
}

/// How far a connection is to be trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    /// The generation in which its opening began.
    pub(crate) opened_in: u64,
    /// Until when it may be lent unseen.
    pub(crate) fresh_until: Moment,
    /// From when on it is to be replaced, and why.
    pub(crate) replace_at: Moment,
    pub(crate) why: CloseReason,
    /// Whether another one has died since this was last known to be well.
    pub(crate) suspect: bool,
}

impl Health {
    /// That of a slot without a connection: it is nobody's to trust.
    pub(crate) const NONE: Self = Self {
        opened_in: 0,
        fresh_until: Moment::START,
        replace_at: Moment::NEVER,
        why: CloseReason::Lifetime,
        suspect: false,
    };
}
