//! putconn: out of the borrower's hands, then idle, promised or gone.

use std::sync::Arc;

use super::Ledger;
use crate::error::Refusal;
use crate::key::{No, Want};
use crate::slot::{SlotId, State};

/// A connection on its way back.
pub(crate) struct Return<H> {
    pub(crate) slot: SlotId,
    pub(crate) connection: Arc<H>,
    /// Whether there is a use for it if it is well.
    pub(crate) wanted: bool,
}

impl<H, W> Ledger<H, W> {
    /// Takes a lent connection, named by its address, by what it is filed under, or by both, out of its borrower's
    /// hands.
    pub(crate) fn begin_return(
        &mut self,
        address: Option<usize>,
        filed: Option<&Want<H>>,
        close: bool,
    ) -> Result<Return<H>, No<H>> {
        if self.closed {
            return Err(Refusal::Closed.into());
        }
        let lent_here = address.and_then(|address| self.table.lent_at(address));
        let index = match filed {
            Some(want) => self.find(want)?.filter(|&index| {
                let slot = self.table.get(index);
                slot.state == State::Lent && address.is_none_or(|address| slot.address == address)
            }),
            None => lent_here,
        };
        let Some(index) = index else {
            return Err(if lent_here.is_some() { Refusal::WrongKey } else { Refusal::Unkeyed }.into());
        };
        let Some(connection) = self.table.get(index).connection.clone() else {
            return Err(Refusal::Unkeyed.into());
        };
        self.withdraw(index);
        let wanted = !close && self.has_use_for_another();
        self.table.advance(index, State::Returning);
        Ok(Return { slot: self.table.id(index), connection, wanted })
    }

    /// Takes a clean connection back for good. `false`: there is no use for it, close it and discard it.
    pub(crate) fn keep_returned(&mut self, slot: SlotId) -> bool {
        let Some(index) = self.table.find(slot) else { return false };
        if self.closed || !self.has_use_for_another() {
            return false;
        }
        self.make_idle(index);
        true
    }

    /// Gives up a connection that is being returned, and frees its slot.
    pub(crate) fn discard(&mut self, slot: SlotId) {
        if let Some(index) = self.table.find(slot) {
            self.vacate(index);
        }
    }
}
