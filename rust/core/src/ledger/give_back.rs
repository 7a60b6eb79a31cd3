//! putconn: the borrower gives a connection back; then it is idle, promised or closed.

use std::sync::Arc;

use super::Ledger;
use crate::close_reason::CloseReason;
use crate::question::{Unanswered, Want};
use crate::refusal::Refusal;
use crate::slot::{SlotId, State};
use crate::time::Span;

/// A connection that its borrower has given back.
pub(crate) struct Return<H> {
    pub(crate) slot: SlotId,
    pub(crate) connection: Arc<H>,
    /// Why the caller must close it; nothing, if the pool has a use for it as long as it is healthy.
    pub(crate) closing: Option<CloseReason>,
    /// How long it was lent, if a loan ends so.
    pub(crate) lent_for: Option<Span>,
    /// Whether that was reported as too long.
    pub(crate) overdue: bool,
}

impl<H, W> Ledger<H, W> {
    /// Takes a lent connection from its borrower. It is named by its address, by what it is filed under, or by both.
    pub(crate) fn begin_return(
        &mut self,
        address: Option<usize>,
        filed: Option<&Want<H>>,
        close: bool,
    ) -> Result<Return<H>, Unanswered<H>> {
        self.ensure_returnable()?;
        let lent_here = address.and_then(|address| self.table.lent_at(address));
        let index = match filed {
            Some(want) => self.find(want)?.filter(|&index| {
                let slot = self.table.get(index);
                slot.state == State::Lent && address.is_none_or(|address| slot.address == address)
            }),
            None => lent_here,
        };
        let Some(index) = index else {
            self.ensure_open()?;
            return Err(if lent_here.is_some() { Refusal::WrongKey } else { Refusal::Unkeyed }.into());
        };
        Ok(self.begin_return_at(index, close)?)
    }

    /// Takes one loan from its borrower; refuses if it has ended.
    pub(crate) fn begin_return_of(&mut self, slot: SlotId, close: bool) -> Result<Return<H>, Refusal> {
        self.ensure_returnable()?;
        let index = self.still_lent(slot).ok_or(Refusal::LoanEnded)?;
        self.begin_return_at(index, close)
    }

    fn begin_return_at(&mut self, index: u32, close: bool) -> Result<Return<H>, Refusal> {
        let slot = self.table.get(index);
        let Some(connection) = slot.connection.clone() else {
            return Err(Refusal::Unkeyed);
        };
        let lent_for = self.now.since(slot.since);
        let overdue = slot.overdue;
        if self.has_open_loans() {
            self.times.uses.observe(lent_for);
        } else {
            // It has been counted, and is counted again when it is discarded.
            let counted = &mut self.stats.closed[CloseReason::WithPool as usize];
            *counted = counted.saturating_sub(1);
        }
        self.end_loan(index);
        let closing = if close { Some(CloseReason::Requested) } else { self.useless(index) };
        self.table.advance(index, State::Returning);
        Ok(Return { slot: self.table.id(index), connection, closing, lent_for: Some(lent_for), overdue })
    }

    /// Makes a clean connection idle; or says why the caller must close and discard it.
    pub(crate) fn keep_returned(&mut self, slot: SlotId) -> Result<(), CloseReason> {
        let index = self.table.find(slot).ok_or(CloseReason::Unplaced)?;
        if let Some(reason) = self.useless(index) {
            return Err(reason);
        }
        self.become_idle(index);
        Ok(())
    }

    /// Says why the pool has no use for a connection that comes back.
    fn useless(&self, index: u32) -> Option<CloseReason> {
        let health = self.table.get(index).health;
        match () {
            () if self.closed => Some(CloseReason::WithPool),
            () if self.now >= health.replace_at => Some(health.why),
            () => (!self.has_use_for_another()).then_some(CloseReason::Surplus),
        }
    }

    /// Discards a connection that is being returned, and frees its slot.
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
