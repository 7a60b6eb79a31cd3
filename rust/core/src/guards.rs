//! What is in the making, held by who makes it. Each guard may be dropped at any moment, and nothing is lost.

use std::sync::Arc;

use crate::pool::Pool;
use crate::slot::SlotId;
use crate::stats::ConnectError;
use crate::wait::{WaiterId, Wake};

/// The right to open one connection. Dropped unspent, it gives the room back; dropped spent, it lets others who want the
/// same key have the connection.
#[must_use = "dropping a reservation gives its room back"]
pub struct Reservation<'p, H, W: Wake> {
    pub(crate) pool: &'p Pool<H, W>,
    pub(crate) slot: SlotId,
}

impl<'p, H, W: Wake> Reservation<'p, H, W> {
    /// Names the reserved slot, for [`Pool::fulfil`].
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Gives the room back and remembers why the connect failed. A connection that had been filed all the same is given
    /// to be closed.
    #[must_use = "a connection that comes out is to be closed"]
    pub fn fail(self, why: ConnectError) -> Option<Returning<'p, H, W>> {
        let why = Arc::new(why);
        self.pool.edit(|ledger| ledger.fail(self.slot, why)).map(|filed| self.pool.discarding(filed))
    }
}

impl<H, W: Wake> Drop for Reservation<'_, H, W> {
    fn drop(&mut self) {
        self.pool.edit(|ledger| ledger.finish(self.slot));
    }
}

/// A place among those who wait. Dropped, it hands on what it was promised.
#[must_use = "dropping a waiter gives up its place"]
pub struct Waiter<'p, H, W: Wake> {
    pub(crate) pool: &'p Pool<H, W>,
    pub(crate) id: WaiterId,
}

impl<'p, H, W: Wake> Waiter<'p, H, W> {
    /// Gives up the place. A connection that was promised and that nobody has a use for is given to be closed.
    #[must_use = "a connection that comes out is to be closed"]
    pub fn leave(self) -> Option<Returning<'p, H, W>> {
        self.pool.edit(|ledger| ledger.leave(self.id)).map(|surplus| self.pool.discarding(surplus))
    }
}

impl<H, W: Wake> Drop for Waiter<'_, H, W> {
    fn drop(&mut self) {
        if let Some((slot, _connection)) = self.pool.edit(|ledger| ledger.leave(self.id)) {
            self.pool.edit(|ledger| ledger.discard(slot));
        }
    }
}

/// A connection on its way out of a borrower's hands. Dropped, it is discarded and its slot is free.
#[must_use = "dropping it discards the connection"]
pub struct Returning<'p, H, W: Wake> {
    pub(crate) pool: &'p Pool<H, W>,
    pub(crate) slot: SlotId,
    pub(crate) connection: Arc<H>,
    pub(crate) wanted: bool,
}

impl<H, W: Wake> Returning<'_, H, W> {
    /// Shows the connection.
    #[must_use]
    pub fn connection(&self) -> &H {
        &self.connection
    }

    /// Says whether the pool has a use for the connection if it is well.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.wanted
    }

    /// Takes the connection back for good. `false`: there is no use for it any more, close it.
    #[must_use = "a connection that is not kept is to be closed"]
    pub fn keep(&self) -> bool {
        self.pool.edit(|ledger| ledger.keep_returned(self.slot))
    }
}

impl<H, W: Wake> Drop for Returning<'_, H, W> {
    fn drop(&mut self) {
        self.pool.edit(|ledger| ledger.discard(self.slot));
    }
}
