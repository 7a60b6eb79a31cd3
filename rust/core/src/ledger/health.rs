//! Health: the ledger trusts fresh connections and those that have passed a check, and none for longer than it may live.

use std::sync::Arc;

use super::{CheckOutDecision, Ledger, Return};
use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::refusal::Refusal;
use crate::slot::{SlotId, State};
use crate::time::{Moment, Span};

/// Why a connection cannot be lent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It may have died: the caller must check it.
    Required,
    /// Its time is over, for this reason: the caller must close it.
    Expired(CloseReason),
}

impl<H, W> Ledger<H, W> {
    /// Puts a connection into a slot, and begins its lifetime.
    pub(super) fn attach(&mut self, index: u32, address: usize, connection: Arc<H>) {
        self.table.attach(index, address, connection);
        let lifetime = self.policy.max_lifetime.jittered(&mut self.rng);
        let end = self.now.after(lifetime);
        let health = &mut self.table.get_mut(index).health;
        health.suspect = false;
        // It may have been marked for replacement while it was being opened.
        if end < health.replace_at {
            (health.replace_at, health.why) = (end, CloseReason::Lifetime);
        }
        let replace_at = health.replace_at;
        self.note_due(replace_at);
        if self.table.occupied() > self.minconn && self.policy.max_idle > Span::ZERO {
            self.note_due(self.now.after(self.policy.max_idle));
        }
    }

    /// Holds a filed slot back until its connection has been checked.
    pub(super) fn begin_check(&mut self, index: u32) -> Check {
        let slot = self.table.advance(index, State::Checking);
        let (health, borrower) = (slot.health, slot.borrower);
        self.table.set_opener(index, borrower);
        if self.now >= health.replace_at { Check::Expired(health.why) } else { Check::Required }
    }

    /// Lends a connection that has passed its check; or says why the caller must close it all the same.
    pub(crate) fn lend_checked(&mut self, slot: SlotId) -> Result<(), CloseReason> {
        let index = self.checked(slot)?;
        self.table.get_mut(index).health.suspect = false;
        self.table.clear_opener(index);
        self.begin_loan(index);
        Ok(())
    }

    /// Gives the borrower of a connection that has been closed another one, or the room of the old one. Where workers connect, or
    /// connects are held back, it asks again.
    pub(crate) fn next_after(&mut self, slot: SlotId, reason: CloseReason) -> Result<CheckOutDecision<H>, Refusal> {
        let checking = self.checking(slot);
        self.count_dead(slot, reason);
        let index = match checking {
            Ok(index) => index,
            Err(refusal) => {
                self.table.find(slot).into_iter().for_each(|index| self.vacate(index));
                return Err(refusal);
            }
        };
        if let Some(other) = self.idle.pop() {
            let borrower = self.table.get(index).borrower;
            let key = self.table.unfile(index);
            self.table.file(other, key);
            self.table.get_mut(other).borrower = borrower;
            let answer = self.decide(other);
            self.vacate(index);
            return Ok(answer);
        }
        let borrower = self.table.get(index).borrower;
        if self.leaves_connects(borrower) || self.connects_allowed() == 0 {
            self.vacate(index);
            return Ok(CheckOutDecision::AskAgain);
        }
        let connection = self.table.detach(index);
        self.after.handles.extend(connection);
        self.backoff.began = self.now;
        self.table.advance(index, State::Opening);
        self.begin_opening(index, borrower);
        Ok(CheckOutDecision::Reserved(self.table.id(index)))
    }

    /// Frees the slot of a connection that was to be checked, and that the caller has closed.
    pub(crate) fn discard_checked(&mut self, slot: SlotId, reason: CloseReason) {
        if let Some(index) = self.table.find(slot) {
            self.count_dead(slot, reason);
            self.vacate(index);
        }
    }

    /// Names the slots that are idle, the next to be lent last.
    pub(crate) fn idle_slots(&self) -> Vec<SlotId> {
        self.idle.iter().map(|&index| self.table.id(index)).collect()
    }

    /// Takes an idle connection out of the pool to check it, unless it has moved since.
    pub(crate) fn begin_idle_check(&mut self, slot: SlotId, caller: Caller) -> Option<(SlotId, Arc<H>, Check)> {
        let idle = |&index: &u32| !self.closed && self.table.get(index).state == State::Idle;
        let index = self.table.find(slot).filter(idle)?;
        self.idle.retain(|&idle| idle != index);
        self.begin_transit(index, caller);
        let check = self.begin_check(index);
        Some((self.table.id(index), self.table.get(index).connection.clone()?, check))
    }

    /// Puts a connection that has passed its check back into the pool; or says why the caller must close it.
    pub(crate) fn put_back(&mut self, slot: SlotId) -> Result<(), CloseReason> {
        let index = self.checked(slot)?;
        if !self.has_use_for_another() {
            return Err(CloseReason::Surplus);
        }
        self.end_transit(index);
        self.table.clear_opener(index);
        let slot = self.table.advance(index, State::Idle);
        slot.health.suspect = false;
        let since = slot.since;
        slot.mark_idle(self.now, self.policy.check_after);
        // It has been checked, not used.
        slot.since = since;
        self.push_idle(index);
        Ok(())
    }

    fn checking(&self, slot: SlotId) -> Result<u32, Refusal> {
        self.ensure_open()?;
        let index = self.table.find(slot).filter(|&index| self.table.get(index).state == State::Checking);
        // A subclass has written another connection into its slot.
        index.ok_or(Refusal::Exhausted)
    }

    /// Finds a connection that has passed its check, unless it was marked for replacement or the pool was closed meanwhile.
    fn checked(&self, slot: SlotId) -> Result<u32, CloseReason> {
        let index = self.checking(slot).map_err(|refusal| match refusal {
            Refusal::Closed | Refusal::Unopened => CloseReason::WithPool,
            _ => CloseReason::Unplaced,
        })?;
        let health = self.table.get(index).health;
        if self.now >= health.replace_at { Err(health.why) } else { Ok(index) }
    }

    fn count_dead(&mut self, slot: SlotId, reason: CloseReason) {
        if self.table.find(slot).is_some() {
            self.stats.count_closed(reason);
            if reason == CloseReason::Lost {
                self.stats.checks_failed += 1;
                self.found_dead();
            }
        }
    }

    /// Counts a connection that was found dead. Others may have died with it, so all are checked again.
    pub(super) fn found_dead(&mut self) {
        self.stats.connections_lost += 1;
        self.suspect_all();
    }

    /// Lets no connection be lent without a check that has not been checked since now.
    pub(super) fn suspect_all(&mut self) {
        if self.policy.check_after.is_forever() {
            return;
        }
        for slot in self.table.connected_mut() {
            slot.health.suspect = true;
            slot.health.fresh_until = Moment::START;
        }
    }

    /// Marks a lent connection as dead, and, if `older`, marks all that were opened before it for replacement. Does nothing
    /// if the loan has ended.
    pub(crate) fn invalidate(&mut self, slot: SlotId, older: bool) {
        let Some(index) = self.still_lent(slot) else { return };
        let opened_in = self.table.get(index).health.opened_in;
        if older {
            self.replace_all(opened_in);
        }
        let health = &mut self.table.get_mut(index).health;
        (health.replace_at, health.why) = (Moment::START, CloseReason::Lost);
    }

    /// Marks every connection for replacement, and gives the idle ones, to be closed.
    pub(crate) fn drain(&mut self, caller: Caller) -> Vec<Return<H>> {
        if self.closed {
            return Vec::new();
        }
        self.replace_all(self.table.generation());
        let idle = std::mem::take(&mut self.idle);
        let drained = |index| {
            self.begin_transit(index, caller);
            self.begin_discard(index, CloseReason::Drained)
        };
        idle.into_iter().filter_map(drained).collect()
    }

    fn replace_all(&mut self, opened_in: u64) {
        for slot in self.table.occupied_mut().filter(|slot| slot.health.opened_in <= opened_in) {
            slot.health.fresh_until = Moment::START;
            slot.health.replace_at = Moment::START;
            slot.health.why = CloseReason::Drained;
        }
        self.after.chores |= self.policy.has_housekeeper;
    }
}
