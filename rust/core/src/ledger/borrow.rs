//! getconn: an idle slot, room for a new connection, or a place in the queue.

use std::sync::Arc;

use super::{Check, Ledger, Return, Seeker};
use crate::close_reason::CloseReason;
use crate::question::{Unanswered, Want};
use crate::queue::{Promise, Rank, Told, WaitFor, WaiterId};
use crate::refusal::Refusal;
use crate::slot::{SlotId, State};
use crate::time::Moment;

/// The answer to a borrower.
pub(crate) enum CheckOutDecision<H> {
    /// The connection is lent.
    Lent(Arc<H>),
    /// The borrower must check this connection, or close it.
    Check(SlotId, Arc<H>, Check),
    /// The borrower opens a connection in this slot.
    Reserved(SlotId),
    /// The borrower finishes this deferred return, and asks again.
    FinishReturn(Return<H>),
    /// The borrower asks again.
    AskAgain,
    /// The borrower asks the grantor, and then again.
    Seek(Seeker),
    /// The connect that the borrower waited for has failed, with this error.
    ConnectFailed(Arc<H>),
    /// No connection can be lent yet. There is a waiter if the borrower offered a waker.
    Busy(Busy, Option<WaiterId>),
}

/// Why no connection can be lent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// No slot is free for this caller.
    Full,
    /// As [`Busy::Full`], but only since the limit is reached that the pool shares with others.
    Limited,
    /// Another caller is opening the connection for this key, has been promised room for it, or seeks a grant for it.
    KeyOpening,
    /// More slots will be free without a borrower, or be filled by workers, than there are waiters ahead of this caller, or of the
    /// first one ahead that wants the same. Or the caller has waited for its key, which no caller opens any more, and it is undecided
    /// whether some slot will be lent.
    InTransit,
    /// There is room, but connects are held back: see `backoff`.
    BackingOff {
        /// When the caller asks again, if it is not woken before.
        next_try: Moment,
        /// Whether workers fill more slots than there are waiters ahead.
        comes: bool,
    },
    /// No slot is free, and `max_waiting` callers are already waiting.
    Crowded,
}

impl Busy {
    fn told(self) -> Told {
        match self {
            Self::BackingOff { next_try, .. } if next_try < Moment::NEVER => Told::When,
            Self::KeyOpening => Told::Key,
            _ => Told::Nothing,
        }
    }
}

impl<H, W> Ledger<H, W> {
    /// Gives out the next automatic number.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Answers a borrower. It may be a waiter already, and offers a waker if it is willing to wait; `seeks` says that it has not asked the
    /// grantor.
    pub(crate) fn check_out(
        &mut self,
        want: &Want<H>,
        rank: Rank,
        waiter: Option<WaiterId>,
        mut waker: Option<W>,
        seeks: bool,
    ) -> Result<CheckOutDecision<H>, Unanswered<H>> {
        let answer = self.answer(want, rank, waiter, &mut waker, seeks);
        self.after.unused_wakers.extend(waker);
        answer
    }

    fn answer(
        &mut self,
        want: &Want<H>,
        rank: Rank,
        waiter: Option<WaiterId>,
        waker: &mut Option<W>,
        seeks: bool,
    ) -> Result<CheckOutDecision<H>, Unanswered<H>> {
        self.ensure_open()?;
        self.renew_backoff();
        if let Some(error) = waiter.and_then(|waiter| self.take_failure(waiter)) {
            return Ok(CheckOutDecision::ConnectFailed(error));
        }
        if let Some(index) = self.find(want)? {
            let slot = self.table.get_mut(index);
            let own = slot.opener.is_none_or(|opener| opener == want.caller());
            return match &slot.connection {
                Some(connection) if own && slot.state == State::Lent => {
                    slot.shared |= slot.borrower != want.caller();
                    Ok(CheckOutDecision::Lent(Arc::clone(connection)))
                }
                _ if own => Err(Refusal::Reentrant.into()),
                // Even if there is a connection: its opener has not finished with it.
                _ => Ok(self.wait(Busy::KeyOpening, WaitFor::Key, (want, rank), waiter, waker)),
            };
        }
        let claimed = waiter.and_then(|waiter| self.claim(waiter));
        let admitted = self.admits(rank);
        let free = claimed.or_else(|| if admitted { self.idle.pop() } else { None });
        let waits = waiter.is_some_and(|waiter| self.queue.has_place(waiter));
        let opens = admitted && self.may_open() && !waits && !self.leaves_connects(want.caller());
        let free = free.or_else(|| opens.then(|| self.begin_connect()));
        let Some(index) = free else {
            if let Some(returning) = self.next_deferred_return(want.caller()) {
                return Ok(CheckOutDecision::FinishReturn(returning));
            }
            if seeks
                && self.lacks_grant()
                && admitted
                && !waits
                && self.queue.ahead_of(None, rank) == 0
                && self.may_seek()
                && !self.is_sought_by_another(want.wish())
            {
                return Ok(CheckOutDecision::Seek(self.begin_seek(Some(want.tag()), want.caller())));
            }
            let busy = self.busy(want, rank, waiter);
            let wait_for = if busy == Busy::KeyOpening { WaitFor::Promise } else { WaitFor::Room };
            return Ok(self.wait(busy, wait_for, (want, rank), waiter, waker));
        };
        debug_assert!(!waits, "no caller waits while a slot is free");
        self.file(index, want);
        Ok(self.decide(index))
    }

    /// Says what a caller that finds no free slot may wait for.
    fn busy(&self, want: &Want<H>, rank: Rank, waiter: Option<WaiterId>) -> Busy {
        if self.queue.is_promised_to_another(want.wish()) || self.is_sought_by_another(want.wish()) {
            // That caller is about to open or to borrow what both want.
            return Busy::KeyOpening;
        }
        // A caller that has waited for its key to be opened is refused only because of loans.
        let followed = waiter.is_some_and(|waiter| self.queue.has_followed(waiter));
        let undecided = followed && self.is_undecided(want.caller());
        let place = waiter.filter(|&waiter| self.queue.has_place(waiter));
        let newcomer = usize::from(rank == Rank::Priority && place.is_none());
        let soon_free = self.in_transit_for(want.caller()) + self.room_for_workers(newcomer);
        // Where nothing comes, the place does not matter, and is not looked for.
        let comes = soon_free > 0 && {
            let (ahead, rank) = self.queue.ahead_of_wish(place, rank, want.wish());
            soon_free > ahead + self.lacking_for(rank)
        };
        if self.is_backing_off() && self.lacks_only_time() && self.admits(rank) {
            let next_try = if self.queue.keeps_time(place, rank) { self.next_try() } else { Moment::NEVER };
            return Busy::BackingOff { next_try, comes: comes && self.policy.grow.is_some() };
        }
        match () {
            () if undecided || comes => Busy::InTransit,
            () if self.lacks_grant() && self.admits(rank) => Busy::Limited,
            () => Busy::Full,
        }
    }

    /// Decides what its borrower does with a filed slot: a fresh connection is lent, an old one is checked, an empty slot is
    /// reserved.
    pub(super) fn decide(&mut self, index: u32) -> CheckOutDecision<H> {
        let Some(connection) = self.table.get(index).connection.clone() else {
            return CheckOutDecision::Reserved(self.table.id(index));
        };
        if self.now < self.table.get(index).health.fresh_until {
            self.begin_loan(index);
            return CheckOutDecision::Lent(connection);
        }
        let check = self.begin_check(index);
        CheckOutDecision::Check(self.table.id(index), connection, check)
    }

    /// Lends a filed slot's connection. The waiters for its key are woken now, or when its opener has finished with it.
    pub(super) fn begin_loan(&mut self, index: u32) {
        let slot = self.table.advance(index, State::Lent);
        slot.since = self.now;
        let tag = slot.key.tag().filter(|_| slot.opener.is_none());
        self.note_due(self.now.after(self.policy.leak_after));
        self.wake_key_waiters(tag);
    }

    fn wait(
        &mut self,
        busy: Busy,
        wait_for: WaitFor,
        (want, rank): (&Want<H>, Rank),
        waiter: Option<WaiterId>,
        waker: &mut Option<W>,
    ) -> CheckOutDecision<H> {
        let for_room = wait_for == WaitFor::Room;
        let stays = |waiter: &WaiterId| !for_room || self.queue.has_place(*waiter);
        if let Some(waiter) = waiter.filter(stays)
            && self.queue.rearm(waiter, wait_for, waker)
        {
            self.queue.tell(waiter, busy.told());
            self.keep_time();
            return CheckOutDecision::Busy(busy, Some(waiter));
        }
        let newcomer = for_room && waiter.is_none() && waker.is_some();
        if newcomer && self.policy.max_waiting.is_some_and(|limit| self.queue.ahead_of(None, rank) >= limit.get()) {
            return CheckOutDecision::Busy(Busy::Crowded, None);
        }
        let joined = waker.take().map(|waker| self.queue.join(waiter, wait_for, rank, want.wish(), waker));
        if let Some(joined) = joined {
            self.queue.tell(joined, busy.told());
        }
        self.keep_time();
        self.call_workers();
        CheckOutDecision::Busy(busy, joined)
    }

    /// Takes the slot that was promised to this waiter.
    fn claim(&mut self, waiter: WaiterId) -> Option<u32> {
        let promise = self.queue.claim(waiter)?;
        self.table.find(promise.slot)
    }

    /// Removes a waiter, and hands on what it was promised. A connection that the pool has no use for comes out, to be closed.
    pub(crate) fn leave(&mut self, waiter: WaiterId) -> Option<Return<H>> {
        let waker = self.queue.remove(waiter);
        self.after.unused_wakers.extend(waker);
        self.keep_time();
        let failure = self.take_failure(waiter);
        self.after.handles.extend(failure);
        let Promise { slot, wish } = self.queue.claim(waiter)?;
        let index = self.table.find(slot)?;
        // Waiters for what this one was about to open wait for room from now on.
        self.queue.promote_promise_waiters(wish.tag);
        self.wake_key_waiters(Some(wish.tag));
        if self.table.get(index).state == State::Opening {
            self.vacate(index);
            return None;
        }
        if self.has_use_for_another() {
            // No borrower has used it since it came back.
            self.table.advance(index, State::Idle);
            self.push_idle(index);
            return None;
        }
        let surplus = self.begin_discard(index, CloseReason::Surplus);
        self.serve();
        surplus
    }
}
