//! Connections that are not trusted.

use super::{Checking, Returning, SharedLedger};
use crate::caller::Caller;
use crate::queue::Wake;
use crate::slot::SlotId;
use crate::time::Moment;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Marks a lent connection as dead, and, if `older`, marks all that were opened before it for replacement. Does nothing
    /// if the loan has ended.
    pub fn invalidate(&self, slot: SlotId, older: bool) {
        self.edit(|ledger| ledger.invalidate(slot, older));
    }

    /// Marks every connection for replacement, and gives the idle ones, to be closed.
    pub fn drain(&self, caller: Caller) -> Vec<Returning<'_, H, W>> {
        self.all_returning(self.edit(|ledger| ledger.drain(caller)))
    }

    /// Names the slots that are idle, for [`SharedLedger::begin_idle_check`].
    pub fn idle_slots(&self) -> Vec<SlotId> {
        self.edit(|ledger| ledger.idle_slots())
    }

    /// Takes an idle connection out of the pool to check it; nothing, if it has been lent since.
    pub fn begin_idle_check(&self, slot: SlotId, caller: Caller, now: Moment) -> Option<Checking<'_, H, W>> {
        let (slot, connection, check) = self.edit_at(now, |ledger| ledger.begin_idle_check(slot, caller))?;
        Some(Checking { ledger: self, slot, connection, check })
    }
}
