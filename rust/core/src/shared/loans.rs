//! Loans: which there are, which last too long, and which their borrowers have forgotten.

use std::sync::Arc;

use super::SharedLedger;
use crate::caller::Caller;
use crate::key::LoanKey;
use crate::ledger::Ledger;
use crate::question::{Unanswered, Want};
use crate::queue::Wake;
use crate::refusal::Refusal;
use crate::slot::SlotId;
use crate::stats::LoanReport;
use crate::time::{Moment, Span};

impl<H, W: Wake> SharedLedger<H, W> {
    /// Reports all loans, each with its connection, the oldest first.
    pub fn loans(&self, now: Moment) -> Vec<(LoanReport<H>, Arc<H>)> {
        let mut loans = self.edit_at(now, |ledger| ledger.loans());
        loans.sort_unstable_by_key(|&(generation, ..)| generation);
        loans.into_iter().map(|(_, report, connection)| (report, connection)).collect()
    }

    /// Tells how long the oldest loan has lasted, and which caller borrowed it.
    pub fn oldest_loan(&self, now: Moment) -> Option<(Span, Caller)> {
        self.edit_at(now, |ledger| ledger.oldest_loan())
    }

    /// Adds a note to a loan, for its reports, unless it has ended. The first note stays.
    pub fn annotate(&self, slot: SlotId, note: Arc<H>) {
        self.edit(|ledger| ledger.annotate(slot, note));
    }

    /// Tells a block that is about to borrow the last generation, for [`SharedLedger::own_loan`].
    ///
    /// # Errors
    /// [`Unanswered::Compare`]; [`Refusal::Taken`]: the key is lent, and a block needs a loan of its own.
    pub fn begin_block(&self, want: Option<&Want<H>>) -> Result<u64, Unanswered<H>> {
        self.edit(|ledger| ledger.begin_block(want))
    }

    /// Names the loan of the connection at `address` that was made for this borrower after `since`.
    pub fn loan_since(&self, address: usize, borrower: Caller, since: u64) -> Option<SlotId> {
        self.edit(|ledger| ledger.loan_since(address, borrower, since))
    }

    /// As [`SharedLedger::loan_since`], for a block; nothing, for an object that the pool does not know.
    ///
    /// # Errors
    /// [`Refusal::Taken`]: the connection is lent to another caller.
    pub fn own_loan(&self, address: usize, borrower: Caller, since: u64) -> Result<Option<SlotId>, Refusal> {
        self.edit(|ledger| ledger.own_loan(address, borrower, since))
    }

    /// Names the loan of the connection at `address`, and its key; of several, the latest.
    pub fn loan_at(&self, address: usize) -> Option<(SlotId, LoanKey<H>)> {
        self.edit(|ledger| ledger.loan_at(address))
    }

    /// Says whether a loan still lasts.
    pub fn is_lent(&self, slot: SlotId) -> bool {
        self.edit(|ledger| ledger.is_lent(slot))
    }

    /// Gives the connection of a loan, if it still lasts and was made without a user's key.
    pub fn unkeyed(&self, slot: SlotId) -> Option<Arc<H>> {
        self.edit(|ledger| ledger.unkeyed(slot))
    }

    /// Puts another handle of the same connection into its slot, for instance a weak one while it is lent.
    pub fn replace_handle(&self, slot: SlotId, handle: Arc<H>) {
        drop(self.edit(|ledger| ledger.replace_handle(slot, handle)));
    }

    /// Reports one loan of an open pool; nothing, if it has ended.
    pub fn loan_report(&self, slot: SlotId, now: Moment) -> Option<LoanReport<H>> {
        self.edit_at(now, |ledger| ledger.loan_report(slot))
    }

    /// Frees the slot of a loan whose connection is gone, unless the loan has ended. The ledger keeps what is known of the
    /// loan until a caller takes it. `true`: the caller must wake the housekeeper.
    pub fn reclaim(&self, slot: SlotId, known: Option<String>, now: Moment) -> bool {
        self.edit_at(now, |ledger| ledger.reclaim(slot, known))
    }

    /// Says whether loans were forgotten that nobody has taken.
    pub fn has_forgotten(&self) -> bool {
        self.ledger.lock().has_forgotten()
    }

    /// Takes what is known of the loans that were forgotten.
    pub fn take_forgotten(&self) -> Vec<String> {
        self.edit(Ledger::take_forgotten)
    }
}
