//! A slot: room for one connection, and what the room is used for now.

use std::sync::Arc;

use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::key::Key;
use crate::time::{Moment, Span};

/// What a slot is used for. `lib.rs` has the diagram of the usual moves; [`State::may_become`] has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot is not used. Its number may be used again.
    Vacant,
    /// A caller holds the right to open a connection for it.
    Opening,
    /// Its connection lies in the pool, ready to be lent.
    Idle,
    /// Its connection is promised to one waiter, which has been woken and will claim it.
    Promised,
    /// A borrower holds its connection.
    Lent,
    /// A caller checks its connection, before it is lent or put back.
    Checking,
    /// A caller rolls its connection back or closes it.
    Returning,
}

impl State {
    /// How many states there are.
    pub(crate) const COUNT: usize = 7;

    /// Says whether a slot in this state may come to be in `next`.
    pub(crate) fn may_become(self, next: Self) -> bool {
        use State::{Checking, Idle, Lent, Opening, Promised, Returning, Vacant};
        match self {
            // To Idle at once: a subclass writes into `_pool` or `_used`.
            Vacant => matches!(next, Opening | Idle),
            Opening => matches!(next, Idle | Lent | Vacant),
            Idle => matches!(next, Lent | Promised | Checking | Returning | Vacant),
            Promised => matches!(next, Lent | Idle | Checking | Returning),
            // Opening: the connection was dead, and its room is used for another.
            Checking => matches!(next, Lent | Idle | Opening | Vacant),
            // Opening again: a hook connects a second time.
            Lent => matches!(next, Idle | Returning | Vacant | Opening),
            Returning => matches!(next, Idle | Vacant),
        }
    }
}

/// Names one stay of one slot in one state.
///
/// Every move of a slot gives it a new generation, from a counter that never repeats. So the ledger detects a stale id
/// and does not follow it.
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
    /// Where the connection object lives. It means nothing while there is no connection.
    pub(crate) address: usize,
    pub(crate) connection: Option<Arc<H>>,
    /// Its key while it is opening, checking or lent.
    pub(crate) key: Key<H>,
    /// The caller that opens it for a key, until the caller is done: a hook may go on after it has filed the connection.
    pub(crate) opener: Option<Caller>,
    /// While there is an opener, the generation by which its reservation names the slot.
    pub(crate) reserved_in: u64,
    /// The loan that it replaces when it is filled, if one was made under the same key before.
    pub(crate) replaces: Option<SlotId>,
    /// Another slot with the same connection object. A mocked `connect` returns one object again and again.
    pub(crate) alias: Option<u32>,
    /// When it became idle or lent.
    pub(crate) since: Moment,
    /// How far its connection is trusted.
    pub(crate) health: Health,
    /// The caller that borrowed it last.
    pub(crate) borrower: Caller,
    /// Whether another caller has got it under the same key since.
    pub(crate) shared: bool,
    /// The note that was added to the loan when it was made.
    pub(crate) note: Option<Arc<H>>,
    /// Whether the loan has been reported as one that lasts too long.
    pub(crate) overdue: bool,
    /// Whether the slot will be free without a borrower: see `ledger::in_transit`.
    pub(crate) in_transit: bool,
}

impl<H> Slot<H> {
    /// Sets the key of a slot that has no user's key.
    #[inline]
    pub(crate) fn refile(&mut self, key: Key<H>) {
        let displaced = std::mem::replace(&mut self.key, key);
        debug_assert!(!matches!(displaced, Key::User(_)), "a user's key is unfiled");
        // It holds no handle. The compiler does not know that, and would check.
        std::mem::forget(displaced);
    }

    /// Notes that the connection is idle from now on, and how long it may be lent without a check.
    #[inline]
    pub(crate) fn mark_idle(&mut self, now: Moment, check_after: Span) {
        self.since = now;
        let unchecked = if self.health.suspect { Moment::START } else { now.after(check_after) };
        self.health.fresh_until = unchecked.min(self.health.replace_at);
    }
}

/// How far a connection is trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    /// The generation in which its opening began.
    pub(crate) opened_in: u64,
    /// Until when it may be lent without a check.
    pub(crate) fresh_until: Moment,
    /// From when on it is replaced.
    pub(crate) replace_at: Moment,
    /// Why it is replaced then. It means nothing while `replace_at` is never.
    pub(crate) why: CloseReason,
    /// Whether another connection has died since this one was last known to be healthy.
    pub(crate) suspect: bool,
}

impl Health {
    /// The health of a slot without a connection.
    pub(crate) const NONE: Self = Self {
        opened_in: 0,
        fresh_until: Moment::START,
        replace_at: Moment::NEVER,
        why: CloseReason::Unplaced,
        suspect: false,
    };
}
