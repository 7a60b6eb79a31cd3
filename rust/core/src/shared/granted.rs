//! Granted room: what a pool that shares a limit with others asks of its grantor.

use super::{CheckOut, Reserve, Returning, SharedLedger, Waiter};
use crate::caller::Caller;
use crate::ledger::{Dues, Ledger, Seeker};
use crate::question::{Unanswered, Want};
use crate::queue::{Rank, Wake};
use crate::time::Moment;

/// Grants room to several pools. It is never called while the ledger's mutex is held.
pub trait Grantor: Send + Sync {
    /// Takes so many grants back. Says whether it has: if not, it is told again after the next edit.
    fn release(&self, count: usize) -> bool;

    /// Hears that waiters of this pool begin to want grants: see [`SharedLedger::wanted`]. Says whether it has heard.
    fn wants(&self) -> bool;
}

impl<H, W: Wake> SharedLedger<H, W> {
    /// Sets the grantor of a pool that shares a limit.
    pub fn set_grantor(&self, grantor: Box<dyn Grantor>) {
        // A pool that is made anew in the same place has the same grantor.
        let _ = self.grantor.set(grantor);
    }

    /// Says whether the pool, which is empty, fills slots only in room that is granted.
    pub fn set_limited(&self, limited: bool) {
        self.edit(|ledger| ledger.set_limited(limited));
    }

    /// Counts the grants that the waiters could use now.
    pub fn wanted(&self, now: Moment) -> usize {
        self.edit_at(now, |ledger| ledger.wanted())
    }

    /// Grants room, which goes to the first waiters. Says for how many grants there was no use: they are the caller's again.
    #[must_use = "the caller gives back what there was no use for"]
    pub fn grant(&self, count: usize, now: Moment) -> usize {
        self.edit_at(now, |ledger| ledger.grant(count))
    }

    /// Notes that others wait, so that the pool keeps no more than `most` connections, and minconn; or that none do. Gives the idle
    /// connections above that, to be closed.
    pub fn press(&self, most: Option<usize>) -> Vec<Returning<'_, H, W>> {
        self.all_returning(self.edit(|ledger| ledger.press(most)))
    }

    /// Notes that the caller has closed what [`SharedLedger::close`] gave.
    pub fn end_closing(&self) {
        self.edit(Ledger::end_closing);
    }

    /// Counts what the pool holds of the grantor.
    #[cfg(test)]
    pub(crate) fn granted(&self) -> usize {
        self.ledger.lock().granted()
    }

    #[cold]
    pub(super) fn tell_grantor(&self, Dues { released, wants }: Dues) {
        let Some(grantor) = self.grantor.get() else { return };
        if released > 0 && !grantor.release(released) {
            self.ledger.lock().keep_grants(released);
        }
        if wants && !grantor.wants() {
            self.ledger.lock().grantor_missed();
        }
    }
}

/// The right to ask the grantor for room, without the mutex, and then to ask again with its answer. Dropped, it counts as refused.
#[must_use = "dropping it counts as a refusal"]
pub struct Seek<'l, H, W: Wake> {
    pub(super) ledger: &'l SharedLedger<H, W>,
    pub(super) seeker: Seeker,
    pub(super) ended: bool,
}

impl<'l, H, W: Wake> Seek<'l, H, W> {
    /// As [`SharedLedger::check_out_as`], with the grantor's answer. A grant for which there is no use goes back to the grantor.
    ///
    /// # Errors
    /// Those of [`SharedLedger::check_out`].
    pub fn check_out_as(
        mut self,
        granted: bool,
        rank: Rank,
        want: &Want<H>,
        waiter: Option<&Waiter<'_, H, W>>,
        waker: Option<W>,
        now: Moment,
    ) -> Result<CheckOut<'l, H, W>, Unanswered<H>> {
        self.ended = true;
        let known = waiter.map(|waiter| waiter.id);
        let sought = (self.seeker, granted);
        let answer = self.ledger.edit_at(now, |ledger| ledger.check_out_sought(sought, want, rank, known, waker))?;
        Ok(self.ledger.checked_out(answer, known))
    }

    /// As [`SharedLedger::reserve`], with the grantor's answer.
    ///
    /// # Errors
    /// Those of [`SharedLedger::reserve`].
    pub fn reserve(
        mut self,
        granted: bool,
        want: Option<&Want<H>>,
        caller: Caller,
    ) -> Result<Reserve<'l, H, W>, Unanswered<H>> {
        self.ended = true;
        let sought = (self.seeker, granted);
        let answer = self.ledger.edit(|ledger| ledger.reserve_sought(sought, want, caller))?;
        Ok(self.ledger.reserved(answer))
    }
}

impl<H, W: Wake> Drop for Seek<'_, H, W> {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.edit(|ledger| ledger.give_up_seek(self.seeker));
        }
    }
}
