//! Granted room. A pool that shares a limit with others fills a slot only in room that a grantor has granted: `granted` counts it. The
//! ledger says when a caller seeks a grant, how many the waiters could use, and how many are given back. It knows nothing of the grantor.
//!
//! Granted room is never kept empty: at the end of each edit, what no slot uses is given back, but for what a worker comes to fill.

use super::{CheckOutDecision, Ledger, ReserveDecision, Return};
use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::key::KeyTag;
use crate::question::{Unanswered, Want, Wish};
use crate::queue::{Rank, WaiterId};

/// What a pool has been granted. One without a limit has been granted everything.
pub(crate) struct Grants {
    pub(super) granted: usize,
    /// The callers that seek a grant now.
    pub(super) seekers: Vec<Seeker>,
    /// How many connections the pool keeps at most, besides `minconn`, since others wait.
    pressed: Option<usize>,
    /// Whether the grantor has been told that waiters want grants.
    told: bool,
    /// Whether the connections that are listed as idle and lent have been closed with the pool.
    listed_are_closed: bool,
    /// How many connections, without a slot, are being closed with the pool.
    closing: usize,
    /// Whether the next end of an edit leaves everything as it is.
    postponed: bool,
}

impl Grants {
    pub(super) const UNLIMITED: Self = Self {
        granted: usize::MAX,
        seekers: Vec::new(),
        pressed: None,
        told: false,
        listed_are_closed: false,
        closing: 0,
        postponed: false,
    };
}

/// A caller that seeks a grant, and what for: a key, or a connection that will be idle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeker {
    pub(super) tag: Option<KeyTag>,
    caller: Caller,
}

/// What an edit has left to tell the grantor.
#[derive(Clone, Copy)]
pub(crate) struct Dues {
    /// How many grants go back.
    pub(crate) released: usize,
    /// Whether waiters begin to want grants.
    pub(crate) wants: bool,
}

impl<H, W> Ledger<H, W> {
    /// Says whether the pool shares a limit with others. It must be empty.
    pub(crate) fn set_limited(&mut self, limited: bool) {
        self.grants = Grants { granted: if limited { 0 } else { usize::MAX }, ..Grants::UNLIMITED };
        self.renew_cap();
    }

    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.grants.granted < usize::MAX
    }

    /// Says whether the shared limit alone keeps the pool from opening one more.
    pub(super) fn lacks_grant(&self) -> bool {
        self.is_limited() && self.table.occupied() < self.maxconn
    }

    /// Says whether there is room, or may be once connects are not held back.
    pub(super) fn lacks_only_time(&self) -> bool {
        self.has_room() || self.lacks_grant() && self.table.occupied() < self.cap && self.connects_allowed() == 0
    }

    /// Counts the vacant slots for which nothing is granted or sought.
    fn ungranted(&self) -> usize {
        let granted = self.grants.granted.max(self.table.occupied());
        self.cap.saturating_sub(granted.saturating_add(self.grants.seekers.len()))
    }

    /// Says whether a caller may seek room for a connect, which may begin now.
    pub(crate) fn may_seek(&self) -> bool {
        self.ungranted() > 0 && self.connects_allowed() > 0
    }

    /// Notes that a caller seeks a grant.
    pub(super) fn begin_seek(&mut self, tag: Option<KeyTag>, caller: Caller) -> Seeker {
        let seeker = Seeker { tag, caller };
        self.grants.seekers.push(seeker);
        seeker
    }

    /// Says whether this caller seeks a grant. It must not wait for other seekers, which may wait for it.
    pub(super) fn is_seeking(&self, caller: Caller) -> bool {
        self.grants.seekers.iter().any(|seeker| seeker.caller == caller)
    }

    /// Says whether another caller seeks a grant for the same.
    pub(super) fn is_sought_by_another(&self, wish: Wish) -> bool {
        self.grants.seekers.iter().any(|seeker| seeker.tag == Some(wish.tag)) && !self.is_seeking(wish.caller)
    }

    /// Answers a borrower that has sought a grant.
    pub(crate) fn check_out_sought(
        &mut self,
        (seeker, granted): (Seeker, bool),
        want: &Want<H>,
        rank: Rank,
        waiter: Option<WaiterId>,
        waker: Option<W>,
    ) -> Result<CheckOutDecision<H>, Unanswered<H>> {
        self.end_seek(seeker, granted);
        if waiter.is_some_and(|waiter| self.queue.has_place(waiter)) {
            // The borrower was given a place in the queue meanwhile: the grant goes to the first waiter.
            self.serve();
        }
        let answer = self.check_out(want, rank, waiter, waker, false);
        let gets = matches!(
            answer,
            Ok(CheckOutDecision::Lent(_) | CheckOutDecision::Check(..) | CheckOutDecision::Reserved(_))
        );
        if !gets {
            self.free_followers(seeker);
        }
        answer
    }

    /// Answers a caller that has sought a grant to open a connection.
    pub(crate) fn reserve_sought(
        &mut self,
        (seeker, granted): (Seeker, bool),
        want: Option<&Want<H>>,
        caller: Caller,
    ) -> Result<ReserveDecision, Unanswered<H>> {
        self.end_seek(seeker, granted);
        let answer = self.reserve(want, caller, false);
        if answer.is_err() {
            self.free_followers(seeker);
        }
        answer
    }

    /// Notes that a caller has not asked the grantor. Those that waited for it seek by themselves.
    pub(crate) fn give_up_seek(&mut self, seeker: Seeker) {
        self.end_seek(seeker, false);
        if let Some(tag) = seeker.tag {
            self.queue.take_follower_wakers(tag, &mut self.after.to_wake);
        }
    }

    fn end_seek(&mut self, seeker: Seeker, granted: bool) {
        if let Some(at) = self.grants.seekers.iter().position(|&other| other == seeker) {
            self.grants.seekers.swap_remove(at);
        }
        if self.is_limited() {
            self.grants.granted += usize::from(granted);
        }
    }

    /// Gives the callers that waited for a seeker in vain their places in the queue.
    fn free_followers(&mut self, seeker: Seeker) {
        if let Some(tag) = seeker.tag {
            self.queue.promote_promise_waiters(tag);
            self.queue.take_follower_wakers(tag, &mut self.after.to_wake);
            self.serve();
        }
    }

    /// Counts the grants that the waiters could use now.
    pub(crate) fn wanted(&self) -> usize {
        let waiting = self.queue.waiting_for_room();
        if waiting == 0 || self.closed || !self.is_limited() {
            return 0;
        }
        let waiting =
            self.policy.grow.map_or(waiting, |limit| waiting.min(limit.get()).saturating_sub(self.busy_workers()));
        waiting.min(self.ungranted()).min(self.connects_allowed()).min(self.admits_to_room(0, 0))
    }

    /// Gives room to the first waiters. Says for how many grants there was no use.
    pub(crate) fn grant(&mut self, count: usize) -> usize {
        let used = count.min(self.wanted());
        if used > 0 {
            self.grants.granted += used;
            self.serve();
        }
        count - used
    }

    /// Notes that others wait, so that the pool may keep no more than `most` connections, and minconn; or that none do. Gives the idle
    /// connections above that, to be closed.
    pub(crate) fn press(&mut self, most: Option<usize>) -> Vec<Return<H>> {
        self.grants.pressed = most;
        self.renew_cap();
        if self.closed { Vec::new() } else { self.take_idle_above(self.cap, CloseReason::Surplus) }
    }

    /// Forgets that others wait.
    pub(super) fn end_press(&mut self) {
        self.grants.pressed = None;
        self.renew_cap();
    }

    /// Finds out how many connections the pool may keep.
    pub(super) fn renew_cap(&mut self) {
        self.cap = self.grants.pressed.map_or(self.maxconn, |most| most.max(self.minconn).min(self.maxconn));
    }

    /// Notes that connections without a slot are being closed with the pool.
    pub(super) fn begin_closing(&mut self, unlisted: usize) {
        self.grants.closing += unlisted;
    }

    /// Notes that all connections of a pool that is wholly closed have been closed.
    pub(crate) fn end_closing(&mut self) {
        self.grants.closing = 0;
        self.grants.listed_are_closed = !self.has_open_loans();
    }

    /// Notes that the pool was opened or closed. What it lists then counts as open.
    pub(super) fn renew_listed(&mut self) {
        self.grants.listed_are_closed = false;
    }

    /// Forgets what was granted to another process.
    pub(super) fn forget_grants(&mut self) {
        self.set_limited(self.is_limited());
    }

    /// Ends an edit: says how many grants are not used, and whether the waiters begin to want some.
    #[inline]
    pub(crate) fn end_edit(&mut self) -> Option<Dues> {
        if self.is_limited() { self.balance_grants() } else { None }
    }

    /// Leaves to the next edit what the end of this one would tell the grantor, which cannot be called at any moment.
    pub(super) fn postpone_grants(&mut self) {
        self.grants.postponed = true;
    }

    #[cold]
    fn balance_grants(&mut self) -> Option<Dues> {
        if std::mem::take(&mut self.grants.postponed) {
            return None;
        }
        let listed = if self.grants.listed_are_closed { self.listed() } else { 0 };
        let for_workers = if self.closed { 0 } else { self.called_workers() };
        let used = self.table.occupied() - listed + self.grants.closing + for_workers;
        let released = self.grants.granted.saturating_sub(used);
        self.grants.granted -= released;
        let wanted = self.wanted() > 0;
        let wants = !std::mem::replace(&mut self.grants.told, wanted) && wanted;
        (released > 0 || wants).then_some(Dues { released, wants })
    }

    /// Notes that the grantor has not taken grants back.
    pub(crate) fn keep_grants(&mut self, count: usize) {
        if self.is_limited() {
            self.grants.granted += count;
        }
    }

    /// Notes that the grantor has not heard that waiters want grants.
    pub(crate) fn grantor_missed(&mut self) {
        self.grants.told = false;
    }

    /// Counts what the ledger holds of the grantor.
    #[cfg(test)]
    pub(crate) fn granted(&self) -> usize {
        self.grants.granted
    }
}
