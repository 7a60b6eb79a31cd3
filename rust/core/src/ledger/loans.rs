//! Keeping an eye on loans: what is out, what lasts too long, and what its borrower has forgotten.

use std::sync::Arc;

use super::Ledger;
use crate::key::{Caller, Key};
use crate::reason::Reason;
use crate::slot::{SlotId, State};
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

    /// Tells for how long the oldest loan has lasted, and who borrowed it.
    pub(crate) fn oldest_loan(&self) -> Option<(Span, Caller)> {
        let lent = self.table.in_state(State::Lent).map(|index| self.table.get(index));
        let oldest = lent.min_by_key(|slot| slot.generation)?;
        Some((self.now.since(oldest.since), oldest.borrower))
    }

    /// Finds a loan that lasts too long and has not been reported.
    pub(super) fn overdue(&mut self) -> Option<LoanReport<H>> {
        let late = |&index: &u32| {
            let slot = self.table.get(index);
            !slot.overdue && self.now >= slot.since.after(self.policy.leak_after)
        };
        let index = self.table.in_state(State::Lent).find(late)?;
        self.table.get_mut(index).overdue = true;
        self.stats.leaks += 1;
        self.report(index)
    }

    /// Tells what is known of a loan.
    fn report(&self, index: u32) -> Option<LoanReport<H>> {
        let slot = self.table.get(index);
        Some(LoanReport {
            key: slot.key.to_loan_key()?,
            age: self.now.since(slot.since),
            borrower: slot.borrower,
            note: slot.note.clone(),
        })
    }

    /// Frees the slot of a loan that its borrower has forgotten: its connection is gone. It is called at any moment, so the
    /// keeper is not woken; whoever calls it sees to the chores.
    pub(crate) fn reclaim(&mut self, slot: SlotId) {
        let Some(index) = self.still_lent(slot) else { return };
        if !self.closed {
            self.stats.reclaimed += 1;
            self.stats.count_closed(Reason::Reclaimed);
            self.stats.usage.add(self.now.since(self.table.get(index).since));
        }
        self.vacate(index);
        self.after.chores = false;
    }

    /// Tells what is known of a loan of an open pool, unless it has come back since.
    pub(crate) fn loan_report(&self, slot: SlotId) -> Option<LoanReport<H>> {
        self.still_lent(slot).filter(|_| !self.closed).and_then(|index| self.report(index))
    }

    fn still_lent(&self, slot: SlotId) -> Option<u32> {
        self.table.find(slot).filter(|&index| self.table.get(index).state == State::Lent)
    }

    /// Names the loan of the connection at `address`, if it is lent without a user's key.
    pub(crate) fn unkeyed_loan(&self, address: usize) -> Option<SlotId> {
        let index = self.table.lent_at(address)?;
        matches!(self.table.get(index).key, Key::Automatic(_)).then(|| self.table.id(index))
    }

    /// Puts another handle of the same connection into its slot.
    pub(crate) fn replace_handle(&mut self, slot: SlotId, handle: Arc<H>) {
        let displaced = match self.table.find(slot) {
            Some(index) => self.table.get_mut(index).connection.replace(handle),
            None => Some(handle),
        };
        self.after.handles.extend(displaced);
    }

    /// Notes something of the loan of the connection at `address`. The first note stays.
    pub(crate) fn annotate(&mut self, address: usize, note: Arc<H>) {
        let index = self.table.lent_at(address).filter(|&index| self.table.get(index).note.is_none());
        match index {
            Some(index) => self.table.get_mut(index).note = Some(note),
            None => self.after.handles.push(note),
        }
    }
}
