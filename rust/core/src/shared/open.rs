//! Opening connections.

use std::sync::Arc;

use super::{Reservation, Seek, SharedLedger};
use crate::caller::Caller;
use crate::ledger::ReserveDecision;
use crate::question::{Unanswered, Want};
use crate::queue::Wake;
use crate::refusal::Refusal;
use crate::slot::SlotId;
use crate::time::Moment;

/// The answer to a caller that asks for a slot to open a connection in.
#[must_use]
pub enum Reserve<'l, H, W: Wake> {
    /// A caller further up holds the reservation, and deals with a failure.
    Pending(SlotId),
    /// The reservation is the caller's own.
    New(Reservation<'l, H, W>),
    /// The caller asks the grantor for room, and then again by this.
    Seek(Seek<'l, H, W>),
}

impl<H, W: Wake> SharedLedger<H, W> {
    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle.
    ///
    /// # Errors
    /// [`Unanswered::Compare`], [`Refusal::Closed`], [`Refusal::Exhausted`] and [`Refusal::Limited`].
    pub fn reserve(&self, want: Option<&Want<H>>, caller: Caller) -> Result<Reserve<'_, H, W>, Unanswered<H>> {
        Ok(self.reserved(self.edit(|ledger| ledger.reserve(want, caller, true))?))
    }

    pub(super) fn reserved(&self, decision: ReserveDecision) -> Reserve<'_, H, W> {
        match decision {
            ReserveDecision::Pending(slot) => Reserve::Pending(slot),
            ReserveDecision::New(slot) => Reserve::New(Reservation { ledger: self, slot }),
            ReserveDecision::Seek(seeker) => Reserve::Seek(Seek { ledger: self, seeker, ended: false }),
        }
    }

    /// Says whether there is room for a connect that may begin now, or may be granted.
    pub fn may_open(&self, now: Moment) -> bool {
        self.edit_at(now, |ledger| ledger.may_open() || ledger.may_seek())
    }

    /// Gives the error of the last connect that failed, while connects are held back.
    pub fn last_failure(&self) -> Option<Arc<H>> {
        self.edit(|ledger| ledger.last_failure().cloned())
    }

    /// Puts an opened connection into the slot that is reserved for it.
    ///
    /// # Errors
    /// [`Refusal::Closed`]: the pool was closed meanwhile. [`Refusal::Exhausted`]: there is no room any more, since
    /// another caller has filled the slot, or maxconn was lowered. The caller closes the connection.
    pub fn fulfil(&self, slot: SlotId, address: usize, connection: &Arc<H>, now: Moment) -> Result<(), Refusal> {
        self.edit_at(now, |ledger| ledger.fulfil(slot, address, connection))
    }
}
