//! The fast path: an idle connection that is fresh is lent, and a clean one comes back, while no caller waits.

use std::sync::Arc;

use super::Ledger;
use crate::caller::Caller;
use crate::key::{Key, UserKey};
use crate::queue::Rank;
use crate::slot::{SlotId, State};
use crate::time::{Moment, Span};

impl<H, W> Ledger<H, W> {
    /// Lends the next idle connection, and names the loan. `None`: the slow path decides.
    #[expect(clippy::inline_always, reason = "the fast path is some instructions longer without")]
    #[inline(always)]
    pub(crate) fn lend_idle(&mut self, borrower: Caller, now: Moment) -> Option<(SlotId, &Arc<H>)> {
        let index = self.idle.pop()?;
        if self.closed || !self.has_plain_loans || now >= self.table.get(index).health.fresh_until {
            self.idle.push(index);
            return None;
        }
        self.stats.requests_num += 1;
        self.last_lent = index;
        let key = self.new_automatic_key();
        let slot = self.table.advance(index, State::Lent);
        slot.refile(key);
        slot.since = now;
        slot.borrower = borrower;
        Some((SlotId { index, generation: slot.generation }, slot.connection.as_ref()?))
    }

    /// As [`Ledger::lend_idle`], for a caller of this rank, under a user's key perhaps, and with options that must see each loan.
    pub(crate) fn lend_idle_as(
        &mut self,
        rank: Rank,
        key: Option<UserKey<H>>,
        borrower: Caller,
    ) -> Option<(SlotId, Arc<H>)> {
        let is_filed = |key: &UserKey<H>| self.table.filed_under(key.hash).next().is_some();
        let is_free = key.as_ref().is_none_or(|key| self.queue.waiting() == 0 && !is_filed(key)) && self.admits(rank);
        let fresh = |&index: &u32| self.now < self.table.get(index).health.fresh_until;
        let Some(index) = self.idle.last().copied().filter(fresh).filter(|_| is_free && !self.closed) else {
            self.after.handles.extend(key.map(|key| key.handle));
            return None;
        };
        self.idle.pop();
        self.stats.requests_num += 1;
        self.last_lent = index;
        let key = key.map_or_else(|| self.new_automatic_key(), Key::User);
        self.table.file(index, key);
        self.table.get_mut(index).borrower = borrower;
        self.begin_loan(index);
        Some((self.table.id(index), self.table.get(index).connection.clone()?))
    }

    /// Makes an automatic key, for a slot that is filed under it at once.
    #[inline]
    fn new_automatic_key(&mut self) -> Key<H> {
        self.last_number += 1;
        self.last_filed = self.last_filed.max(self.last_number);
        Key::Automatic(self.last_number)
    }

    /// Takes back a clean connection. `false`: the slow path decides.
    #[inline]
    pub(crate) fn take_back_clean(&mut self, address: usize, now: Moment) -> bool {
        self.table.only_at(address, self.last_lent).is_some_and(|index| self.end_plain_loan(index, now))
    }

    /// As [`Ledger::take_back_clean`], for one loan.
    #[inline]
    pub(crate) fn take_back_clean_loan(&mut self, loan: SlotId, now: Moment) -> bool {
        self.table.find(loan).is_some_and(|index| self.end_plain_loan(index, now))
    }

    /// Makes the connection of a loan idle, if no key, option or waiter needs the loan.
    #[expect(clippy::inline_always, reason = "the fast path is some instructions longer without")]
    #[inline(always)]
    fn end_plain_loan(&mut self, index: u32, now: Moment) -> bool {
        let slot = self.table.get(index);
        let plain = matches!(slot.key, Key::Automatic(_)) && self.has_plain_returns;
        if !(plain && self.comes_to_rest(index, now)) {
            return false;
        }
        self.times.uses.observe(now.since(slot.since));
        let slot = self.table.advance(index, State::Idle);
        slot.refile(Key::None);
        slot.mark_idle(now, self.policy.check_after);
        self.idle.push(index);
        true
    }

    /// As [`Ledger::take_back_clean_loan`], for a loan of any kind. `connection` is the handle to keep from now on, if it is another.
    /// Says how long it was lent, and gives the handle that is not needed.
    #[must_use = "handles are dropped after the unlock, not here"]
    pub(crate) fn take_back_any_clean(
        &mut self,
        loan: SlotId,
        connection: Option<Arc<H>>,
    ) -> (Option<Span>, Option<Arc<H>>) {
        let rests = |&index: &u32| self.comes_to_rest(index, self.now) && !self.table.get(index).overdue;
        let Some(index) = self.table.find(loan).filter(rests) else { return (None, connection) };
        let slot = self.table.get_mut(index);
        let lent_for = self.now.since(slot.since);
        let displaced = connection.and_then(|connection| slot.connection.replace(connection));
        self.times.uses.observe(lent_for);
        self.end_loan(index);
        self.become_idle(index);
        (Some(lent_for), displaced)
    }

    /// Says whether a lent connection, if it is clean, becomes idle when it comes back: no caller waits for it or its key.
    #[inline]
    fn comes_to_rest(&self, index: u32, now: Moment) -> bool {
        let slot = self.table.get(index);
        let ends = slot.state == State::Lent && slot.opener.is_none() && now < slot.health.replace_at;
        ends && !self.closed && self.queue.waiting() == 0 && self.retains_another()
    }
}
