//! Slots in transit: they will be free without a borrower doing anything. These are deferred returns, connections that the
//! housekeeping opens (or seeks a grant for) or closes or that workers open, and idle ones under a check. A caller that finds the pool
//! full is not refused if more slots are in transit than there are waiters ahead: it waits for one, as it would have waited for
//! psycopg2.pool's lock.

use super::Ledger;
use crate::caller::Caller;
use crate::slot::{Slot, State};

impl<H, W> Ledger<H, W> {
    /// Notes that a slot is in transit, and the caller that works on it.
    pub(super) fn begin_transit(&mut self, index: u32, by: Caller) {
        let slot = self.table.get_mut(index);
        slot.borrower = by;
        self.in_transit += usize::from(!std::mem::replace(&mut slot.in_transit, true));
    }

    /// Counts the slots in transit, for a caller that would wait for them. A caller that works on one of them must not wait:
    /// not for itself, nor for another caller that waits for it.
    pub(super) fn in_transit_for(&self, caller: Caller) -> usize {
        let soon_free = self.in_transit + self.grants.seekers.iter().filter(|seeker| seeker.tag.is_none()).count();
        if soon_free == 0 || self.table.occupied() > self.cap {
            return 0;
        }
        let busy = [State::Opening, State::Checking, State::Returning].into_iter();
        let mut in_transit = busy.flat_map(|state| self.table.in_state(state)).map(|index| self.table.get(index));
        let own = in_transit.any(|slot| slot.in_transit && slot.borrower == caller);
        if own || self.is_seeking(caller) { 0 } else { soon_free }
    }

    /// Says whether other callers work on a slot that may be lent or come free: they open it, check it, have been promised
    /// it, or seek a grant for it. A caller that works on one itself must not wait for them, since they may wait for it.
    pub(super) fn is_undecided(&self, caller: Caller) -> bool {
        let busy = [State::Opening, State::Checking].into_iter().flat_map(|state| self.table.in_state(state));
        let mut busy = busy.map(|index| self.table.get(index)).peekable();
        let some = busy.peek().is_some() || self.table.count(State::Promised) + self.grants.seekers.len() > 0;
        let own = |slot: &Slot<H>| slot.opener == Some(caller) || slot.in_transit && slot.borrower == caller;
        some && !busy.any(own) && !self.queue.is_promised_to(caller) && !self.is_seeking(caller)
    }

    /// Notes that a slot is not in transit any more, if it was.
    pub(super) fn end_transit(&mut self, index: u32) {
        let in_transit = std::mem::take(&mut self.table.get_mut(index).in_transit);
        self.in_transit -= usize::from(in_transit);
    }
}
