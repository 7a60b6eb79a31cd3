//! Limits, closing, and beginning anew.

use std::sync::Arc;

use super::Ledger;
use crate::error::Refusal;
use crate::key::Key;
use crate::slot::{SlotId, State};

impl<H, W> Ledger<H, W> {
    pub(crate) fn set_minconn(&mut self, minconn: usize) {
        self.minconn = minconn;
    }

    /// Sets the limit. Idle connections above it, the oldest first, are given back to be closed.
    pub(crate) fn set_maxconn(&mut self, maxconn: usize) -> Vec<(SlotId, Arc<H>)> {
        self.maxconn = maxconn;
        let surplus = self.table.occupied().saturating_sub(maxconn + self.table.count(State::Returning));
        let retired: Vec<u32> = self.idle.drain(..surplus.min(self.idle.len())).collect();
        let retired = retired.into_iter().filter_map(|index| self.retire(index)).collect();
        self.serve();
        retired
    }

    /// Opens or closes the pool without touching what is in it.
    pub(crate) fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
        if closed {
            self.dismiss_waiters();
        }
    }

    /// Closes the pool and gives every connection to be closed: idle ones first, then lent ones, each as listed.
    pub(crate) fn close(&mut self) -> Result<Vec<Arc<H>>, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        self.set_closed(true);
        let lent = self.lent().into_iter().map(|(_, connection)| connection);
        Ok(self.idle().into_iter().chain(lent).collect())
    }

    /// Empties the pool and opens it. What was in it is dropped; who waits, asks anew.
    pub(crate) fn reset(&mut self) {
        self.dismiss_waiters();
        self.idle.clear();
        for state in [State::Opening, State::Idle, State::Lent, State::Returning] {
            for index in self.table.in_order(state) {
                let leavings = self.table.vacate(index);
                self.after.drop_later(leavings);
            }
        }
        self.closed = false;
        self.last_number = 0;
        self.connect_error = None;
    }

    fn dismiss_waiters(&mut self) {
        self.after.wakes.extend(self.queue.drain());
        for index in self.table.in_order(State::Promised) {
            self.table.advance(index, State::Idle);
            self.idle.push(index);
        }
        // Room that was promised and will not be claimed: nobody has filed it yet.
        let unclaimed = |&index: &u32| {
            let slot = self.table.get(index);
            matches!(slot.key, Key::None) && slot.opener.is_none()
        };
        for index in self.table.in_state(State::Opening).filter(unclaimed).collect::<Vec<_>>() {
            let leavings = self.table.vacate(index);
            self.after.drop_later(leavings);
        }
    }
}
