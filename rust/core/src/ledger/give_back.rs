//! putconn: out of the borrower's hands, then idle, promised or gone.

use std::sync::Arc;

use super::Ledger;
use crate::close_reason::CloseReason;
use crate::question::{Unanswered, Want};
use crate::refusal::Refusal;
use crate::slot::{SlotId, State};
use crate::time::Span;

/// A connection on its way back.
pub(crate) struct Return<H> {
    pub(crate) slot: SlotId,
    pub(crate) connection: Arc<H>,
    /// Why it is to be closed; nothing, if there is a use for it as long as it is well.
    pub(crate) closing: Option<CloseReason>,
    /// How long it was lent, if that was reported as too long.
    pub(crate) overdue: Option<Span>,
}

impl<H, W> Ledger<H, W> {
    /// Takes a lent connection, named by its address, by what it is filed under, or by both, out of its borrower's
    /// hands.
    pub(crate) fn begin_return(
        &mut self,
        address: Option<usize>,
        filed: Option<&Want<H>>,
        close: bool,
    ) -> Result<Return<H>, Unanswered<H>> {
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
        Ok(self.take_back(index, close)?)
    }

    /// Takes one loan out of its borrower's hands; refuses if it has come back since.
    pub(crate) fn begin_return_of(&mut self, slot: SlotId, close: bool) -> Result<Return<H>, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        let index = self.still_lent(slot).ok_or(Refusal::LoanEnded)?;
        self.take_back(index, close)
    }

    fn take_back(&mut self, index: u32, close: bool) -> Result<Return<H>, Refusal> {
        let slot = self.table.get(index);
        let Some(connection) = slot.connection.clone() else {
            return Err(Refusal::Unkeyed);
        };
        let (health, lent_for) = (slot.health, self.now.since(slot.since));
        let overdue = slot.overdue.then_some(lent_for);
        self.stats.usage.add(lent_for);
        self.end_loan(index);
        let closing = if close {
            Some(CloseReason::Requested)
        } else if self.now >= health.replace_at {
            Some(health.why)
        } else {
            (!self.has_use_for_another()).then_some(CloseReason::Surplus)
        };
        self.table.advance(index, State::Returning);
        Ok(Return { slot: self.table.id(index), connection, closing, overdue })
    }

    /// Takes a clean connection back for good; or says why it is to be closed and discarded.
    pub(crate) fn keep_returned(&mut self, slot: SlotId) -> Result<(), CloseReason> {
        let index = self.table.find(slot).ok_or(CloseReason::Unplaced)?;
        let health = self.table.get(index).health;
        if self.closed {
            return Err(CloseReason::WithPool);
        }
        if self.now >= health.replace_at {
            return Err(health.why);
        }
        if !self.has_use_for_another() {
            return Err(CloseReason::Surplus);
        }
        self.become_idle(index);
        Ok(())
    }

    /// Gives up a connection that is being returned, and frees its slot.
    pub(crate) fn discard(&mut self, slot: SlotId, reason: CloseReason) {
        if let Some(index) = self.table.find(slot) {
            self.stats.count_closed(reason);
            self.stats.returns_bad += u64::from(matches!(reason, CloseReason::Lost | CloseReason::Unclean));
            self.vacate(index);
            if reason == CloseReason::Lost {
                self.found_dead();
            }
        }
    }
}
