//! Limits, closing, and beginning anew.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::closing::Closed;
use super::outage::Outage;
use super::{Ledger, Return};
use crate::caller::NO_CALLER;
use crate::close_reason::CloseReason;
use crate::histogram::Times;
use crate::refusal::Refusal;
use crate::slot::State;
use crate::stats::Stats;
use crate::time::{Rng, Span};

/// How long connections are trusted and kept, and how many callers may wait. By default a pool does as psycopg2.pool.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A connection that has been idle for less than this is lent without a check.
    pub check_after: Span,
    /// How long the pool keeps an idle connection above minconn; if zero, it keeps none on its return.
    pub max_idle: Span,
    /// How old a connection may become, less up to a tenth.
    pub max_lifetime: Span,
    /// A loan that lasts this long is reported.
    pub leak_after: Span,
    /// How many callers may wait; `None` is no limit.
    pub max_waiting: Option<NonZeroUsize>,
    /// How many workers at most connect for waiters at once; `None`: the caller that needs a connection opens it.
    pub grow: Option<NonZeroUsize>,
    /// How long no caller connects after a connect that failed, at first and at most; `None`: each caller may connect at once.
    pub reconnect_backoff: Option<(Span, Span)>,
    /// Whether the connection is lent next that has been idle for longest, and not the one that came back last.
    pub fifo: bool,
    /// How many slots are left to callers with priority: see `priority`.
    pub reserve: usize,
    /// Whether a housekeeper does the chores. The ledger then wakes it when there are any.
    pub has_housekeeper: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            check_after: Span::FOREVER,
            max_idle: Span::ZERO,
            max_lifetime: Span::FOREVER,
            leak_after: Span::FOREVER,
            max_waiting: None,
            grow: None,
            reconnect_backoff: None,
            fifo: false,
            reserve: 0,
            has_housekeeper: false,
        }
    }
}

impl<H, W> Ledger<H, W> {
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.has_plain_loans = policy.leak_after.is_forever() && policy.reserve == 0;
        self.has_plain_returns = policy.leak_after.is_forever() && !policy.fifo;
    }

    pub(crate) fn set_minconn(&mut self, minconn: usize) {
        self.minconn = minconn;
        self.renew_cap();
        self.after.chores |= self.policy.has_housekeeper && !self.closed;
    }

    /// Sets the limit, and gives the idle connections above it, to be closed, the oldest first.
    pub(crate) fn set_maxconn(&mut self, maxconn: usize) -> Vec<Return<H>> {
        self.maxconn = maxconn;
        self.renew_cap();
        let reason = if self.closed { CloseReason::WithPool } else { CloseReason::Surplus };
        let discarded = self.take_idle_above(maxconn, reason);
        if self.closed {
            // They have been counted, and are counted again when they are discarded.
            let counted = &mut self.stats.closed[CloseReason::WithPool as usize];
            *counted = counted.saturating_sub(discarded.len() as u64);
        }
        self.serve();
        self.after.chores |= self.wants_refill();
        discarded
    }

    /// Takes out the idle connections above a limit, to be closed, the oldest first.
    pub(super) fn take_idle_above(&mut self, most: usize, reason: CloseReason) -> Vec<Return<H>> {
        // The pool will not keep those that are being returned above the limit, so they need no room here.
        let surplus = self.table.occupied().saturating_sub(most.saturating_add(self.table.count(State::Returning)));
        let surplus: Vec<u32> = self.idle.drain(..surplus.min(self.idle.len())).collect();
        surplus.into_iter().filter_map(|index| self.begin_discard(index, reason)).collect()
    }

    /// Counts the connections that are listed as idle or lent.
    pub(super) fn listed(&self) -> usize {
        self.table.count(State::Idle) + self.table.count(State::Lent)
    }

    /// Opens or closes the pool, and touches no connection.
    pub(crate) fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
        self.closed_how = Closed::Wholly;
        self.renew_listed();
        self.after.chores |= self.policy.has_housekeeper && (!closed || !self.deferred_returns.is_empty());
        if closed {
            self.reset_backoff();
            self.dismiss_waiters();
        }
        self.wake_closers();
    }

    /// Closes the pool. The caller closes its connections; those whose deferred return no caller has begun come out here.
    pub(crate) fn close(&mut self) -> Result<Vec<Arc<H>>, Refusal> {
        let gently = self.closed && self.closed_how == Closed::Gently;
        if !gently && self.ensure_open() == Err(Refusal::Closed) {
            return Err(Refusal::Closed);
        }
        self.end_all_uses();
        self.set_closed(true);
        if gently {
            self.closed_how = Closed::Twice;
        }
        let unreturned: Vec<_> = std::iter::from_fn(|| self.next_deferred_return(NO_CALLER)).collect();
        for returning in &unreturned {
            self.discard(returning.slot, CloseReason::WithPool);
        }
        self.forget_all_inherited();
        self.begin_closing(unreturned.len());
        self.stats.closed[CloseReason::WithPool as usize] += self.listed() as u64;
        Ok(unreturned.into_iter().map(|returning| returning.connection).collect())
    }

    /// Empties the pool and opens it. Its connections are dropped, and its waiters ask anew.
    pub(crate) fn reset(&mut self) {
        self.dismiss_waiters();
        self.idle.clear();
        for state in [State::Opening, State::Idle, State::Lent, State::Checking, State::Returning] {
            for index in self.table.in_state(state).collect::<Vec<_>>() {
                self.empty(index);
            }
        }
        self.deferred_returns.clear();
        self.forgotten.clear();
        self.forget_all_inherited();
        self.closed = false;
        self.closed_how = Closed::Wholly;
        self.wake_closers();
        self.renew_listed();
        self.end_press();
        self.last_number = 0;
        self.connect_error = None;
        self.outage = Outage::default();
        self.reset_refill();
        self.reset_growth();
        self.reset_backoff();
        self.stats = Stats::default();
        self.usage_told = Span::ZERO;
        self.times = Times::default();
        (self.slow_requests, self.requests_told) = (0, 0);
        (self.after.chores, self.after.workers) = (false, 0);
    }

    /// Empties the pool if it comes from another process, and remembers that one's loans.
    pub(crate) fn enter_process(&mut self, process: u64, seed: u64) {
        if self.process != process {
            self.process = process;
            self.rng = Rng::new(seed);
            let closed = (self.closed, self.closed_how);
            let inherited = self.loans_to_inherit();
            self.reset();
            self.inherited = inherited;
            self.forget_grants();
            (self.closed, self.closed_how) = closed;
            self.after.chores |= self.policy.has_housekeeper && !self.closed;
        }
    }

    /// Wakes all waiters, to find out what has happened. What they were promised is idle, or free, again.
    fn dismiss_waiters(&mut self) {
        let promised = self.queue.dismiss(&mut self.after.to_wake);
        for index in promised.into_iter().filter_map(|slot| self.table.find(slot)).collect::<Vec<_>>() {
            if self.table.get(index).state == State::Promised {
                self.table.advance(index, State::Idle);
                self.idle.push(index);
            } else {
                self.empty(index);
            }
        }
    }
}
