//! What other people's code reads and edits.

use std::sync::Arc;

use super::SharedLedger;
use crate::key::LoanKey;
use crate::question::{Unanswered, Want};
use crate::queue::Wake;
use crate::stats::{ConnectError, Counts};
use crate::time::Moment;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Counts slots and waiters.
    pub fn counts(&self) -> Counts {
        self.edit(|ledger| ledger.counts())
    }

    /// Tells why the last connect that failed did so.
    pub fn connect_error(&self) -> Option<Arc<ConnectError>> {
        self.edit(|ledger| ledger.connect_error())
    }

    /// Tells the last automatic number given out.
    pub fn last_number(&self) -> u64 {
        self.edit(|ledger| ledger.last_number())
    }

    /// Sets the last automatic number given out.
    pub fn set_last_number(&self, number: u64) {
        self.edit(|ledger| ledger.set_last_number(number));
    }

    /// Lists the idle connections, the next to be lent last.
    pub fn idle(&self) -> Vec<Arc<H>> {
        self.edit(|ledger| ledger.idle())
    }

    /// Says whether the connection at `address` is idle.
    pub fn is_idle(&self, address: usize) -> bool {
        self.edit(|ledger| ledger.is_idle(address))
    }

    /// Says whether a slot has the connection at `address`.
    pub fn holds(&self, address: usize) -> bool {
        self.edit(|ledger| ledger.holds(address))
    }

    /// Lists the loans, the oldest first.
    pub fn lent(&self) -> Vec<(LoanKey<H>, Arc<H>)> {
        in_order(self.edit(|ledger| ledger.lent()))
    }

    /// Replaces the list of idle connections, if its addresses still are `seen`; `false` if they are not.
    #[must_use]
    pub fn replace_idle(&self, seen: &[usize], wanted: Vec<(usize, Arc<H>)>, now: Moment) -> bool {
        self.edit_at(now, |ledger| ledger.replace_idle(seen, wanted))
    }

    /// Inserts a loan that was made elsewhere, in an open pool or a closed one. It replaces one under the same key, or
    /// fulfils the reservation that was made for it.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn insert_loan(
        &self,
        want: &Want<H>,
        address: usize,
        connection: &Arc<H>,
        now: Moment,
    ) -> Result<(), Unanswered<H>> {
        self.edit_at(now, |ledger| ledger.insert_loan(want, address, connection))
    }

    /// Finds the connection that is lent under a key.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn loan(&self, want: &Want<H>) -> Result<Option<Arc<H>>, Unanswered<H>> {
        self.edit(|ledger| ledger.loan(want))
    }

    /// Removes a loan, and gives its connection; `None` if there is no such loan.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn remove_loan(&self, want: &Want<H>) -> Result<Option<Arc<H>>, Unanswered<H>> {
        self.edit(|ledger| ledger.remove_loan(want))
    }
}

/// Sorts loans, which the ledger lists by slot, into the order in which they were made.
pub(super) fn in_order<H>(mut loans: Vec<(u64, LoanKey<H>, Arc<H>)>) -> Vec<(LoanKey<H>, Arc<H>)> {
    loans.sort_unstable_by_key(|&(generation, ..)| generation);
    loans.into_iter().map(|(_, key, connection)| (key, connection)).collect()
}
