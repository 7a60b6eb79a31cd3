//! Counts, statistics and reports.

use std::sync::Arc;

use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::key::LoanKey;
use crate::time::{Moment, Span};

/// Slots by state, waiters, and limits, all read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that lie in the pool.
    pub idle: usize,
    /// Connections that borrowers hold.
    pub lent: usize,
    /// Connections that are promised to a waiter, which has been woken.
    pub promised: usize,
    /// Connections that are being opened, and room that is promised to a waiter.
    pub opening: usize,
    /// Connections that are being checked.
    pub checking: usize,
    /// Connections that are being rolled back or closed.
    pub returning: usize,
    /// Callers that wait, for room or for a key that another caller is opening.
    pub waiting: usize,
    /// The pool keeps a returned connection while fewer than this are idle.
    pub minconn: usize,
    /// The pool opens nothing while this many slots are used.
    pub maxconn: usize,
    /// Whether the pool is closed.
    pub closed: bool,
    /// Whether the pool has not been opened; then it is closed, too.
    pub unopened: bool,
    /// Slots whose connections are not closed. A closed pool may go on to list connections that are.
    pub unclosed: usize,
}

impl Counts {
    /// Counts the open connections that a borrower has or is about to get.
    #[must_use]
    pub fn in_use(&self) -> usize {
        if self.unclosed == 0 { 0 } else { self.lent + self.promised + self.checking }
    }

    /// Counts the connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.idle + self.lent + self.promised + self.checking + self.returning
    }
}

/// What has happened since the pool was made, or since this was last taken; and the age of the oldest loan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests for a connection.
    pub requests_num: u64,
    /// Requests that had to wait.
    pub requests_queued: u64,
    /// How long they waited, in all.
    pub requests_wait: Span,
    /// Requests that ended with an error.
    pub requests_errors: u64,
    /// Of these, the waits that took longer than their timeout.
    pub requests_timed_out: u64,
    /// Of these, the requests that did not wait, and found the pool full.
    pub requests_refused: u64,
    /// Of these, the requests that found `max_waiting` callers waiting.
    pub requests_crowded: u64,
    /// How long connections were lent, in all.
    pub usage: Span,
    /// Connections that came back broken, or could not be made clean.
    pub returns_bad: u64,
    /// Connects that were begun.
    pub connections_num: u64,
    /// How long they took, in all.
    pub connections_time: Span,
    /// Connects that failed.
    pub connections_errors: u64,
    /// Connections that were found dead.
    pub connections_lost: u64,
    /// Checks that failed.
    pub checks_failed: u64,
    /// Loans that were held for longer than `leak_after`.
    pub leaks: u64,
    /// Loans that their borrowers forgot.
    pub reclaimed: u64,
    /// How long the loan that lasts for longest has lasted.
    pub oldest_loan: Span,
    /// Connections that were closed, by reason.
    pub closed: [u64; CloseReason::ALL.len()],
}

/// How a request ends that the fast path has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// With a connection, after so long.
    Served(Span),
    /// It waited for longer than its timeout.
    TimedOut,
    /// It found the pool full, and did not wait.
    Refused,
    /// It found the pool full, and `max_waiting` callers waiting.
    Crowded,
    /// With another error.
    Failed,
}

impl Stats {
    pub(crate) fn count_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }
}

/// What the ledger knows of a loan.
#[derive(Debug)]
pub struct LoanReport<H> {
    /// Its key.
    pub key: LoanKey<H>,
    /// How long it has been lent.
    pub age: Span,
    /// The caller that borrowed it.
    pub borrower: Caller,
    /// The note that was added when it was borrowed.
    pub note: Option<Arc<H>>,
}

/// Why a connect failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// The text of the error.
    pub text: String,
    /// When it failed.
    pub at: Moment,
}

/// What a failed connect says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nothing.
    Other,
    /// It cannot be reached.
    Outage,
    /// It takes no more connections now, since it has too many.
    Full,
}

/// What the log says of connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectNews {
    /// Connects have failed since the log said so last.
    Failed {
        /// How many have failed, this one included.
        times: u64,
        /// How long ago the log said so last, or how long ago the first one failed.
        period: Span,
    },
    /// A connect has succeeded after some that failed.
    Recovered {
        /// How long ago the first of those failed.
        lasted: Span,
    },
}
