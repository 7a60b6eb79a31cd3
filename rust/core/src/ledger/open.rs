//! Opening a connection: room is reserved before it is filled.

use std::sync::Arc;

use super::Ledger;
use super::search::Found;
use crate::error::Refusal;
use crate::key::{Candidates, Key, Want};
use crate::slot::{SlotId, State};
use crate::stats::ConnectError;

/// The answer to somebody who asks for a slot to open a connection in.
pub(crate) enum Reserve<H> {
    /// The slot is reserved already, by a caller further up who waits for just this.
    Pending(SlotId),
    /// A new reservation.
    New(SlotId),
    /// Compare these with the key, then ask again.
    Compare(Candidates<H>),
    /// No.
    Refused(Refusal),
}

impl<H, W> Ledger<H, W> {
    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle.
    pub(crate) fn reserve(&mut self, want: Option<&Want<'_, H>>) -> Reserve<H> {
        if self.closed {
            return Reserve::Refused(Refusal::Closed);
        }
        if let Some(want) = want {
            match self.find_wanted(want) {
                Found::Compare(candidates) => return Reserve::Compare(candidates),
                Found::Slot(index) if self.table.get(index).state == State::Opening => {
                    return Reserve::Pending(self.table.id(index));
                }
                // One is lent under this key already: the new one is filed beside it, and both can be returned.
                Found::Slot(_) | Found::Nothing => {}
            }
        }
        if !self.has_room() {
            return Reserve::Refused(Refusal::Exhausted);
        }
        let index = self.table.occupy(State::Opening);
        if let Some(want) = want {
            self.table.file(index, want.to_key());
            self.table.set_opener(index, want.caller());
        }
        Reserve::New(self.table.id(index))
    }

    /// Puts an opened connection into its slot. Refused, the connection is the caller's to close.
    pub(crate) fn fulfil(&mut self, slot: SlotId, address: usize, connection: &Arc<H>) -> Result<(), Refusal> {
        let reserved = self.table.find(slot).filter(|&index| self.table.get(index).state == State::Opening);
        let Some(index) = reserved else { return Err(Refusal::Closed) };
        if self.closed {
            return Err(Refusal::Closed);
        }
        self.table.attach(index, address, Arc::clone(connection));
        self.table.set_opener(index, None);
        if matches!(self.table.get(index).key, Key::None) {
            self.rest(index);
        } else {
            self.table.advance(index, State::Lent);
            let hash = self.hash_at(index);
            self.nudge(hash);
        }
        Ok(())
    }

    /// Gives a reservation's room back, unless it has been spent.
    pub(crate) fn fail(&mut self, slot: SlotId, why: Option<Arc<ConnectError>>) {
        if why.is_some() {
            self.connect_error = why;
        }
        if let Some(index) = self.table.find(slot).filter(|&index| self.table.get(index).state == State::Opening) {
            self.vacate(index);
        }
    }
}
