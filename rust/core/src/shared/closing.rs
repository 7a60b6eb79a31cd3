//! A pool that is closed, or not yet open.

use super::{Returning, SharedLedger};
use crate::caller::Caller;
use crate::ledger::Ledger;
use crate::queue::Wake;
use crate::refusal::Refusal;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Refuses if the pool is closed, or not yet open.
    ///
    /// # Errors
    /// [`Refusal::Closed`] and [`Refusal::Unopened`].
    pub fn ensure_open(&self) -> Result<(), Refusal> {
        self.edit(|ledger| ledger.ensure_open())
    }

    /// Refuses if the pool is closed and takes nothing back.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn ensure_returnable(&self) -> Result<(), Refusal> {
        self.edit(|ledger| ledger.ensure_returnable())
    }

    /// Closes the pool, wakes all waiters, and gives its idle connections, to be closed; those that are lent are closed when they come
    /// back. `None`: it is closed already.
    pub fn close_gently(&self, caller: Caller) -> Option<Vec<Returning<'_, H, W>>> {
        self.edit(|ledger| ledger.close_gently(caller)).map(|idle| self.all_returning(idle))
    }

    /// Opens a pool that is not yet open. `false`: it is open already.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn open(&self) -> Result<bool, Refusal> {
        self.edit(Ledger::open)
    }

    /// Makes a pool that was to be opened unopened again, as [`SharedLedger::close_gently`] closes one.
    pub fn unopen(&self, caller: Caller) -> Vec<Returning<'_, H, W>> {
        self.all_returning(self.edit(|ledger| ledger.unopen(caller)))
    }

    /// Counts the connections of a closed pool that are not closed: lent, being opened, being checked, being closed.
    pub fn unclosed(&self) -> usize {
        self.edit(|ledger| ledger.unclosed())
    }

    /// Calls the waker once all connections of a closed pool are closed, or the pool is open. `None`: it is so now.
    pub fn await_returns(&self, waker: W) -> Option<Closer<'_, H, W>> {
        let number = self.edit(|ledger| ledger.await_returns(waker))?;
        Some(Closer { ledger: self, number })
    }
}

/// A caller that waits until all connections of a closed pool are closed. Dropped, it waits no more.
#[must_use = "dropping it ends the wait"]
pub struct Closer<'l, H, W: Wake> {
    ledger: &'l SharedLedger<H, W>,
    number: u64,
}

impl<H, W: Wake> Drop for Closer<'_, H, W> {
    fn drop(&mut self) {
        self.ledger.edit(|ledger| ledger.leave_closers(self.number));
    }
}
