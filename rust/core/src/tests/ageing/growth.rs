//! Workers that connect for the waiters, on the model and on both.

use super::duel::{Duel, take};
use super::model::{Growing, HOUSEKEEPER, Model, Opening, Promise, Purpose, Returning, Token};
use super::steps::Grown;
use crate::tests::props::{connect_error, seconds};
use crate::time::Span;
use crate::{CloseReason, ConnectFailure, Reserve};

impl Model {
    pub(super) fn room_for_workers(&self, newcomers: usize) -> usize {
        let mut room = self.maxconn.saturating_sub(self.occupied());
        if self.policy.reserve > 0 {
            let connects = self.growing.len() + usize::from(self.refill.busy);
            let urgent = (self.waiting_with_priority() + newcomers).saturating_sub(connects);
            room = room.min(urgent.max(self.maxconn.saturating_sub(self.busy() + self.policy.reserve)));
        }
        if self.policy.grow.is_some() { room.min(self.connects_allowed()) } else { 0 }
    }

    pub(super) fn call_workers(&mut self) {
        let limit = self.policy.grow.map_or(0, std::num::NonZero::get);
        if self.now >= self.called_at.after(seconds(1.0)) {
            self.called = 0;
        }
        let busy = self.called + self.growing.len() + usize::from(self.refill.busy);
        let needed = self.waiting_for_room().min(limit).saturating_sub(busy);
        let called = needed.min(self.room_for_workers(0).saturating_sub(self.called));
        if !self.closed {
            self.called += called;
            self.called_at = if called > 0 { self.now } else { self.called_at };
            self.calls += called;
        }
    }

    /// Delivers the calls of the last edit. None of them reaches a worker, if calls are lost.
    pub(super) fn deliver_calls(&mut self) {
        while self.delivered < self.calls {
            self.delivered += 1;
            if self.calls_are_lost {
                self.worker_missed();
            }
        }
    }

    pub(super) fn worker_missed(&mut self) {
        if self.called == 0 {
            return;
        }
        self.called -= 1;
        if self.may_open() && self.admits_first() && !self.closed && self.waiting_for_room() > 0 {
            self.backoff.began = self.now;
            self.promise_room();
        }
        self.call_workers();
    }

    fn promise_room(&mut self) {
        if let Some(first) = self.queue.iter().position(|waiter| waiter.for_room) {
            let waiter = self.queue.remove(first);
            *self.wakes.entry(waiter.number).or_default() += usize::from(waiter.armed);
            self.promised.push((waiter.number, Promise::Room));
            self.keep_time();
        }
    }

    pub(super) fn begin_growth(&mut self, token: Token) -> bool {
        if self.called == 0 {
            return false;
        }
        self.called -= 1;
        let busy = self.growing.len() + usize::from(self.refill.busy);
        let limit = self.policy.grow.map_or(0, std::num::NonZero::get);
        let opens = !self.closed && self.waiting_for_room().min(limit) > busy && self.room_for_workers(0) > 0;
        if opens {
            self.backoff.began = self.now;
            let opened_in = self.next_opening();
            self.opening.push(Opening { token, purpose: Purpose::Rest, opened_in });
            self.growing.push(Growing { token, before: token });
        }
        opens
    }

    /// Says whether a waiter gets the error, which connection is surplus, and whether the worker opens another one.
    fn end_growth(&mut self, growth: Token, how: Grown, [surplus, next]: [Token; 2]) -> (bool, Option<u32>, bool) {
        let Some(at) = self.growing.iter().position(|growing| growing.token == growth) else {
            return (false, None, false);
        };
        let before = self.growing.remove(at).before;
        let goes_on = how != Grown::Dies;
        if goes_on {
            (self.called, self.called_at) = (self.called + 1, self.now);
        }
        let (mut told, mut closing) = (false, None);
        if let Some(at) = self.opening.iter().position(|opening| opening.token == growth) {
            let waits = how == Grown::FailsFull && self.some_may_come_back();
            if matches!(how, Grown::Fails | Grown::FailsFull) {
                self.back_off(self.opening[at].opened_in, waits);
            }
            let fails = matches!(how, Grown::Fails | Grown::FailsFull);
            let most = if !fails || waits {
                0
            } else if self.is_backing_off() || self.every_connection().next().is_some() {
                1
            } else {
                99
            };
            let waited = self.queue.iter().filter(|waiter| waiter.for_room && waiter.number < before);
            let failed: Vec<_> = waited.take(most).map(|waiter| (waiter.number, waiter.armed)).collect();
            for &(number, armed) in &failed {
                self.queue.retain(|waiter| waiter.number != number);
                *self.wakes.entry(number).or_default() += usize::from(armed);
                self.failed.push(number);
            }
            told = !failed.is_empty() || waits;
            let within = self.occupied() <= self.maxconn && self.admits_next() && !self.closed;
            self.opening.remove(at);
            if !fails && within {
                self.promise_room();
            } else {
                self.serve();
            }
        } else if !self.closed && self.policy.max_idle == Span::ZERO && self.idle.len() > self.minconn {
            let connection = self.idle.pop().expect("there are more than minconn");
            closing = Some(connection.name);
            let (reason, in_transit) = (Some(CloseReason::Surplus), Some(HOUSEKEEPER));
            self.returning.push(Returning { token: surplus, connection, closing: reason, in_transit });
        }
        if goes_on {
            (told, closing, self.begin_growth(next))
        } else {
            self.call_workers();
            (told, closing, false)
        }
    }
}

impl Duel<'_> {
    /// A worker comes.
    pub(super) fn begin_growth(&mut self) {
        let token = self.token();
        let expected = self.model.begin_growth(token);
        let growth = self.world.ledger.begin_growth(u64::from(token));
        assert_eq!(growth.is_some(), expected);
        self.growths.extend(growth.map(|growth| (token, u64::from(token), growth)));
    }

    /// A worker's connect ends.
    pub(super) fn end_growth(&mut self, nth: usize, how: Grown) {
        let Some((token, worker, growth)) = take(&mut self.growths, nth) else { return };
        let (surplus_token, next_token) = (self.token(), self.token());
        let opens = how == Grown::Opens && self.model.growing.iter().any(|growing| growing.token == token);
        let fails = matches!(how, Grown::Fails | Grown::FailsFull);
        if fails || opens {
            self.world.ledger.note_connect(seconds(0.5), fails);
            self.model.note_connect(seconds(0.5), fails);
        }
        if opens {
            let name = self.token();
            match self.world.ledger.reserve(None, worker) {
                Ok(Reserve::Pending(slot)) => {
                    let thing = self.world.thing(name);
                    let fulfilled = self.world.ledger.fulfil(slot, name as usize, &thing, self.world.now());
                    assert_eq!(fulfilled, self.model.fulfil(token, name));
                    self.model.deliver_calls();
                }
                _ => assert!(self.model.closed, "its room is reserved"),
            }
        }
        let expected = self.model.end_growth(token, how, [surplus_token, next_token]);
        if how == Grown::Dies {
            drop(growth);
            if expected.1.is_some() {
                self.model.discard(surplus_token);
            }
            return;
        }
        let failure = if how == Grown::Fails { ConnectFailure::Outage } else { ConnectFailure::Full };
        let failed = fails.then(|| (self.world.thing(8), connect_error("no"), failure));
        let end = growth.end(failed, self.world.now());
        let surplus = end.surplus.as_ref().map(|surplus| surplus.connection().name);
        assert_eq!((end.told, surplus, end.next.is_some()), expected);
        self.returning.extend(end.surplus.map(|surplus| (surplus_token, surplus)));
        self.growths.extend(end.next.map(|growth| (next_token, worker, growth)));
    }
}
