//! Backoff: once a connect has failed, one caller at a time connects, after a pause that grows with each failure. Each connect that
//! succeeds then lets one more begin, so 1, 2, 4 ... connect at once, until all may again that have room. Other callers wait for
//! their turn. An idle connection is lent all the while.
//!
//! A connect that hangs holds the others back for the longest pause at most: then one more caller tries.
//!
//! Without `reconnect_backoff`, connects are held back only where the server has too many connections and callers wait for one of
//! this pool's: these try again after a short pause.
//!
//! The ledger reads no clock. So one waiter, the first, is told when to ask again, and the ledger serves the queue then.

use std::sync::Arc;

use super::Ledger;
use crate::slot::State;
use crate::stats::ConnectFailure;
use crate::time::{Moment, Span};

/// The first and the longest pause in which callers wait for a connection of this pool, since the server has too many.
const FULL_PAUSES: (Span, Span) = (Span::from_millis(250), Span::from_millis(1_000));

/// What holds connects back.
pub(crate) struct Backoff<H> {
    /// How many may connect at once; `None`: all that have room.
    width: Option<usize>,
    /// No connect begins before then.
    at: Moment,
    /// The pause after the last failure.
    pause: Span,
    /// The longest.
    longest: Span,
    /// When a connect began last.
    pub(super) began: Moment,
    /// The generation in which a connect has ended last. The failure of one that began before says nothing new.
    heard_in: u64,
    /// The error of the last connect that failed.
    error: Option<Arc<H>>,
}

impl<H> Default for Backoff<H> {
    fn default() -> Self {
        let (at, pause, longest, began) = (Moment::START, Span::ZERO, Span::ZERO, Moment::START);
        Self { width: None, at, pause, longest, began, heard_in: 0, error: None }
    }
}

impl<H, W> Ledger<H, W> {
    /// Says whether connects are held back: not all callers that have room may connect.
    pub(super) fn is_backing_off(&self) -> bool {
        let policy = self.policy.reconnect_backoff.is_some();
        self.backoff.width.is_some() && (policy || self.queue.waiting_for_room() > 0 || self.now < self.backoff.at)
    }

    /// Serves the queue if it is time for the next connect, or ends what holds nobody back any more.
    pub(super) fn renew_backoff(&mut self) {
        if self.is_backing_off() {
            self.serve();
        } else if self.backoff.width.is_some() {
            self.reset_backoff();
        }
    }

    /// Counts the connects that may begin now, whether there is room for them or not.
    pub(super) fn connects_allowed(&self) -> usize {
        let Some(width) = self.backoff.width.filter(|_| self.is_backing_off()) else { return usize::MAX };
        if self.now < self.backoff.at {
            return 0;
        }
        let hangs = self.now >= self.hangs_at();
        width.saturating_sub(self.table.count(State::Opening) + self.refills_to_begin()).max(usize::from(hangs))
    }

    /// Says whether there is room for a connect, and it may begin now.
    pub(crate) fn may_open(&self) -> bool {
        self.has_room() && self.connects_allowed() > 0
    }

    /// Tells from when on a connect that began last holds no other back.
    fn hangs_at(&self) -> Moment {
        self.backoff.began.after(self.backoff.longest)
    }

    /// Wakes the waiter that keeps the time, to be told when to ask again, unless it has been told or the answer is never.
    pub(super) fn keep_time(&mut self) {
        let has_room = self.lacks_only_time() && self.admits_first();
        if self.is_backing_off() && has_room && !self.closed && self.next_try() < Moment::NEVER {
            self.after.to_wake.extend(self.queue.wake_to_tell());
        }
    }

    /// Tells when the next connect may begin.
    pub(super) fn next_try(&self) -> Moment {
        if self.now < self.backoff.at { self.backoff.at } else { self.hangs_at() }
    }

    /// Takes room to open a connection in.
    pub(super) fn begin_connect(&mut self) -> u32 {
        self.backoff.began = self.now;
        self.table.occupy(State::Opening)
    }

    /// Notes that a connect has failed, which began in this generation. The next one begins after a pause.
    pub(super) fn back_off(&mut self, began_in: u64, error: Arc<H>, failure: ConnectFailure) {
        let pauses = match failure {
            ConnectFailure::Other => None,
            ConnectFailure::Outage => self.policy.reconnect_backoff,
            ConnectFailure::Full => self.policy.reconnect_backoff.or(Some(FULL_PAUSES)),
        };
        let Some((first, longest)) = pauses.filter(|_| !self.closed) else {
            self.after.handles.push(error);
            return;
        };
        if began_in > self.backoff.heard_in {
            self.backoff.heard_in = self.table.generation();
            self.backoff.width = Some(1);
            self.backoff.longest = longest;
            self.backoff.pause = self.backoff.pause.doubled().clamp(first, longest);
            self.backoff.at = self.now.after(self.backoff.pause.jittered(&mut self.rng));
            self.after.handles.extend(self.backoff.error.replace(error));
        } else {
            self.after.handles.push(error);
        }
    }

    /// Says whether a connection is in use that may come back.
    pub(super) fn some_may_come_back(&self) -> bool {
        let in_use = [State::Lent, State::Promised, State::Checking, State::Returning];
        in_use.into_iter().any(|state| self.table.count(state) > 0)
    }

    /// Notes that a connect has succeeded: one more may begin at once, and at last all.
    pub(super) fn note_connected(&mut self) {
        self.backoff.heard_in = self.table.generation();
        let Some(width) = self.backoff.width else { return };
        (self.backoff.at, self.backoff.pause) = (Moment::START, Span::ZERO);
        self.backoff.width = Some(width + 1);
        if width + 1 >= self.maxconn {
            self.reset_backoff();
        }
        self.serve();
        self.after.chores |= self.wants_refill();
    }

    /// Lets the next connect begin at once.
    pub(super) fn hurry_connect(&mut self) {
        self.backoff.at = Moment::START;
    }

    /// Gives the error of the last connect that failed, while connects are held back.
    pub(crate) fn last_failure(&self) -> Option<&Arc<H>> {
        self.backoff.error.as_ref()
    }

    /// Holds no connect back any more.
    pub(super) fn reset_backoff(&mut self) {
        let fresh = Backoff { heard_in: self.backoff.heard_in, ..Backoff::default() };
        self.after.handles.extend(std::mem::replace(&mut self.backoff, fresh).error);
    }
}
