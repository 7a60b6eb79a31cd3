//! Limits, closing, and beginning anew.

use std::sync::Arc;

use super::Ledger;
use crate::error::Refusal;
use crate::slot::{SlotId, State};

impl<H, W> Ledger<H, W> {
    pub(crate) fn set_minconn(&mut self, minconn: usize) {
        self.minconn = minconn;
    }

    /// Sets the limit. Idle connections above it, the oldest first, are given back to be closed.
    pub(crate) fn set_maxconn(&mut self, maxconn: usize) -> Vec<(SlotId, Arc<H>)> {
        self.maxconn = maxconn;
        // Those that are being returned will not be kept above the limit, and need no room made for them here.
        let surplus = self.table.occupied().saturating_sub(maxconn.saturating_add(self.table.count(State::Returning)));
        let surplus: Vec<u32> = self.idle.drain(..surplus.min(self.idle.len())).collect();
        let discarded = surplus.into_iter().filter_map(|index| self.begin_discard(index)).collect();
        self.serve();
        discarded
    }

    /// Opens or closes the pool without touching what is in it.
    pub(crate) fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
        if closed {
            self.dismiss_waiters();
        }
    }

    /// Closes the pool; whoever does so sees to its connections.
    pub(crate) fn close(&mut self) -> Result<(), Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        self.set_closed(true);
        Ok(())
    }

    /// Empties the pool and opens it. What was in it is dropped; who waits, asks anew.
    pub(crate) fn reset(&mut self) {
        self.dismiss_waiters();
        self.idle.clear();
        for state in [State::Opening, State::Idle, State::Lent, State::Returning] {
            for index in self.table.in_state(state).collect::<Vec<_>>() {
                self.empty(index);
            }
        }
        self.closed = false;
        self.last_number = 0;
        self.connect_error = None;
    }

    /// Wakes all who wait, to find out what has happened. What they were promised is idle, or free, again.
    fn dismiss_waiters(&mut self) {
        let promised = self.queue.dismiss(&mut self.after.wakes);
        for index in promised.into_iter().filter_map(|slot| self.table.find(slot)).collect::<Vec<_>>() {
            if self.table.get(index).state == State::Promised {
                self.table.advance(index, State::Idle);
                self.idle.push(index);
            } else {
                self.empty(index);
            }
        }
    }
}
