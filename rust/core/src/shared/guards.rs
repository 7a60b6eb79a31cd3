//! Guards: unfinished work, held by the caller that does it. Each may be dropped at any moment, and nothing is lost.

use std::sync::Arc;

use super::{CheckOut, SharedLedger};
use crate::close_reason::CloseReason;
use crate::ledger::{Check, GrowthEnd};
use crate::queue::{WaiterId, Wake};
use crate::refusal::Refusal;
use crate::slot::SlotId;
use crate::stats::{ConnectError, ConnectFailure};
use crate::time::{Moment, Span};

/// The right to open one connection. Dropped unspent, it gives the room back. Dropped spent, it lets other callers that
/// want the same key have the connection.
#[must_use = "dropping a reservation gives its room back"]
pub struct Reservation<'l, H, W: Wake> {
    pub(super) ledger: &'l SharedLedger<H, W>,
    pub(super) slot: SlotId,
}

impl<'l, H, W: Wake> Reservation<'l, H, W> {
    /// Names the reserved slot, for [`SharedLedger::fulfil`].
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Gives the room back since the connect has failed as the server has too many connections, if one of this pool's may come back: the
    /// caller may ask again and wait for it.
    ///
    /// # Errors
    /// There is none, or the reservation has been spent. It comes back, to be failed.
    pub fn leave_to_loans(self, why: ConnectError, error: Arc<H>) -> Result<(), Self> {
        let (now, why) = (why.at, Arc::new(why));
        let left = self.ledger.edit_at(now, |ledger| ledger.leave_to_loans(self.slot, why, error));
        if left { Ok(()) } else { Err(self) }
    }

    /// Gives the room back and notes why the connect failed. A connection that was filed before comes out. `outage` is the error if
    /// the server cannot be reached, for callers that may not connect while connects are held back.
    #[must_use = "the caller closes the connection that comes out"]
    pub fn fail(self, why: ConnectError, outage: Option<Arc<H>>) -> Option<Returning<'l, H, W>> {
        let (now, why) = (why.at, Arc::new(why));
        let filed = self.ledger.edit_at(now, |ledger| ledger.fail_reservation(self.slot, why, outage));
        filed.map(|filed| self.ledger.returning(filed))
    }
}

impl<H, W: Wake> Drop for Reservation<'_, H, W> {
    fn drop(&mut self) {
        self.ledger.edit(|ledger| ledger.end_reservation(self.slot));
    }
}

/// A place among the waiters. Dropped, it hands on what it was promised.
#[must_use = "dropping a waiter gives up its place"]
pub struct Waiter<'l, H, W: Wake> {
    pub(super) ledger: &'l SharedLedger<H, W>,
    pub(super) id: WaiterId,
}

impl<'l, H, W: Wake> Waiter<'l, H, W> {
    /// Gives up the place. A connection that was promised to it comes out if the pool has no use for it.
    #[must_use = "the caller closes the connection that comes out"]
    pub fn leave(self) -> Option<Returning<'l, H, W>> {
        self.ledger.edit(|ledger| ledger.leave(self.id)).map(|surplus| self.ledger.returning(surplus))
    }
}

impl<H, W: Wake> Drop for Waiter<'_, H, W> {
    fn drop(&mut self) {
        drop(self.ledger.edit(|ledger| ledger.leave(self.id)).map(|surplus| self.ledger.returning(surplus)));
    }
}

/// A connection that is held back until it has been checked. Dropped, it is discarded, and its slot is free.
#[must_use = "dropping it discards the connection"]
pub struct Checking<'l, H, W: Wake> {
    pub(super) ledger: &'l SharedLedger<H, W>,
    pub(super) slot: SlotId,
    pub(super) connection: Arc<H>,
    pub(super) check: Check,
}

impl<'l, H, W: Wake> Checking<'l, H, W> {
    /// Shows the connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<H> {
        &self.connection
    }

    /// Says what the caller must do with it.
    #[must_use]
    pub fn kind(&self) -> Check {
        self.check
    }

    /// Lends it: it has passed its check.
    ///
    /// # Errors
    /// The caller must close it all the same, for this reason.
    pub fn lend(&self, now: Moment) -> Result<(), CloseReason> {
        self.ledger.edit_at(now, |ledger| ledger.lend_checked(self.slot))
    }

    /// Puts it back among the idle ones: it has passed its check.
    ///
    /// # Errors
    /// The pool has no use for it any more, for this reason. The caller closes the connection.
    pub fn put_back(&self, now: Moment) -> Result<(), CloseReason> {
        self.ledger.edit_at(now, |ledger| ledger.put_back(self.slot))
    }

    /// Asks for another connection, after the caller has closed this one for this reason.
    ///
    /// # Errors
    /// [`Refusal::Closed`]: the pool was closed meanwhile. [`Refusal::Exhausted`]: a subclass has written another
    /// connection into its slot.
    pub fn next(self, reason: CloseReason, now: Moment) -> Result<CheckOut<'l, H, W>, Refusal> {
        let ledger = self.ledger;
        Ok(ledger.checked_out(ledger.edit_at(now, |ledger| ledger.next_after(self.slot, reason))?, None))
    }

    /// Frees its slot, after the caller has closed it for this reason.
    pub fn discard(self, reason: CloseReason) {
        self.ledger.edit(|ledger| ledger.discard_checked(self.slot, reason));
    }
}

impl<H, W: Wake> Drop for Checking<'_, H, W> {
    fn drop(&mut self) {
        self.ledger.edit(|ledger| ledger.discard_checked(self.slot, CloseReason::Unclean));
    }
}

/// A connection that its borrower has given back. Dropped, it is discarded, and its slot is free.
#[must_use = "dropping it discards the connection"]
pub struct Returning<'l, H, W: Wake> {
    pub(super) ledger: &'l SharedLedger<H, W>,
    pub(super) slot: SlotId,
    pub(super) connection: Arc<H>,
    pub(super) closing: Option<CloseReason>,
    pub(super) lent_for: Option<Span>,
    pub(super) overdue: bool,
    /// Whether the housekeeping finishes it.
    pub(super) deferred: bool,
}

impl<H, W: Wake> Returning<'_, H, W> {
    /// Shows the connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<H> {
        &self.connection
    }

    /// Says why the caller must close it; nothing, if the pool has a use for it as long as it is healthy.
    #[must_use]
    pub fn closing(&self) -> Option<CloseReason> {
        self.closing
    }

    /// Says whether its slot is still the pool's. It is not in the child of a fork.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.ledger.edit(|ledger| ledger.is_current(self.slot))
    }

    /// Says how long it was lent; nothing, if no loan ends so.
    #[must_use]
    pub fn lent_for(&self) -> Option<Span> {
        self.lent_for
    }

    /// Says how long it was lent, if that was reported as too long.
    #[must_use]
    pub fn overdue(&self) -> Option<Span> {
        self.lent_for.filter(|_| self.overdue)
    }

    /// Makes the connection idle. `false`: the pool has no use for it any more.
    #[must_use = "the caller closes a connection that is not kept"]
    pub fn keep(&mut self, now: Moment) -> bool {
        self.closing = self.ledger.edit_at(now, |ledger| ledger.keep_returned(self.slot)).err();
        self.closing.is_none()
    }

    /// Notes why the caller is going to discard it.
    pub fn close_for(&mut self, reason: CloseReason) {
        self.closing = Some(reason);
    }

    /// Puts another handle of the same connection into its slot.
    pub fn replace_handle(&mut self, handle: Arc<H>) {
        self.connection = Arc::clone(&handle);
        drop(self.ledger.edit(|ledger| ledger.replace_handle(self.slot, handle)));
    }

    /// Defers the rest to the housekeeping: see [`SharedLedger::chore`]. It comes back if a caller waits for it, the
    /// housekeeping is behind, or the pool is closed.
    #[must_use = "the caller finishes what comes back"]
    pub fn defer(mut self, now: Moment) -> Option<Self> {
        self.deferred = self.ledger.edit_at(now, |ledger| ledger.defer_return(self.slot, self.closing));
        (!self.deferred).then_some(self)
    }
}

impl<H, W: Wake> Drop for Returning<'_, H, W> {
    fn drop(&mut self) {
        if !self.deferred {
            // After `keep`, the id is stale, and nothing happens. Without a reason, the return was interrupted before the
            // connection was known to be clean.
            let reason = self.closing.unwrap_or(CloseReason::Unclean);
            self.ledger.edit(|ledger| ledger.discard(self.slot, reason));
        }
    }
}

/// The right to open one of the connections that are missing. Dropped, it lets other callers try.
#[must_use = "dropping it lets other callers try"]
pub struct Refill<'l, H, W: Wake> {
    pub(super) ledger: &'l SharedLedger<H, W>,
    pub(super) number: u64,
}

impl<H, W: Wake> Refill<'_, H, W> {
    /// Notes that the connect has failed: the housekeeping tries the next one after a pause.
    pub fn fail(self, now: Moment) {
        self.ledger.edit_at(now, |ledger| ledger.end_refill(self.number, true));
    }
}

impl<H, W: Wake> Drop for Refill<'_, H, W> {
    fn drop(&mut self) {
        self.ledger.edit(|ledger| ledger.end_refill(self.number, false));
    }
}

/// The right of a worker to open one connection for the waiters. Dropped, it lets the first waiter open its connection itself.
#[must_use = "dropping it lets a waiter connect"]
pub struct Growth<'l, H, W: Wake> {
    pub(super) ledger: &'l SharedLedger<H, W>,
    pub(super) slot: SlotId,
}

/// How a worker's connect has ended.
#[must_use]
pub struct Grown<'l, H, W: Wake> {
    /// Whether a waiter gets the error.
    pub told: bool,
    /// A connection that nobody waits for any more, which the worker closes.
    pub surplus: Option<Returning<'l, H, W>>,
    /// The next connection that the worker opens; nothing, if nobody waits for one.
    pub next: Option<Growth<'l, H, W>>,
}

impl<'l, H, W: Wake> Growth<'l, H, W> {
    /// Ends the connect. It has put a connection into the pool, or failed with this error, or done neither: then the first
    /// waiter opens its connection itself. With the error comes what it says of the server.
    pub fn end(self, failed: Option<(Arc<H>, ConnectError, ConnectFailure)>, now: Moment) -> Grown<'l, H, W> {
        let (ledger, failed) = (self.ledger, failed.map(|(error, why, failure)| (error, Arc::new(why), failure)));
        let GrowthEnd { told, surplus, next } =
            ledger.edit_at(now, |ledger| ledger.end_growth(self.slot, failed, true));
        let next = next.map(|slot| Growth { ledger, slot });
        Grown { told, surplus: surplus.map(|surplus| ledger.returning(surplus)), next }
    }
}

impl<H, W: Wake> Drop for Growth<'_, H, W> {
    fn drop(&mut self) {
        let end = self.ledger.edit(|ledger| ledger.end_growth(self.slot, None, false));
        drop(end.surplus.map(|surplus| self.ledger.returning(surplus)));
    }
}
