//! The fast path: an idle connection that is fresh is lent, and a clean one comes back, without any key or waiter.

use std::sync::Arc;

use super::Ledger;
use crate::key::Key;
use crate::question::Caller;
use crate::slot::State;
use crate::time::Moment;

impl<H, W> Ledger<H, W> {
    /// Lends the connection that came back last. `None`: the slow path decides.
    #[inline]
    pub(crate) fn lend_idle(&mut self, borrower: Caller, now: Moment) -> Option<Arc<H>> {
        let index = self.idle.pop()?;
        let reports_leaks = !self.policy.leak_after.is_forever();
        if self.closed || reports_leaks || now >= self.table.get(index).health.fresh_until {
            self.idle.push(index);
            return None;
        }
        self.last_number += 1;
        self.last_filed = self.last_filed.max(self.last_number);
        self.stats.requests_num += 1;
        self.last_lent = index;
        let slot = self.table.advance(index, State::Lent);
        slot.refile(Key::Automatic(self.last_number));
        slot.since = now;
        slot.borrower = borrower;
        slot.connection.clone()
    }

    /// Takes back a clean connection. `false`: the slow path decides.
    #[inline]
    pub(crate) fn take_back_clean(&mut self, address: usize, now: Moment) -> bool {
        let Some(index) = self.table.only_at(address, self.last_lent) else { return false };
        let slot = self.table.get(index);
        let unkeyed = slot.state == State::Lent && matches!(slot.key, Key::Automatic(_)) && slot.opener.is_none();
        let lasting = now < slot.health.replace_at && self.policy.leak_after.is_forever();
        if !(unkeyed && lasting) || self.closed || self.queue.waiting() > 0 || !self.retains_another() {
            return false;
        }
        self.stats.usage.add(now.since(slot.since));
        let slot = self.table.advance(index, State::Idle);
        slot.refile(Key::None);
        slot.mark_idle(now, self.policy.check_after);
        self.idle.push(index);
        true
    }
}
