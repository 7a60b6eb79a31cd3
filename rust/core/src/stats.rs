//! What the ledger tells of itself.

use std::time::Instant;

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

/// Why a connect failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What is said of it.
    pub text: String,
    /// When it failed.
    pub at: Instant,
}
