//! The reserve: slots that only callers with priority may take. A caller without priority gets a slot only if `reserve` others stay
//! idle or vacant. So the reserve counts free slots, whichever callers have the rest, as `PostgreSQL`'s
//! `superuser_reserved_connections` does.

use super::Ledger;
use crate::queue::Rank;

impl<H, W> Ledger<H, W> {
    /// Counts the slots that are neither idle nor vacant.
    fn taken(&self) -> usize {
        self.table.occupied() - self.idle.len()
    }

    /// Says whether a caller may take a slot that is free.
    #[inline]
    pub(super) fn admits(&self, rank: Rank) -> bool {
        let reserve = self.policy.reserve;
        reserve == 0 || rank == Rank::Priority || self.taken() + reserve < self.maxconn
    }

    /// Says whether the first waiter may take a slot that is free.
    pub(super) fn admits_first(&self) -> bool {
        self.admits(if self.queue.waiting_with_priority() > 0 { Rank::Priority } else { Rank::Normal })
    }

    /// Says whether a waiter may take the slot that the calling function is about to free.
    pub(super) fn may_hand_over(&self) -> bool {
        let reserve = self.policy.reserve;
        let admitted = reserve == 0 || self.queue.waiting_with_priority() > 0 || self.taken() + reserve <= self.maxconn;
        admitted && self.queue.waiting_for_room() > 0 && self.table.occupied() <= self.cap
    }

    /// Counts the slots that must be free again before one that is freed is a caller's.
    pub(super) fn lacking_for(&self, rank: Rank) -> usize {
        match (rank, self.policy.reserve) {
            (Rank::Priority, _) | (_, 0) => 0,
            (Rank::Normal, reserve) => (self.taken() + reserve).saturating_sub(self.maxconn),
        }
    }

    /// Counts the vacant slots that may be filled for the waiters, beyond those that are filled now, and for so many more callers with
    /// priority.
    pub(super) fn admits_to_room(&self, with_priority: usize, filled_now: usize) -> usize {
        if self.policy.reserve == 0 {
            return usize::MAX;
        }
        let urgent = (self.queue.waiting_with_priority() + with_priority).saturating_sub(filled_now);
        self.maxconn.saturating_sub(self.policy.reserve + self.taken()).max(urgent)
    }
}
