//! putconn.

use super::{Returning, SharedLedger};
use crate::ledger::Return;
use crate::question::{Unanswered, Want};
use crate::queue::Wake;
use crate::refusal::Refusal;
use crate::slot::SlotId;
use crate::time::Moment;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Takes a lent connection from its borrower. The caller names it by its address, by what it is filed under, or by
    /// both, which must then agree; `close` says that the pool is not to keep it.
    ///
    /// # Errors
    /// [`Unanswered::Compare`], [`Refusal::Closed`], [`Refusal::Unkeyed`] and [`Refusal::WrongKey`].
    pub fn begin_return(
        &self,
        address: Option<usize>,
        filed: Option<&Want<H>>,
        close: bool,
        now: Moment,
    ) -> Result<Returning<'_, H, W>, Unanswered<H>> {
        Ok(self.returning(self.edit_at(now, |ledger| ledger.begin_return(address, filed, close))?))
    }

    /// Takes one loan from its borrower; `close` says that the pool is not to keep the connection.
    ///
    /// # Errors
    /// [`Refusal::Closed`]; [`Refusal::LoanEnded`]: it has come back since.
    pub fn begin_return_of(&self, slot: SlotId, close: bool, now: Moment) -> Result<Returning<'_, H, W>, Refusal> {
        Ok(self.returning(self.edit_at(now, |ledger| ledger.begin_return_of(slot, close))?))
    }

    pub(super) fn returning(&self, begun: Return<H>) -> Returning<'_, H, W> {
        let Return { slot, connection, closing, lent_for, overdue } = begun;
        Returning { ledger: self, slot, connection, closing, lent_for, overdue, deferred: false }
    }

    pub(super) fn all_returning(&self, begun: Vec<Return<H>>) -> Vec<Returning<'_, H, W>> {
        begun.into_iter().map(|begun| self.returning(begun)).collect()
    }
}
