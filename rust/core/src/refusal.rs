//! What the ledger refuses, and the messages of the pool's errors.

use std::fmt;

/// Why the ledger refuses. Nothing has changed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The pool is closed.
    Closed,
    /// The pool is not yet open.
    Unopened,
    /// The pool is full and the caller does not wait.
    Exhausted,
    /// As [`Refusal::Exhausted`], but only since the limit is reached that the pool shares with others.
    Limited,
    /// The connection, or the key, is not lent.
    Unkeyed,
    /// The connection is lent, but not under the key that was given with it.
    WrongKey,
    /// A block was to be entered under a key that is lent, or was given a connection that is lent to another caller.
    Taken,
    /// The loan of a block ended before the block did.
    LoanEnded,
    /// The caller asks for a key that it is opening itself: it would wait for itself.
    Reentrant,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "connection pool is closed",
            Self::Unopened => "the pool is not open: call open()",
            Self::Exhausted | Self::Limited => "connection pool exhausted",
            Self::Unkeyed => "trying to put unkeyed connection",
            Self::WrongKey => "trying to put connection with a key, but it is lent under another key",
            Self::Taken => "trying to enter a block with a connection that is lent already: a block needs its own",
            Self::LoanEnded => {
                "the loan of this block has ended before the block: its connection was returned meanwhile, and is left alone"
            }
            Self::Reentrant => "trying to get a connection whose key this very call is opening",
        })
    }
}

impl std::error::Error for Refusal {}
