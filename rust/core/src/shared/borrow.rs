//! getconn.

use std::sync::Arc;

use super::{Checking, Reservation, Returning, Seek, SharedLedger, Waiter};
use crate::ledger::{Busy, CheckOutDecision, Ledger};
use crate::question::{Unanswered, Want};
use crate::queue::{Rank, WaiterId, Wake};
use crate::time::Moment;

/// The answer to a borrower.
#[must_use]
pub enum CheckOut<'l, H, W: Wake> {
    /// The connection is lent.
    Lent(Arc<H>),
    /// The borrower must check this connection, or close it, before it can be lent.
    Check(Checking<'l, H, W>),
    /// There is room: the borrower opens a connection and fulfils this.
    Reserved(Reservation<'l, H, W>),
    /// The borrower finishes this deferred return, and asks again.
    FinishReturn(Returning<'l, H, W>),
    /// The borrower asks again.
    AskAgain,
    /// The borrower asks the grantor for room, and then again by this.
    Seek(Seek<'l, H, W>),
    /// The connect that the borrower waited for has failed, with this error.
    ConnectFailed(Arc<H>),
    /// No connection can be lent yet. A waiter that comes with it replaces the one that the borrower brought, if any.
    Busy(Busy, Option<Waiter<'l, H, W>>),
}

impl<H, W: Wake> SharedLedger<H, W> {
    /// Gives out the next automatic number.
    pub fn next_number(&self) -> u64 {
        self.edit(Ledger::next_number)
    }

    /// Answers a borrower. It offers a waker if it is willing to wait, and brings its waiter if it has waited.
    ///
    /// Told that the pool is busy, a willing borrower waits until its waker is called, and asks again. The waiter that it
    /// brings stays valid until it is dropped or [`Waiter::leave`]s, whatever the answer is.
    ///
    /// # Errors
    /// [`Unanswered::Compare`], [`crate::Refusal::Closed`] and [`crate::Refusal::Reentrant`].
    pub fn check_out(
        &self,
        want: &Want<H>,
        waiter: Option<&Waiter<'_, H, W>>,
        waker: Option<W>,
        now: Moment,
    ) -> Result<CheckOut<'_, H, W>, Unanswered<H>> {
        self.check_out_as(Rank::Normal, want, waiter, waker, now)
    }

    /// As [`SharedLedger::check_out`], for a caller of this rank, which is the same whenever it asks again.
    ///
    /// # Errors
    /// Those of [`SharedLedger::check_out`].
    pub fn check_out_as(
        &self,
        rank: Rank,
        want: &Want<H>,
        waiter: Option<&Waiter<'_, H, W>>,
        waker: Option<W>,
        now: Moment,
    ) -> Result<CheckOut<'_, H, W>, Unanswered<H>> {
        let known = waiter.map(|waiter| waiter.id);
        Ok(self.checked_out(self.edit_at(now, |ledger| ledger.check_out(want, rank, known, waker, true))?, known))
    }

    pub(super) fn checked_out(&self, decision: CheckOutDecision<H>, known: Option<WaiterId>) -> CheckOut<'_, H, W> {
        match decision {
            CheckOutDecision::Lent(connection) => CheckOut::Lent(connection),
            CheckOutDecision::Check(slot, connection, check) => {
                CheckOut::Check(Checking { ledger: self, slot, connection, check })
            }
            CheckOutDecision::Reserved(slot) => CheckOut::Reserved(Reservation { ledger: self, slot }),
            CheckOutDecision::FinishReturn(begun) => CheckOut::FinishReturn(self.returning(begun)),
            CheckOutDecision::AskAgain => CheckOut::AskAgain,
            CheckOutDecision::Seek(seeker) => CheckOut::Seek(Seek { ledger: self, seeker, ended: false }),
            CheckOutDecision::ConnectFailed(error) => CheckOut::ConnectFailed(error),
            CheckOutDecision::Busy(busy, id) => {
                let joined = id.filter(|&id| known != Some(id));
                CheckOut::Busy(busy, joined.map(|id| Waiter { ledger: self, id }))
            }
        }
    }
}
