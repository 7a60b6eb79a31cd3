//! The ledger of `pgpool_rs`: it decides, and others act.
//!
//! The ledger knows which slot is idle, lent, being opened or being returned, who waits, and in what order. It
//! never connects, rolls back, closes, compares two keys or reads a clock. It is told what happened and answers with
//! what is to be done next, as a value. So its mutex is held for a few dozen nanoseconds in a loan, and never across
//! anything that can block.
//!
//! # A slot's life
//!
//! ```text
//!                  reserve                  fulfil, with a key
//!      Vacant ───────────────▶ Opening ───────────────────────────▶ Lent
//!         ▲                     │   │ ▲                            ▲  │ │
//!         │     fail, or drop   │   │ │ next                 lend  │  │ │ begin_return
//!         ├─────────────────────┘   │ └──────── Checking ──────────┤  │ │
//!         │                 fulfil, │           │  │  ▲            │  │ │
//!         │                 without │  put_back │  │  │ not fresh  │  │ │
//!         │                         ▼           ▼  │  │            │  │ │
//!         │                        Idle ◀──────────┼──┤   fresh    │  │ │
//!         │                        │ ▲ ▲ ──────────┼──┴────────────┤  │ │
//!         │                        │ │ └───────────┼── keep ───────┼──┘ │
//!         │                  serve │ │ leave       │               │    │
//!         │                        ▼ │             │         claim │    │
//!         │                       Promised ────────┼───────────────┘    │
//!         │                                        │ discard            │
//!         │                         Returning ◀────┼────────────────────┘
//!         │                             │          │      also from Idle: too old, idle for too long, too many
//!         └─────────────────────────────┴──────────┘
//!                                 discard, or drop
//! ```
//!
//! Guards hold what is in the making, each of them safe to drop at any moment: a [`Reservation`] (Opening) gives its
//! room back, a [`Waiter`] hands on what it was promised, a [`Checking`] and a [`Returning`] discard the connection, a
//! [`Refill`] lets others try.
//!
//! # What always holds
//!
//! - Slots in use, for whatever it is, are never made more than `maxconn`.
//! - Nobody waits while something is free: every edit that frees a slot promises it to the first waiter at once.
//! - No handle is dropped and no waker is called while the mutex is held.
//! - What is too old, marked for replacement, or may have died, is lent to nobody before it has been looked at.
//! - An id that has been overtaken by events is detected: every move of a slot gives it a new generation.
//!
//! # Where to read on
//!
//! `slot` (states and legal moves), `table` (finding slots), `key` (what a loan is filed under), `wait` (the queue),
//! `time`, `reason` (why a connection is closed), `stats`, `ledger` (the policy), `pool` (the mutex), `guards` (what is
//! in the making).

#![forbid(unsafe_code)]

mod close_reason;
mod key;
mod ledger;
mod question;
mod queue;
mod refusal;
mod shared;
mod slot;
mod stats;
mod table;
#[cfg(test)]
#[cfg_attr(feature = "shuttle", path = "tests/schedules/mod.rs")]
#[expect(clippy::expect_used, clippy::panic, reason = "a test that panics has failed")]
mod tests;
mod time;

pub use close_reason::CloseReason;
pub use key::{LoanKey, UserKey};
pub use ledger::{Busy, Check, Policy};
pub use question::{Ask, Caller, Candidate, Candidates, Unanswered, Want};
pub use queue::Wake;
pub use refusal::Refusal;
pub use shared::{CheckOut, Checking, Chore, Refill, Reservation, Reserve, Returning, SharedLedger, Waiter};
pub use slot::SlotId;
pub use stats::{ConnectError, ConnectNews, Counts, LoanReport, Stats};
pub use time::{Moment, Span};
