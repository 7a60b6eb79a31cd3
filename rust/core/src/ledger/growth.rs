//! Growth by workers: callers do not connect, threads of the pool do. A caller that finds nothing idle waits, and gets what
//! comes first: a connection that comes back, or one that a worker has opened.
//!
//! The ledger calls workers while fewer connect than callers wait, and no more at once than the policy allows. A worker that
//! has come opens one connection after the other, as long as callers wait for them. Where no worker comes, the first waiter
//! gets the room, and opens the connection itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Ledger, Return};
use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::queue::WaiterId;
use crate::slot::SlotId;
use crate::stats::{ConnectError, ConnectFailure};
use crate::time::{Moment, Span};

/// A worker that has not come by then does not come any more: its thread or greenlet was ended before it ran.
const LONGEST_START: Span = Span::from_millis(1_000);

/// The workers of this moment.
pub(crate) struct GrowthState<H> {
    /// How many have been called and have not come yet.
    called: usize,
    /// When one was called last.
    called_at: Moment,
    connecting: Vec<Connecting>,
    /// The errors of connects, for the waiters that waited for them.
    failures: BTreeMap<WaiterId, Arc<H>>,
}

impl<H> Default for GrowthState<H> {
    fn default() -> Self {
        Self { called: 0, called_at: Moment::START, connecting: Vec::new(), failures: BTreeMap::new() }
    }
}

/// What one worker does.
struct Connecting {
    slot: SlotId,
    worker: Caller,
    /// Waiters that joined before this number waited when the connect began.
    before: u64,
}

/// How a worker's connect has ended, and what the worker does next.
pub(crate) struct GrowthEnd<H> {
    /// Whether a waiter gets the error.
    pub(crate) told: bool,
    /// A connection that nobody waits for any more, and that the pool does not keep.
    pub(crate) surplus: Option<Return<H>>,
    /// The slot to open the next connection in.
    pub(crate) next: Option<SlotId>,
}

impl<H, W> Ledger<H, W> {
    /// Says whether this caller leaves connects to the workers. A worker does not wait for itself.
    pub(super) fn leaves_connects(&self, caller: Caller) -> bool {
        self.policy.grow.is_some() && !self.growth.connecting.iter().any(|connecting| connecting.worker == caller)
    }

    /// Counts the connections that workers may open for the waiters beyond those that they open now, and for so many more callers with
    /// priority.
    pub(crate) fn room_for_workers(&self, with_priority: usize) -> usize {
        let room = self.cap.min(self.grants.granted).saturating_sub(self.table.occupied());
        let room = room.min(self.admits_to_room(with_priority, self.connects()));
        if self.policy.grow.is_some() { room.min(self.connects_allowed()) } else { 0 }
    }

    /// Says whether a worker connects.
    pub(super) fn is_growing(&self) -> bool {
        !self.growth.connecting.is_empty()
    }

    /// Counts the connects for waiters that are under way. A refill serves them, too.
    fn connects(&self) -> usize {
        self.growth.connecting.len() + usize::from(self.is_refilling())
    }

    /// Counts the connects for waiters that are under way, or that a worker comes to begin.
    pub(super) fn busy_workers(&self) -> usize {
        self.connects() + self.growth.called
    }

    /// Counts the workers that have been called and have not come yet.
    pub(super) fn called_workers(&self) -> usize {
        self.growth.called
    }

    /// Calls as many workers as there are waiters, if it may.
    pub(super) fn call_workers(&mut self) {
        let Some(limit) = self.policy.grow else { return };
        if self.now >= self.growth.called_at.after(LONGEST_START) {
            self.growth.called = 0;
        }
        let busy = self.busy_workers();
        let needed = self.queue.waiting_for_room().min(limit.get()).saturating_sub(busy);
        let called = needed.min(self.room_for_workers(0).saturating_sub(self.growth.called));
        if called > 0 && !self.closed {
            self.growth.called_at = self.now;
            self.growth.called += called;
            self.after.workers += called;
        }
    }

    /// Tells a worker that comes where to open a connection. Nothing: nobody waits for one any more, or it comes too late.
    pub(crate) fn begin_growth(&mut self, worker: Caller) -> Option<SlotId> {
        self.growth.called = self.growth.called.checked_sub(1)?;
        let wanted = self.queue.waiting_for_room().min(self.policy.grow?.get());
        if self.closed || wanted <= self.connects() || self.room_for_workers(0) == 0 {
            return None;
        }
        let index = self.begin_connect();
        self.begin_transit(index, worker);
        let slot = self.table.id(index);
        self.growth.connecting.push(Connecting { slot, worker, before: self.queue.next_serial() });
        Some(slot)
    }

    /// Finds the slot that this worker opens a connection in.
    pub(super) fn slot_of_worker(&self, worker: Caller) -> Option<SlotId> {
        let mut connecting = self.growth.connecting.iter();
        let slot = connecting.find(|connecting| connecting.worker == worker)?.slot;
        self.table.find(slot).map(|_| slot)
    }

    /// Ends a connect of a worker, and tells the worker what to do next if it `goes_on`. A connect that failed is the answer to the
    /// caller that has waited longest; and to all that have waited for it, if no connection is open that may come back and connects are
    /// not held back.
    pub(crate) fn end_growth(
        &mut self,
        slot: SlotId,
        failed: Option<(Arc<H>, Arc<ConnectError>, ConnectFailure)>,
        goes_on: bool,
    ) -> GrowthEnd<H> {
        let mut end = GrowthEnd { told: false, surplus: None, next: None };
        let at = self.growth.connecting.iter().position(|connecting| connecting.slot == slot);
        let Some(Connecting { worker, before, .. }) = at.map(|at| self.growth.connecting.swap_remove(at)) else {
            self.after.handles.extend(failed.map(|(error, ..)| error));
            return end;
        };
        // So that no other worker is called in its place.
        if goes_on {
            self.growth.called += 1;
            self.growth.called_at = self.now;
        }
        match (self.table.find(slot), failed) {
            (Some(index), Some((error, why, failure))) => {
                self.connect_error = Some(why);
                // Callers wait for a connection that may come back.
                let waits = failure == ConnectFailure::Full && self.some_may_come_back();
                let failure = if waits || failure != ConnectFailure::Full { failure } else { ConnectFailure::Outage };
                self.back_off(self.table.get(index).health.opened_in, Arc::clone(&error), failure);
                end.told = if waits {
                    self.after.handles.push(error);
                    true
                } else {
                    self.fail_waiters(before, error)
                };
                self.vacate(index);
            }
            // An override of `_connect` has opened nothing in the pool, or the worker has died.
            (Some(index), None) => self.hand_over_room(index),
            (None, failed) => {
                self.after.handles.extend(failed.map(|(error, ..)| error));
                end.surplus = self.take_surplus(worker);
            }
        }
        if goes_on {
            end.next = self.begin_growth(worker);
        } else {
            self.call_workers();
        }
        self.after.chores |= self.wants_refill();
        end
    }

    /// Notes that a worker that was called does not come. The first waiter opens its connection itself.
    pub(crate) fn worker_missed(&mut self) {
        if let Some(called) = self.growth.called.checked_sub(1) {
            self.growth.called = called;
            if self.queue.waiting_for_room() > 0 && self.may_open() && self.admits_first() && !self.closed {
                let index = self.begin_connect();
                self.hand_over_room(index);
            }
            self.call_workers();
        }
    }

    /// Promises the room of an empty slot to the first waiter.
    fn hand_over_room(&mut self, index: u32) {
        if self.may_hand_over() && !self.closed {
            self.end_transit(index);
            let slot = self.table.id(index);
            self.after.to_wake.extend(self.queue.promise(slot));
            self.keep_time();
        } else {
            self.vacate(index);
        }
    }

    fn fail_waiters(&mut self, before: u64, error: Arc<H>) -> bool {
        let one = self.is_backing_off() || self.table.connected().next().is_some();
        let most = if one { 1 } else { usize::MAX };
        let failed = self.queue.take_first(before, most, &mut self.after.to_wake);
        let told = !failed.is_empty();
        self.growth.failures.extend(failed.into_iter().map(|waiter| (waiter, Arc::clone(&error))));
        self.after.handles.push(error);
        told
    }

    /// Takes the error of the connect that this waiter has waited for.
    pub(super) fn take_failure(&mut self, waiter: WaiterId) -> Option<Arc<H>> {
        self.growth.failures.remove(&waiter)
    }

    /// Takes out a connection that a worker has opened in vain, if the pool keeps none beyond minconn.
    fn take_surplus(&mut self, worker: Caller) -> Option<Return<H>> {
        let surplus = !self.closed && self.policy.max_idle == Span::ZERO && self.idle.len() > self.minconn;
        let index = surplus.then(|| self.idle.pop()).flatten()?;
        self.begin_transit(index, worker);
        self.begin_discard(index, CloseReason::Surplus)
    }

    /// Forgets the workers: they are another process's, or belong to the pool as it was before.
    pub(super) fn reset_growth(&mut self) {
        let GrowthState { failures, .. } = std::mem::take(&mut self.growth);
        self.after.handles.extend(failures.into_values());
    }
}
