//! A slot: room for one connection, and what that room is used for now.

use std::sync::Arc;

use crate::key::{Caller, Key};

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
    /// Its connection is being rolled back or closed.
    Returning,
}

impl State {
    /// How many states there are.
    pub(crate) const COUNT: usize = 6;

    /// Says whether a slot in this state may come to be in `next`.
    pub(crate) fn may_become(self, next: Self) -> bool {
        use State::{Idle, Lent, Opening, Promised, Returning, Vacant};
        match self {
            // To Idle and Lent at once: a subclass keeps its own books and writes into them.
            Vacant => matches!(next, Opening | Idle | Lent),
            Opening => matches!(next, Idle | Lent | Vacant),
            Idle => matches!(next, Lent | Promised | Returning | Vacant),
            Promised => matches!(next, Lent | Idle | Returning),
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
    pub(crate) twin: Option<u32>,
}
