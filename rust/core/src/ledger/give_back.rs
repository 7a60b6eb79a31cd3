//! putconn: out of the borrower's hands, then idle, promised or gone.

use std::sync::Arc;

use super::Ledger;
use super::search::Found;
use crate::error::Refusal;
use crate::key::{Ask, Candidates};
use crate::slot::{SlotId, State};

/// How a connection that comes back is named.
#[derive(Debug)]
pub enum Returned<'a, H> {
    /// By the address of the connection object alone.
    Connection(usize),
    /// By an automatic number, and by the connection's address if it was given.
    Number(u64, Option<usize>),
    /// By a user's key, and by the connection's address if it was given.
    Key(&'a Ask<H>, Option<usize>),
}

/// The answer to somebody who returns a connection.
pub(crate) enum Return<H> {
    /// It is yours to look at; `keep` says whether there is a use for it.
    Begun { slot: SlotId, connection: Arc<H>, keep: bool },
    /// Compare these with the key, then ask again.
    Compare(Candidates<H>),
    /// No.
    Refused(Refusal),
}

impl<H, W> Ledger<H, W> {
    /// Takes a lent connection out of its borrower's hands.
    pub(crate) fn begin_return(&mut self, returned: &Returned<'_, H>, close: bool) -> Return<H> {
        if self.closed {
            return Return::Refused(Refusal::Closed);
        }
        let (filed, address) = match *returned {
            Returned::Connection(address) => (self.table.lent_at(address), Some(address)),
            Returned::Number(number, address) => (self.numbered(number), address),
            Returned::Key(ask, address) => match self.find(ask) {
                Found::Compare(candidates) => return Return::Compare(candidates),
                Found::Slot(index) => (Some(index), address),
                Found::Nothing => (None, address),
            },
        };
        let lent = |&index: &u32| self.table.get(index).state == State::Lent;
        let fits = |&index: &u32| address.is_none_or(|address| self.table.get(index).address == address);
        let Some(index) = filed.filter(lent).filter(fits) else {
            let known = address.is_some_and(|address| self.table.lent_at(address).is_some());
            return Return::Refused(if known { Refusal::WrongKey } else { Refusal::Unkeyed });
        };
        let Some(connection) = self.table.get(index).connection.clone() else {
            return Return::Refused(Refusal::Unkeyed);
        };
        let keep = !close && self.has_use_for_another();
        self.unfile(index);
        self.table.advance(index, State::Returning);
        Return::Begun { slot: self.table.id(index), connection, keep }
    }

    /// Takes a clean connection back for good. `false`: there is no use for it, close it and discard it.
    pub(crate) fn keep_returned(&mut self, slot: SlotId) -> bool {
        let Some(index) = self.table.find(slot) else { return false };
        if self.closed || !self.has_use_for_another() {
            return false;
        }
        self.rest(index);
        true
    }

    /// Gives up a connection that is being returned, and frees its slot.
    pub(crate) fn discard(&mut self, slot: SlotId) {
        if let Some(index) = self.table.find(slot) {
            self.vacate(index);
        }
    }
}
