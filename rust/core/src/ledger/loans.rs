//! Loans: which there are, which last too long, and which their borrowers have forgotten.

use std::sync::Arc;

use super::Ledger;
use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::key::{Key, LoanKey};
use crate::question::{Unanswered, Want};
use crate::refusal::Refusal;
use crate::slot::{Slot, SlotId, State};
use crate::stats::LoanReport;
use crate::time::Span;

impl<H, W> Ledger<H, W> {
    /// Reports all loans, each with its generation and its connection, in no order.
    pub(crate) fn loans(&self) -> Vec<(u64, LoanReport<H>, Arc<H>)> {
        let report = |index: u32| {
            let slot = self.table.get(index);
            Some((slot.generation, self.report(index)?, slot.connection.clone()?))
        };
        self.table.in_state(State::Lent).filter_map(report).collect()
    }

    /// Tells how long the oldest loan of an open connection has lasted, and which caller borrowed it.
    pub(crate) fn oldest_loan(&self) -> Option<(Span, Caller)> {
        let lent =
            self.table.in_state(State::Lent).filter(|_| self.has_open_loans()).map(|index| self.table.get(index));
        let oldest = lent.min_by_key(|slot| slot.generation)?;
        Some((self.now.since(oldest.since), oldest.borrower))
    }

    /// Reports a loan that lasts too long and has not been reported, and marks it as reported.
    pub(super) fn report_overdue(&mut self) -> Option<LoanReport<H>> {
        let late = |&index: &u32| {
            let slot = self.table.get(index);
            !slot.overdue && self.now >= slot.since.after(self.policy.leak_after)
        };
        let index = self.table.in_state(State::Lent).find(late)?;
        self.table.get_mut(index).overdue = true;
        self.stats.leaks += 1;
        self.report(index)
    }

    /// Reports a loan.
    fn report(&self, index: u32) -> Option<LoanReport<H>> {
        let slot = self.table.get(index);
        Some(LoanReport {
            key: slot.key.to_loan_key()?,
            age: self.now.since(slot.since),
            borrower: slot.borrower,
            note: slot.note.clone(),
        })
    }

    /// Frees the slot of a loan whose connection is gone, since its borrower has forgotten it. It is called at any moment, so
    /// it does not wake the housekeeper; the caller does, if `true`. What is known of the loan is kept for the log.
    pub(crate) fn reclaim(&mut self, slot: SlotId, known: Option<String>) -> bool {
        let Some(index) = self.still_lent(slot) else { return false };
        self.forgotten.extend(known);
        if self.has_open_loans() {
            self.stats.reclaimed += 1;
            self.stats.count_closed(CloseReason::Reclaimed);
        }
        self.vacate(index);
        // No worker can start now.
        while self.after.workers > 0 {
            self.after.workers -= 1;
            self.worker_missed();
        }
        self.after.chores = false;
        self.postpone_grants();
        self.policy.has_housekeeper
    }

    pub(crate) fn has_forgotten(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// Takes what is known of the loans that were forgotten.
    pub(crate) fn take_forgotten(&mut self) -> Vec<String> {
        std::mem::take(&mut self.forgotten)
    }

    /// Reports a loan, unless it has ended or its connection is closed.
    pub(crate) fn loan_report(&self, slot: SlotId) -> Option<LoanReport<H>> {
        self.still_lent(slot).filter(|_| self.has_open_loans()).and_then(|index| self.report(index))
    }

    /// Tells the last generation, so that a block can find the loan that is made for it after this; refuses a key that
    /// is lent.
    pub(crate) fn begin_block(&self, want: Option<&Want<H>>) -> Result<u64, Unanswered<H>> {
        let filed = want.map_or(Ok(None), |want| self.find(want))?.map(|index| self.table.get(index));
        if filed.is_some_and(|slot| slot.state == State::Lent && slot.opener.is_none()) {
            return Err(Refusal::Taken.into());
        }
        Ok(self.table.generation())
    }

    /// Names the loan of the connection at `address` that was made for this borrower after `since`.
    pub(crate) fn loan_since(&self, address: usize, borrower: Caller, since: u64) -> Option<SlotId> {
        self.loan_if(address, |slot| slot.generation > since && slot.borrower == borrower)
    }

    /// As [`Ledger::loan_since`], for a block. A `getconn` of a subclass may have let another thread borrow: then that loan is
    /// the block's, unless another caller has got it too. `None`: the pool does not know the object. The ledger refuses a
    /// connection that is lent to another caller.
    pub(crate) fn own_loan(&self, address: usize, borrower: Caller, since: u64) -> Result<Option<SlotId>, Refusal> {
        let own = self.loan_since(address, borrower, since);
        let own = own.or_else(|| self.loan_if(address, |slot| slot.generation > since && !slot.shared));
        if own.is_none() && self.table.lent_at(address).is_some() { Err(Refusal::Taken) } else { Ok(own) }
    }

    fn loan_if(&self, address: usize, is: impl Fn(&Slot<H>) -> bool) -> Option<SlotId> {
        self.table.lent_at_if(address, is).map(|index| self.table.id(index))
    }

    /// Names the loan of the connection at `address`, and its key; of several, the latest.
    pub(crate) fn loan_at(&self, address: usize) -> Option<(SlotId, LoanKey<H>)> {
        let index = self.table.lent_at(address)?;
        Some((self.table.id(index), self.table.get(index).key.to_loan_key()?))
    }

    /// Finds the slot of a loan, unless it has ended.
    pub(super) fn still_lent(&self, slot: SlotId) -> Option<u32> {
        self.table.find(slot).filter(|&index| self.table.get(index).state == State::Lent)
    }

    /// Says whether a loan still lasts.
    pub(crate) fn is_lent(&self, slot: SlotId) -> bool {
        self.still_lent(slot).is_some()
    }

    /// Gives the connection of a loan, if it still lasts and was made without a user's key.
    pub(crate) fn unkeyed(&self, slot: SlotId) -> Option<Arc<H>> {
        let slot = self.table.get(self.still_lent(slot)?);
        slot.connection.clone().filter(|_| matches!(slot.key, Key::Automatic(_)))
    }

    /// Puts another handle of the same connection into its slot. Gives the one that is not needed.
    #[must_use = "handles are dropped after the unlock, not here"]
    pub(crate) fn replace_handle(&mut self, slot: SlotId, handle: Arc<H>) -> Option<Arc<H>> {
        match self.table.find(slot) {
            Some(index) => self.table.get_mut(index).connection.replace(handle),
            None => Some(handle),
        }
    }

    /// Adds a note to a loan, unless it has ended. The first note stays.
    pub(crate) fn annotate(&mut self, slot: SlotId, note: Arc<H>) {
        let index = self.still_lent(slot).filter(|&index| self.table.get(index).note.is_none());
        match index {
            Some(index) => self.table.get_mut(index).note = Some(note),
            None => self.after.handles.push(note),
        }
    }
}
