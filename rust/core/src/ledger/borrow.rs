//! getconn: an idle slot, room for a new connection, or a place in the queue.

use std::sync::Arc;

use super::Ledger;
use super::search::Found;
use crate::error::Refusal;
use crate::key::{Candidates, Want};
use crate::slot::{SlotId, State};
use crate::wait::{Queue, WaiterId};

/// The answer to a borrower.
pub(crate) enum CheckOut<H> {
    /// Here it is.
    Lent(Arc<H>),
    /// Open one, in this slot.
    Reserved(SlotId),
    /// Compare these with the key, then ask again.
    Compare(Candidates<H>),
    /// Wait; or not, if no waker was offered.
    Busy(Busy, Option<WaiterId>),
    /// No.
    Refused(Refusal),
}

/// What keeps a borrower from getting a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Every slot is taken.
    Full,
    /// Another caller is opening the connection for this very key.
    KeyOpening,
}

/// A borrower's place among those who wait, if it has one, and its waker, if it is willing to wait.
pub(crate) struct Place<W> {
    pub(crate) waiter: Option<WaiterId>,
    pub(crate) waker: Option<W>,
}

impl<H, W> Ledger<H, W> {
    /// Gives out the next automatic number.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Answers a borrower, who may have a place among the waiting and may be willing to take one.
    pub(crate) fn check_out(&mut self, want: &Want<'_, H>, place: Place<W>) -> CheckOut<H> {
        let Place { waiter, mut waker } = place;
        let answer = self.answer(want, waiter, &mut waker);
        self.after.wakers.extend(waker);
        answer
    }

    fn answer(&mut self, want: &Want<'_, H>, waiter: Option<WaiterId>, waker: &mut Option<W>) -> CheckOut<H> {
        if self.closed {
            return CheckOut::Refused(Refusal::Closed);
        }
        match self.find_wanted(want) {
            Found::Compare(candidates) => return CheckOut::Compare(candidates),
            Found::Slot(index) => match &self.table.get(index).connection {
                Some(connection) => return CheckOut::Lent(Arc::clone(connection)),
                None if self.table.get(index).opener.is_some_and(|opener| want.caller() == Some(opener)) => {
                    return CheckOut::Refused(Refusal::Reentrant);
                }
                None => return self.wait(Busy::KeyOpening, want, waiter, waker),
            },
            Found::Nothing => {}
        }
        if let Some(index) = waiter.and_then(|waiter| self.claim(waiter)) {
            return self.hand_out(index, want);
        }
        if waiter.is_some_and(|waiter| self.queue.has_place(waiter)) {
            return self.wait(Busy::Full, want, waiter, waker);
        }
        if let Some(index) = self.idle.pop() {
            return self.hand_out(index, want);
        }
        if self.has_room() {
            let index = self.table.occupy(State::Opening);
            return self.hand_out(index, want);
        }
        self.wait(Busy::Full, want, waiter, waker)
    }

    /// Files a slot for its borrower: with a connection it is lent, without one it is a reservation.
    fn hand_out(&mut self, index: u32, want: &Want<'_, H>) -> CheckOut<H> {
        self.table.file(index, want.to_key());
        if let Some(connection) = self.table.get(index).connection.clone() {
            self.table.advance(index, State::Lent);
            self.nudge(want.hash());
            CheckOut::Lent(connection)
        } else {
            self.table.set_opener(index, want.caller());
            CheckOut::Reserved(self.table.id(index))
        }
    }

    fn wait(&mut self, busy: Busy, want: &Want<'_, H>, waiter: Option<WaiterId>, waker: &mut Option<W>) -> CheckOut<H> {
        let stays = |queue: &Queue<W>, waiter| busy == Busy::KeyOpening || queue.has_place(waiter);
        if let Some(waiter) = waiter.filter(|&waiter| stays(&self.queue, waiter))
            && self.queue.rearm(waiter, waker)
        {
            return CheckOut::Busy(busy, Some(waiter));
        }
        // A follower whose key did not come to be, or a newcomer: to the end of the queue.
        let joined = waker.take().map(|waker| match busy {
            Busy::Full => self.queue.join(want.hash(), waker),
            Busy::KeyOpening => self.queue.follow(want.hash(), waker),
        });
        CheckOut::Busy(busy, joined)
    }

    /// Takes what was promised to this waiter, which then has no place any more.
    fn claim(&mut self, waiter: WaiterId) -> Option<u32> {
        let promised = self.queue.claim(waiter)?;
        self.table.find(promised)
    }

    /// Lets a waiter go, and hands on what it was promised. What nobody has a use for is given back to be closed.
    pub(crate) fn leave(&mut self, waiter: WaiterId) -> Option<(SlotId, Arc<H>)> {
        let waker = self.queue.remove(waiter);
        self.after.wakers.extend(waker);
        let index = self.claim(waiter)?;
        if self.table.get(index).state == State::Opening {
            self.vacate(index);
            return None;
        }
        self.rest_or_retire(index)
    }
}
