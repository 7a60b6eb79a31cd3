//! What is in the making, held by who makes it. Each guard may be dropped at any moment, and nothing is lost.

use std::sync::Arc;

use crate::error::Refusal;
use crate::ledger::Check;
use crate::pool::{CheckOut, Pool};
use crate::reason::Reason;
use crate::slot::SlotId;
use crate::stats::ConnectError;
use crate::time::{Moment, Span};
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
        self.pool.edit(|ledger| ledger.fail(self.slot, why)).map(|filed| self.pool.returning(filed))
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
        self.pool.edit(|ledger| ledger.leave(self.id)).map(|surplus| self.pool.returning(surplus))
    }
}

impl<H, W: Wake> Drop for Waiter<'_, H, W> {
    fn drop(&mut self) {
        drop(self.pool.edit(|ledger| ledger.leave(self.id)).map(|surplus| self.pool.returning(surplus)));
    }
}

/// A connection that is held back until it has been looked at. Dropped, it is given up, and its slot is free.
#[must_use = "dropping it gives the connection up"]
pub struct Checking<'p, H, W: Wake> {
    pub(crate) pool: &'p Pool<H, W>,
    pub(crate) slot: SlotId,
    pub(crate) connection: Arc<H>,
    pub(crate) check: Check,
}

impl<'p, H, W: Wake> Checking<'p, H, W> {
    /// Shows the connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<H> {
        &self.connection
    }

    /// Says what is to be done with it.
    #[must_use]
    pub fn kind(&self) -> Check {
        self.check
    }

    /// Lends it: it is well.
    ///
    /// # Errors
    /// It is to be closed all the same, for this reason.
    pub fn lend(&self, now: Moment) -> Result<(), Reason> {
        self.pool.edit_at(now, |ledger| ledger.passed(self.slot))
    }

    /// Lays it back among the idle ones: it is well.
    ///
    /// # Errors
    /// There is no use for it any more, for this reason. The connection is yours to close.
    pub fn put_back(&self, now: Moment) -> Result<(), Reason> {
        self.pool.edit_at(now, |ledger| ledger.put_back(self.slot))
    }

    /// Asks for another connection in its place, after it has been closed for this reason.
    ///
    /// # Errors
    /// [`Refusal::Closed`]: the pool was closed meanwhile. [`Refusal::Exhausted`]: somebody has written another connection
    /// over it in the books.
    pub fn next(self, reason: Reason, now: Moment) -> Result<CheckOut<'p, H, W>, Refusal> {
        let pool = self.pool;
        Ok(pool.checked_out(pool.edit_at(now, |ledger| ledger.next_after(self.slot, reason))?, None))
    }

    /// Frees its slot, after it has been closed for this reason.
    pub fn discard(self, reason: Reason) {
        self.pool.edit(|ledger| ledger.drop_checked(self.slot, reason));
    }
}

impl<H, W: Wake> Drop for Checking<'_, H, W> {
    fn drop(&mut self) {
        self.pool.edit(|ledger| ledger.drop_checked(self.slot, Reason::Unclean));
    }
}

/// A connection on its way out of a borrower's hands. Dropped, it is discarded and its slot is free.
#[must_use = "dropping it discards the connection"]
pub struct Returning<'p, H, W: Wake> {
    pub(crate) pool: &'p Pool<H, W>,
    pub(crate) slot: SlotId,
    pub(crate) connection: Arc<H>,
    pub(crate) closing: Option<Reason>,
    pub(crate) overdue: Option<Span>,
    /// Whether somebody else finishes it.
    pub(crate) deferred: bool,
}

impl<H, W: Wake> Returning<'_, H, W> {
    /// Shows the connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<H> {
        &self.connection
    }

    /// Says why it is to be closed; nothing, if the pool has a use for it as long as it is well.
    #[must_use]
    pub fn closing(&self) -> Option<Reason> {
        self.closing
    }

    /// Says whether its slot is still the pool's. It is not in the child of a fork.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.pool.edit(|ledger| ledger.is_current(self.slot))
    }

    /// Says how long it was lent, if that was reported as too long.
    #[must_use]
    pub fn overdue(&self) -> Option<Span> {
        self.overdue
    }

    /// Takes the connection back for good. `false`: there is no use for it any more, close it.
    #[must_use = "a connection that is not kept is to be closed"]
    pub fn keep(&mut self, now: Moment) -> bool {
        self.closing = self.pool.edit_at(now, |ledger| ledger.keep_returned(self.slot)).err();
        self.closing.is_none()
    }

    /// Notes why it is going to be discarded.
    pub fn close_for(&mut self, reason: Reason) {
        self.closing = Some(reason);
    }

    /// Puts another handle of the same connection into its slot.
    pub fn replace_handle(&mut self, handle: Arc<H>) {
        self.connection = Arc::clone(&handle);
        self.pool.edit(|ledger| ledger.replace_handle(self.slot, handle));
    }

    /// Leaves the rest to whoever does the chores: see [`Pool::chore`]. It comes back where it is better finished now: somebody
    /// waits for it, the chores are not keeping up, or the pool is closed.
    #[must_use = "what comes back is to be finished"]
    pub fn defer(mut self, now: Moment) -> Option<Self> {
        self.deferred = self.pool.edit_at(now, |ledger| ledger.defer_return(self.slot, self.closing));
        (!self.deferred).then_some(self)
    }
}

impl<H, W: Wake> Drop for Returning<'_, H, W> {
    fn drop(&mut self) {
        if !self.deferred {
            // Interrupted before it was known to be clean, it is not.
            let reason = self.closing.unwrap_or(Reason::Unclean);
            self.pool.edit(|ledger| ledger.discard(self.slot, reason));
        }
    }
}

/// The right to open one of the connections that are missing. Dropped, it lets others try.
#[must_use = "dropping it lets others try"]
pub struct Refill<'p, H, W: Wake> {
    pub(crate) pool: &'p Pool<H, W>,
    pub(crate) number: u64,
}

impl<H, W: Wake> Refill<'_, H, W> {
    /// Notes that the connect has failed: the next one is tried after a pause.
    pub fn fail(self, now: Moment) {
        self.pool.edit_at(now, |ledger| ledger.end_refill(self.number, true));
    }
}

impl<H, W: Wake> Drop for Refill<'_, H, W> {
    fn drop(&mut self) {
        self.pool.edit(|ledger| ledger.end_refill(self.number, false));
    }
}
