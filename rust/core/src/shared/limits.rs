//! Limits, closing, and beginning anew.

use std::sync::Arc;

use super::{Returning, SharedLedger};
use crate::ledger::{Ledger, Policy};
use crate::queue::Wake;
use crate::refusal::Refusal;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Sets how long connections are trusted and kept.
    pub fn set_policy(&self, policy: Policy) {
        self.edit(|ledger| ledger.set_policy(policy));
    }

    /// Sets how many idle connections the pool keeps, from the next return on.
    pub fn set_minconn(&self, minconn: usize) {
        self.edit(|ledger| ledger.set_minconn(minconn));
    }

    /// Sets the limit, and gives the idle connections above it, to be closed. Each frees its slot when it is dropped.
    pub fn set_maxconn(&self, maxconn: usize) -> Vec<Returning<'_, H, W>> {
        self.all_returning(self.edit(|ledger| ledger.set_maxconn(maxconn)))
    }

    /// Sets both limits at once, and gives the idle connections above them, to be closed.
    pub fn resize(&self, minconn: usize, maxconn: usize) -> Vec<Returning<'_, H, W>> {
        self.all_returning(self.edit(|ledger| {
            ledger.set_minconn(minconn);
            ledger.set_maxconn(maxconn)
        }))
    }

    /// Closes the pool, wakes all waiters, and gives every connection, to be closed: first those whose deferred return no
    /// caller has begun, then the idle ones, then the lent ones. The ledger still lists the latter two.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn close(&self) -> Result<Vec<Arc<H>>, Refusal> {
        let (unreturned, idle, lent) =
            self.edit(|ledger| ledger.close().map(|unreturned| (unreturned, ledger.idle(), ledger.lent())))?;
        let lent = super::views::in_order(lent).into_iter().map(|(_, connection)| connection);
        Ok(unreturned.into_iter().chain(idle).chain(lent).collect())
    }

    /// Marks the pool as closed or open, and touches no connection.
    pub fn set_closed(&self, closed: bool) {
        self.edit(|ledger| ledger.set_closed(closed));
    }

    /// Empties the pool and opens it. Its connections are dropped, not closed, and its waiters ask anew.
    pub fn reset(&self) {
        self.edit(Ledger::reset);
    }

    /// Empties the pool if it was filled in another process, which owns these connections: they are dropped, not closed.
    /// The seed is for the random numbers from now on.
    pub fn enter_process(&self, process: u64, seed: u64) {
        self.edit(|ledger| ledger.enter_process(process, seed));
    }
}
