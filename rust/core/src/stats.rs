//! What the ledger tells of itself.

use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::key::LoanKey;
use crate::question::Caller;
use crate::time::{Moment, Span};

/// Slots by state, waiters, and limits, all read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections at rest in the pool.
    pub idle: usize,
    /// Connections that a borrower holds.
    pub lent: usize,
    /// Connections that are kept for a waiter who has been woken.
    pub promised: usize,
    /// Connections being opened, or promised room for one.
    pub opening: usize,
    /// Connections being checked.
    pub checking: usize,
    /// Connections being rolled back or closed.
    pub returning: usize,
    /// Callers that wait, for room or for a key that another caller is opening.
    pub waiting: usize,
    /// A returned connection is kept while fewer than this are idle.
    pub minconn: usize,
    /// Nothing is opened while this many slots are taken.
    pub maxconn: usize,
    /// Whether the pool is closed.
    pub closed: bool,
}

impl Counts {
    /// Counts the connections that a borrower has, or is about to have.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.lent + self.promised + self.checking
    }

    /// Counts the connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.idle + self.in_use() + self.returning
    }
}

/// What has happened since the pool was made, or since this was last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests for a connection.
    pub requests_num: u64,
    /// Those of them that had to wait.
    pub requests_queued: u64,
    /// How long they waited, all together.
    pub requests_wait: Span,
    /// Requests that ended with an error.
    pub requests_errors: u64,
    /// How long connections were lent, all together.
    pub usage: Span,
    /// Connections that came back broken, or could not be made clean.
    pub returns_bad: u64,
    /// Connects that were tried.
    pub connections_num: u64,
    /// How long they took, all together.
    pub connections_time: Span,
    /// Connects that failed.
    pub connections_errors: u64,
    /// Connections that were found dead.
    pub connections_lost: u64,
    /// Checks that failed.
    pub checks_failed: u64,
    /// Loans that were held for longer than `leak_after`.
    pub leaks: u64,
    /// Loans whose borrower had forgotten them.
    pub reclaimed: u64,
    /// Connections that were closed, by reason.
    pub closed: [u64; CloseReason::ALL.len()],
}

impl Stats {
    pub(crate) fn count_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }
}

/// What is known of a loan.
#[derive(Debug)]
pub struct LoanReport<H> {
    /// What it is filed under.
    pub key: LoanKey<H>,
    /// How long it has been lent.
    pub age: Span,
    /// Who borrowed it.
    pub borrower: Caller,
    /// What was noted when it was borrowed.
    pub note: Option<Arc<H>>,
}

/// Why a connect failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What is said of it.
    pub text: String,
    /// When it failed.
    pub at: Moment,
}

/// What is to be said of connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectNews {
    /// So many have failed since this was said last, which is so long ago.
    Failed {
        /// How many, the one of now included.
        times: u64,
        /// How long ago it was said last, or how long ago the first one failed.
        period: Span,
    },
    /// The first one has succeeded after some that failed.
    Recovered {
        /// How long ago the first one of those failed.
        lasted: Span,
    },
}
