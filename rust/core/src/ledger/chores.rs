//! Housekeeping: work that no caller waits for. The ledger says what comes next; the housekeeper does it.

use super::{Ledger, Policy, Return};
use crate::caller::{Caller, NO_CALLER};
use crate::close_reason::CloseReason;
use crate::slot::{SlotId, State};
use crate::stats::LoanReport;
use crate::time::{Moment, Span};

/// The first pause after a failed refill, doubled by each further one, and the longest. Short enough for a server that
/// is back to be noticed within five seconds.
const FIRST_PAUSE: Span = Span::from_millis(250);
const LONGEST_PAUSE: Span = Span::from_millis(4_000);

/// The pause after a visit of the housekeeper that found nothing to do, doubled by each further one, and the longest.
const FIRST_LULL: Span = Span::from_millis(10);
const LONGEST_LULL: Span = Span::from_millis(1_000);

/// When no caller has begun a deferred return for this long, the housekeeping is behind, and no more returns are deferred.
const LONGEST_DEFERRAL: Span = Span::from_millis(100);

/// A return that was deferred to the housekeeping.
#[derive(Clone, Copy)]
pub(crate) struct DeferredReturn {
    slot: SlotId,
    closing: Option<CloseReason>,
    since: Moment,
}

/// The next chore.
pub(crate) enum ChoreDecision<H> {
    /// The caller finishes this return.
    Return(Return<H>),
    /// The caller reports this loan.
    Report(LoanReport<H>),
    /// The caller opens one more connection, to lie idle.
    Open(u64),
    /// There is nothing to do until then.
    Rest(Moment),
}

/// The state of the opening of missing connections.
#[derive(Default)]
pub(crate) struct RefillState {
    /// How many refills there have been.
    number: u64,
    /// The refill that is under way, and the caller that does it.
    under_way: Option<(u64, Caller)>,
    /// When the next refill may begin.
    at: Moment,
    /// The pause after the last failure.
    pause: Span,
}

/// Until when the housekeeper rests.
#[derive(Default)]
pub(crate) struct RestState {
    /// Until then, unless it is woken.
    until: Moment,
    /// What falls due by the clock does not wake it before then, since its last visits found nothing to do.
    lull_until: Moment,
    /// How long that pause is.
    lull: Span,
}

impl<H, W> Ledger<H, W> {
    /// Tells the caller what to do next.
    pub(crate) fn chore(&mut self, caller: Caller, reports: bool) -> ChoreDecision<H> {
        if let Some(chore) = self.next_chore(caller, reports) {
            (self.rest.lull, self.rest.lull_until) = (Span::ZERO, Moment::START);
            return chore;
        }
        if self.closed {
            return ChoreDecision::Rest(Moment::NEVER);
        }
        let due = self.next_due();
        if !self.policy.has_housekeeper {
            return ChoreDecision::Rest(due);
        }
        if self.rest.until <= self.now {
            self.rest.lull = self.rest.lull.doubled().clamp(FIRST_LULL, LONGEST_LULL);
            self.rest.lull_until = self.now.after(self.rest.lull);
            self.rest.until = due.max(self.rest.lull_until);
        } else {
            // The caller may not be the housekeeper, which rests until then all the same.
            self.note_due(due);
        }
        ChoreDecision::Rest(self.rest.until)
    }

    fn next_chore(&mut self, caller: Caller, reports: bool) -> Option<ChoreDecision<H>> {
        if let Some(returning) = self.next_deferred_return(caller) {
            return Some(ChoreDecision::Return(returning));
        }
        if self.closed {
            return None;
        }
        if let Some(outdated) = self.take_outdated(caller) {
            return Some(ChoreDecision::Return(outdated));
        }
        if let Some(report) = reports.then(|| self.report_overdue()).flatten() {
            return Some(ChoreDecision::Report(report));
        }
        if self.lacks_some()
            && self.refill.under_way.is_none()
            && self.now >= self.refill.at
            && self.connects_allowed() > 0
        {
            self.backoff.began = self.now;
            self.refill.number += 1;
            self.refill.under_way = Some((self.refill.number, caller));
            return Some(ChoreDecision::Open(self.refill.number));
        }
        None
    }

    /// Wakes the housekeeper if it rests until later than this. In a lull, it comes at the end of the lull.
    /// Notes that the housekeeper has not heard until when it is to rest.
    pub(crate) fn housekeeper_missed(&mut self) {
        self.rest.until = Moment::NEVER;
    }

    pub(super) fn note_due(&mut self, at: Moment) {
        let at = at.max(self.rest.lull_until);
        if at < self.rest.until {
            self.rest.until = at;
            self.after.chores = true;
        }
    }

    /// Defers a return to the housekeeping. `false`: it is not deferred, since a caller waits for a slot, the housekeeping is
    /// behind, or the pool is closed.
    pub(crate) fn defer_return(&mut self, slot: SlotId, closing: Option<CloseReason>) -> bool {
        let behind =
            self.deferred_returns.front().is_some_and(|oldest| self.now >= oldest.since.after(LONGEST_DEFERRAL));
        let declined = self.closed || behind || self.queue.waiting_for_room() > 0;
        let found = self.table.find(slot).filter(|_| !declined);
        if let Some(index) = found {
            self.begin_transit(index, NO_CALLER);
            self.deferred_returns.push_back(DeferredReturn { slot, closing, since: self.now });
            self.after.chores = true;
        }
        found.is_some()
    }

    /// Takes the oldest deferred return, for this caller to finish.
    pub(super) fn next_deferred_return(&mut self, caller: Caller) -> Option<Return<H>> {
        while let Some(DeferredReturn { slot, closing, .. }) = self.deferred_returns.pop_front() {
            let Some(index) = self.table.find(slot) else { continue };
            self.begin_transit(index, caller);
            if let Some(connection) = self.table.get(index).connection.clone() {
                return Some(Return { slot, connection, closing, lent_for: None, overdue: false });
            }
        }
        None
    }

    /// Takes out an idle connection that is too old, or has been idle for too long.
    fn take_outdated(&mut self, caller: Caller) -> Option<Return<H>> {
        let old = |&index: &u32| self.now >= self.table.get(index).health.replace_at;
        let (at, reason) = if let Some(at) = self.idle.iter().position(old) {
            (at, self.table.get(self.idle[at]).health.why)
        } else {
            let (at, end) = self.idle_end()?;
            (at, (self.now >= end).then_some(CloseReason::Idle)?)
        };
        let index = self.idle.remove(at);
        self.begin_transit(index, caller);
        self.begin_discard(index, reason)
    }

    /// Finds the connection that has been idle for longest, and when it must be closed. `minconn` of them stay.
    fn idle_end(&self) -> Option<(usize, Moment)> {
        if self.idle.len() <= self.minconn || self.policy.max_idle == Span::ZERO {
            return None;
        }
        let since = self.idle.iter().map(|&index| self.table.get(index).since);
        let (at, since) = since.enumerate().min_by_key(|&(_, since)| since)?;
        Some((at, since.after(self.policy.max_idle)))
    }

    /// Says whether fewer than minconn connections are open or being opened, and there is room for more. While workers connect, it
    /// is theirs.
    fn lacks_some(&self) -> bool {
        self.table.occupied() < self.minconn && (self.has_room() || self.lacks_grant()) && !self.is_growing()
    }

    /// Says whether the housekeeper must be told that a connection is missing.
    pub(super) fn wants_refill(&self) -> bool {
        self.policy.has_housekeeper && !self.closed && self.refill.under_way.is_none() && self.lacks_some()
    }

    /// Ends a refill. After a failed one there is a pause.
    pub(crate) fn end_refill(&mut self, number: u64, failed: bool) {
        if self.refill.under_way.is_none_or(|(under_way, _)| under_way != number) {
            return;
        }
        self.refill.under_way = None;
        if failed {
            self.refill.pause = self.refill.pause.doubled().clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.refill.at = self.now.after(self.refill.pause.jittered(&mut self.rng));
        }
        self.serve();
        self.call_workers();
        // A caller that was told of the refill under way must learn when the next one is due.
        self.after.chores |= self.policy.has_housekeeper && !self.closed && self.lacks_some();
    }

    /// Says whether a refill is under way.
    pub(super) fn is_refilling(&self) -> bool {
        self.refill.under_way.is_some()
    }

    /// Says whether another caller does a refill.
    pub(crate) fn is_refilled_by_another(&self, caller: Caller) -> bool {
        self.refill.under_way.is_some_and(|(_, by)| by != caller)
    }

    /// Counts the refill that is under way if its connect has not begun.
    pub(super) fn refills_to_begin(&self) -> usize {
        let Some((_, by)) = self.refill.under_way else { return 0 };
        let mut opening = self.table.in_state(State::Opening).map(|index| self.table.get(index));
        usize::from(!opening.any(|slot| slot.in_transit && slot.borrower == by))
    }

    /// Lets the next refill be tried at once.
    pub(crate) fn hurry_refill(&mut self) {
        self.hurry_connect();
        self.refill.at = Moment::START;
        self.refill.pause = Span::ZERO;
    }

    /// Forgets the refill that is under way.
    pub(super) fn reset_refill(&mut self) {
        self.refill = RefillState { number: self.refill.number, ..RefillState::default() };
    }

    /// Notes that the server can be reached: missing connections need not wait any longer.
    pub(super) fn note_reachable(&mut self) {
        if self.refill.at > Moment::START {
            (self.refill.at, self.refill.pause) = (Moment::START, Span::ZERO);
            self.after.chores |= self.wants_refill();
        }
    }

    /// Tells when there may be a chore again. What makes one due sooner wakes the housekeeper ([`Self::note_due`]), except
    /// returns on the fast path: while these may leave more than minconn idle, the housekeeper looks after each `max_idle`.
    fn next_due(&self) -> Moment {
        let Policy { max_idle, leak_after, .. } = self.policy;
        let grows = max_idle > Span::ZERO && self.table.occupied() > self.minconn;
        let look = grows.then(|| self.now.after(max_idle));
        // Lent connections may have come back by then.
        let ends = self.table.connected().map(|slot| slot.health.replace_at).filter(|&end| end > self.now);
        let reports = self.table.in_state(State::Lent).map(|index| self.table.get(index));
        let reports = reports.filter(|slot| !slot.overdue).map(|slot| slot.since.after(leak_after));
        let refill = (self.lacks_some() && self.refill.under_way.is_none()).then_some(self.refill.at);
        let refill = refill.map(|at| if self.connects_allowed() > 0 { at } else { at.max(self.next_try()) });
        let idle = self.idle_end().map(|(_, end)| end);
        look.into_iter().chain(ends).chain(reports).chain(idle).chain(refill).min().unwrap_or(Moment::NEVER)
    }
}
