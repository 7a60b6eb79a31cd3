//! Opening a connection: room is reserved before it is filled.

use std::sync::Arc;

use super::Ledger;
use crate::error::Refusal;
use crate::key::{Key, No, Want};
use crate::slot::{SlotId, State};
use crate::stats::ConnectError;

/// The answer to somebody who asks for a slot to open a connection in.
pub(crate) enum Reserve {
    /// The slot is reserved already, by a caller further up who waits for just this.
    Pending(SlotId),
    /// A new reservation.
    New(SlotId),
}

impl<H, W> Ledger<H, W> {
    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle.
    pub(crate) fn reserve(&mut self, want: Option<&Want<H>>) -> Result<Reserve, No<H>> {
        if self.closed {
            return Err(Refusal::Closed.into());
        }
        let filed = want.map_or(Ok(None), |want| self.find(want))?;
        let opens_it = |&index: &u32| want.is_some_and(|want| self.table.get(index).opener == Some(want.caller()));
        if let Some(index) = filed.filter(opens_it) {
            return Ok(Reserve::Pending(self.table.id(index)));
        }
        if !self.has_room() {
            return Err(Refusal::Exhausted.into());
        }
        let index = self.table.occupy(State::Opening);
        if let Some(want) = want {
            self.file(index, want);
            // Where one is lent under this key already, the new one takes its place, as in a dict.
            let lent = filed.filter(|&filed| self.table.get(filed).state == State::Lent);
            self.table.set_replaces(index, lent.map(|lent| self.table.id(lent)));
        }
        Ok(Reserve::New(self.table.id(index)))
    }

    /// Puts an opened connection into its slot. Refused, the connection is the caller's to close.
    pub(crate) fn fulfil(&mut self, slot: SlotId, address: usize, connection: &Arc<H>) -> Result<(), Refusal> {
        let index = self.opening(slot).filter(|_| !self.closed).ok_or(Refusal::Closed)?;
        if matches!(self.table.get(index).key, Key::None) && self.table.occupied() > self.maxconn {
            return Err(Refusal::Exhausted);
        }
        self.fill(index, address, connection);
        Ok(())
    }

    /// Puts a connection into a slot that is reserved for it.
    pub(super) fn fill(&mut self, index: u32, address: usize, connection: &Arc<H>) {
        self.table.attach(index, address, Arc::clone(connection));
        self.table.set_opener(index, None);
        let replaced = self.table.get(index).replaces.and_then(|slot| self.table.find(slot));
        if matches!(self.table.get(index).key, Key::None) {
            self.make_idle(index);
        } else {
            self.table.advance(index, State::Lent);
            self.nudge(self.table.get(index).key.mark());
            if let Some(replaced) = replaced {
                self.vacate(replaced);
            }
        }
    }

    /// Gives a reservation's room back, unless it has been spent.
    pub(crate) fn fail(&mut self, slot: SlotId, why: Option<Arc<ConnectError>>) {
        if why.is_some() {
            self.connect_error = why;
        }
        if let Some(index) = self.opening(slot) {
            self.vacate(index);
        }
    }

    fn opening(&self, slot: SlotId) -> Option<u32> {
        self.table.find(slot).filter(|&index| self.table.get(index).state == State::Opening)
    }
}
