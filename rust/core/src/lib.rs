//! The ledger of `pgpool_rs`: a sans-I/O state machine that decides what a connection pool does.
//!
//! The ledger knows which slot is idle, lent, being opened or being returned, which callers wait, and in what order. It
//! never connects, rolls back, closes, compares two keys or reads a clock. The binding tells it what happened and what time
//! it is; the ledger answers with a value that says what the binding must do next. So its mutex is held for a few dozen
//! nanoseconds in a loan, and never across anything that can block. Network protocols are written this way, to be tested
//! without a network: see <https://sans-io.readthedocs.io> and, in Rust, `quinn-proto`.
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
//! Guards hold unfinished work, and each is safe to drop at any moment: a [`Reservation`] (Opening) gives its room back, a
//! [`Waiter`] hands on what it was promised, a [`Checking`] and a [`Returning`] discard the connection, a [`Refill`] lets
//! other callers try, a [`Growth`] lets the first waiter connect.
//!
//! # What always holds
//!
//! - The ledger never fills more than `maxconn` slots, whatever it fills them with.
//! - No caller waits while a slot is free: every edit that frees a slot promises it to the first waiter at once. Where workers
//!   connect, the edit calls a worker for an empty one.
//! - The ledger drops no handle and calls no waker while the mutex is held.
//! - It lends no connection that is too old, marked for replacement, or may have died, until a caller has checked it.
//! - It detects a stale id: every move of a slot gives the slot a new generation.
//!
//! # Where to read on
//!
//! `slot` (states and legal moves), `table` (finding slots), `key` and `question` (what a loan is filed under, and how a
//! caller asks for it), `caller` (its number), `queue` (the waiters), `time`, `refusal`, `close_reason`, `stats`,
//! `histogram`, `ledger` (the policy), `shared` (the mutex, and the guards).

#![forbid(unsafe_code)]

mod caller;
mod close_reason;
mod histogram;
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

pub use caller::Caller;
pub use close_reason::CloseReason;
pub use histogram::{Histogram, Times};
pub use key::{LoanKey, UserKey};
pub use ledger::{Busy, Check, Policy};
pub use question::{Ask, Candidate, Candidates, Unanswered, Want};
pub use queue::{Rank, Wake};
pub use refusal::Refusal;
pub use shared::{
    CheckOut, Checking, Chore, Closer, Grantor, Grown, Growth, Refill, Reservation, Reserve, Returning, Seek,
    SharedLedger, Waiter,
};
pub use slot::SlotId;
pub use stats::{ConnectError, ConnectFailure, ConnectNews, Counts, LoanReport, RequestEnd, Stats};
pub use time::{Moment, Span};
