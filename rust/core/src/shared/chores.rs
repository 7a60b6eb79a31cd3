//! Housekeeping.

use super::{Refill, Returning, SharedLedger};
use crate::caller::Caller;
use crate::ledger::{ChoreDecision, Ledger};
use crate::queue::Wake;
use crate::stats::LoanReport;
use crate::time::Moment;

/// Work that no caller waits for.
#[must_use]
pub enum Chore<'l, H, W: Wake> {
    /// The caller finishes this return, or closes the connection if [`Returning::closing`] says why.
    Return(Returning<'l, H, W>),
    /// The caller reports this loan, which lasts too long.
    Report(LoanReport<H>),
    /// The caller opens one more connection, to lie idle.
    Open(Refill<'l, H, W>),
    /// There is nothing to do until then.
    Rest(Moment),
}

impl<H, W: Wake> SharedLedger<H, W> {
    /// Notes that a wake-up has not reached the housekeeper, so that the next chore to fall due wakes it again.
    pub fn housekeeper_missed(&self) {
        self.ledger.lock().housekeeper_missed();
    }

    /// Sets the waker that is called from now on when there are chores. The housekeeper that it wakes takes them with
    /// [`SharedLedger::chore`].
    pub fn set_housekeeper(&self, housekeeper: W) {
        // A pool that is made anew in the same place has the same housekeeper.
        let _ = self.housekeeper.set(housekeeper);
    }

    /// Tells this caller what to do next. One that does not report leaves each [`Chore::Report`] to another.
    pub fn chore(&self, caller: Caller, reports: bool, now: Moment) -> Chore<'_, H, W> {
        match self.edit_at(now, |ledger| ledger.chore(caller, reports)) {
            ChoreDecision::Return(begun) => Chore::Return(self.returning(begun)),
            ChoreDecision::Report(report) => Chore::Report(report),
            ChoreDecision::Open(number) => Chore::Open(Refill { ledger: self, number }),
            ChoreDecision::Rest(until) => Chore::Rest(until),
        }
    }

    /// Says whether another caller is opening one of the connections that are missing.
    pub fn is_refilled_by_another(&self, caller: Caller) -> bool {
        self.edit(|ledger| ledger.is_refilled_by_another(caller))
    }

    /// Lets the next missing connection be opened without a pause, though the last connect has failed.
    pub fn hurry_refill(&self) {
        self.edit(Ledger::hurry_refill);
    }
}
