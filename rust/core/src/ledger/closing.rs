//! A pool that is closed, or not yet open. After [`Ledger::close_gently`] it lends nothing, and closes what comes back.

use super::{Ledger, Return};
use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::refusal::Refusal;

/// How a pool that is marked as closed came to be so, which decides what becomes of its loans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Closed {
    /// All its connections are closed. It refuses those that come back.
    #[default]
    Wholly,
    /// Its idle connections are closed. It takes back those that are lent, to be closed.
    Gently,
    /// As [`Closed::Gently`], and then those that were lent were closed too.
    Twice,
    /// It has not been opened. It takes back what it lent while an attempt to open it was under way, to be closed.
    Unopened,
}

impl<H, W> Ledger<H, W> {
    /// Refuses if the pool is closed, or not yet open.
    pub(crate) fn ensure_open(&self) -> Result<(), Refusal> {
        match self.closed_how {
            _ if !self.closed => Ok(()),
            Closed::Unopened => Err(Refusal::Unopened),
            Closed::Wholly | Closed::Gently | Closed::Twice => Err(Refusal::Closed),
        }
    }

    /// Refuses if the pool is closed and takes nothing back.
    pub(crate) fn ensure_returnable(&self) -> Result<(), Refusal> {
        if self.closed_how == Closed::Wholly { self.ensure_open() } else { Ok(()) }
    }

    /// Says whether the connections that are listed as lent are open.
    pub(super) fn has_open_loans(&self) -> bool {
        !self.closed || matches!(self.closed_how, Closed::Gently | Closed::Unopened)
    }

    /// Closes the pool, and gives its idle connections, and those whose deferred return no caller has begun, to be closed. `None`: it is
    /// closed already.
    pub(crate) fn close_gently(&mut self, caller: Caller) -> Option<Vec<Return<H>>> {
        if self.ensure_open() == Err(Refusal::Closed) {
            return None;
        }
        Some(self.shut(Closed::Gently, caller))
    }

    /// Makes a pool that was to be opened unopened again, as [`Ledger::close_gently`] closes one, unless it was closed meanwhile.
    pub(crate) fn unopen(&mut self, caller: Caller) -> Vec<Return<H>> {
        if self.closed { Vec::new() } else { self.shut(Closed::Unopened, caller) }
    }

    fn shut(&mut self, how: Closed, caller: Caller) -> Vec<Return<H>> {
        self.set_closed(true);
        self.closed_how = how;
        let deferred: Vec<_> = std::iter::from_fn(|| self.next_deferred_return(caller)).collect();
        let deferred = deferred.into_iter().map(|begun| Return { closing: Some(CloseReason::WithPool), ..begun });
        let idle = std::mem::take(&mut self.idle);
        let idle = idle.into_iter().filter_map(|index| self.begin_discard(index, CloseReason::WithPool));
        deferred.chain(idle).collect()
    }

    /// Opens a pool that is not yet open. `false`: it is open already.
    pub(crate) fn open(&mut self) -> Result<bool, Refusal> {
        match self.ensure_open() {
            Err(Refusal::Unopened) => {
                self.set_closed(false);
                Ok(true)
            }
            open => open.map(|()| false),
        }
    }

    /// Counts the connections of a closed pool that are not closed: lent, being opened, being checked, being closed.
    pub(crate) fn unclosed(&self) -> usize {
        if self.has_open_loans() { self.table.occupied() } else { 0 }
    }

    /// Notes a caller that waits until all connections are closed, under a number; nothing, if they are.
    pub(crate) fn await_returns(&mut self, waker: W) -> Option<u64> {
        if !self.closed || self.unclosed() == 0 {
            self.after.unused_wakers.push(waker);
            return None;
        }
        self.closers_num += 1;
        self.closers.push((self.closers_num, waker));
        Some(self.closers_num)
    }

    /// Forgets a caller that waited for that.
    pub(crate) fn leave_closers(&mut self, number: u64) {
        if let Some(at) = self.closers.iter().position(|&(closer, _)| closer == number) {
            self.after.unused_wakers.push(self.closers.swap_remove(at).1);
        }
    }

    /// Wakes the callers that wait for that, if it may be so.
    pub(super) fn wake_closers(&mut self) {
        if !self.closers.is_empty() && (!self.closed || self.unclosed() == 0) {
            self.after.to_wake.extend(self.closers.drain(..).map(|(_, waker)| waker));
        }
    }
}
