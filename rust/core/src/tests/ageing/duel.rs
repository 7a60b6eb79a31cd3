//! The real ledger and the model, side by side.

use super::model::{Ended, HOUSEKEEPER, Model, Promise, Token};
use super::steps::Step;
use crate::tests::props::{TestWaker, Thing, World};
use crate::{
    Candidates, Checking, Closer, Growth, Histogram, Moment, Policy, Rank, Refill, Refusal, Reservation, Returning,
    Times, Waiter, Want,
};

/// A waiter of the real pool, with what is needed to ask again.
pub(super) struct Waiting<'w> {
    pub(super) rank: Rank,
    pub(super) number: Token,
    pub(super) key: Option<u32>,
    pub(super) caller: u64,
    pub(super) waiter: Waiter<'w, Thing, TestWaker>,
    pub(super) waker: TestWaker,
}

/// A caller that has been given candidates and has not compared them yet.
pub(super) struct Comparing {
    pub(super) rank: Rank,
    pub(super) key: u32,
    pub(super) caller: u64,
    pub(super) want: Want<Thing>,
    pub(super) candidates: Candidates<Thing>,
    pub(super) willing: bool,
}

/// Both pools, and everything that is in the making.
pub(super) struct Duel<'w> {
    pub(super) world: &'w World,
    pub(super) model: Model,
    pub(super) reservations: Vec<(Token, Reservation<'w, Thing, TestWaker>)>,
    pub(super) checking: Vec<(Token, Checking<'w, Thing, TestWaker>)>,
    pub(super) returning: Vec<(Token, Returning<'w, Thing, TestWaker>)>,
    pub(super) waiting: Vec<Waiting<'w>>,
    pub(super) comparing: Vec<Comparing>,
    pub(super) refill: Option<Refill<'w, Thing, TestWaker>>,
    /// What each worker opens, which worker, and its guard.
    pub(super) growths: Vec<(Token, u64, Growth<'w, Thing, TestWaker>)>,
    pub(super) workers: TestWaker,
    pub(super) housekeeper: TestWaker,
    /// Until when the housekeeper rests, and how often it had been called when it began to.
    pub(super) resting: Option<(Moment, usize)>,
    /// Callers that wait for the last connection of a closed pool to be closed.
    pub(super) closers: Vec<(Closer<'w, Thing, TestWaker>, TestWaker)>,
    pub(super) last: Token,
}

/// Takes the nth of what there is.
pub(super) fn take<T>(things: &mut Vec<T>, nth: usize) -> Option<T> {
    (!things.is_empty()).then(|| things.remove(nth % things.len()))
}

impl<'w> Duel<'w> {
    pub(super) fn new(world: &'w World, minconn: usize, maxconn: usize, policy: Policy) -> Self {
        world.ledger.set_policy(policy);
        let workers = world.waker();
        world.ledger.set_workers(workers.clone());
        Self {
            world,
            model: Model::new(minconn, maxconn, policy, 1),
            reservations: vec![],
            checking: vec![],
            returning: vec![],
            waiting: vec![],
            comparing: vec![],
            refill: None,
            growths: vec![],
            workers,
            housekeeper: world.housekeeper(),
            resting: None,
            closers: vec![],
            last: 100,
        }
    }

    pub(super) fn token(&mut self) -> Token {
        self.last += 1;
        self.last
    }

    pub(super) fn tokens(&mut self, many: usize) -> Vec<Token> {
        (0..many).map(|_| self.token()).collect()
    }

    pub(super) fn lent(&self, nth: usize) -> Option<u32> {
        let lent = &self.model.lent;
        (!lent.is_empty()).then(|| lent[nth % lent.len()].connection.name)
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Pass { millis } => self.world.pass_nanos(millis * 1_000_000),
            Step::Sleep { early } => self.sleep(early),
            _ => {}
        }
        self.model.now = self.world.now();
        if self.model.policy.reconnect_backoff.is_some() || self.model.backoff.width.is_some() {
            // Both decide by the same time, also in a step that tells the ledger none.
            self.world.ledger.edit_at(self.world.now(), |_| ());
        }
        match *step {
            Step::Pass { .. } | Step::Sleep { .. } => {}
            Step::Borrow { rank, key, wait } => self.borrow(rank, key, wait),
            Step::Pause { rank, key, wait } => self.pause(rank, key, wait),
            Step::Resume { nth } => self.resume(nth),
            Step::Open { nth, finish } => self.open(nth, finish),
            Step::End { nth, fail, full } => self.end(nth, fail, full),
            Step::Reserve => self.reserve(),
            Step::Return { nth, close, fast } => {
                if let Some(name) = self.lent(nth) {
                    self.give_back(name, close, fast);
                }
            }
            Step::Finish { nth, how } => self.finish(nth, how),
            Step::Check { nth, how } => self.check(nth, how),
            Step::IdleCheck { nth } => self.check_idle(nth),
            Step::Claim { nth } => self.claim(nth),
            Step::Leave { nth } => {
                if let Some(waiting) = take(&mut self.waiting, nth) {
                    self.leave(waiting);
                }
            }
            Step::Chore { housekeeper } => self.chore(housekeeper),
            Step::Refill { failed } => self.end_refill(failed),
            Step::BeginGrowth => self.begin_growth(),
            Step::EndGrowth { nth, how } => self.end_growth(nth, how),
            Step::LoseCalls(lost) => {
                self.workers.lose(lost);
                self.model.calls_are_lost = lost;
            }
            Step::Annotate { nth } => {
                if let Some(name) = self.lent(nth) {
                    self.world.ledger.annotate(self.world.loan(name), self.world.thing(7));
                }
            }
            Step::Reclaim { nth } => {
                if let Some(name) = self.lent(nth) {
                    self.reclaim(name);
                }
            }
            Step::Invalidate { nth, older } => {
                if let Some(name) = self.lent(nth) {
                    self.world.ledger.invalidate(self.world.loan(name), older);
                    self.model.invalidate(name, older);
                }
            }
            Step::TakeStats => {
                assert_eq!(self.world.ledger.take_stats(self.world.now()).0, self.model.take_stats());
            }
            _ => self.manage(step),
        }
        self.model.deliver_calls();
    }

    fn manage(&mut self, step: &Step) {
        let model = &self.model;
        let tokens = self.tokens(model.idle.len() + model.promised.len() + model.deferred_returns.len());
        match *step {
            Step::Drain => {
                let drained = self.world.ledger.drain(HOUSEKEEPER);
                let expected = self.model.drain(&tokens);
                self.discarded(tokens, drained, &expected);
            }
            Step::SetMaxconn(maxconn) => {
                let retired = self.world.ledger.set_maxconn(maxconn);
                let expected = self.model.set_maxconn(maxconn, &tokens);
                self.discarded(tokens, retired, &expected);
            }
            Step::SetMinconn(minconn) => {
                self.world.ledger.set_minconn(minconn);
                self.model.minconn = minconn;
            }
            Step::Close => {
                let given = self.world.ledger.close().map(|given| given.iter().map(|given| given.name).collect());
                assert_eq!(given, self.model.close());
            }
            Step::CloseGently => {
                let idle = self.world.ledger.close_gently(HOUSEKEEPER);
                let expected = self.model.close_gently(&tokens);
                assert_eq!(idle.is_some(), expected.is_some());
                self.discarded(tokens, idle.unwrap_or_default(), &expected.unwrap_or_default());
            }
            Step::Unopen => {
                let idle = self.world.ledger.unopen(HOUSEKEEPER);
                let expected = if self.model.closed { vec![] } else { self.model.shut(Ended::Unopened, &tokens) };
                self.discarded(tokens, idle, &expected);
            }
            Step::OpenPool => assert_eq!(self.world.ledger.open(), self.model.open()),
            Step::AwaitReturns => {
                let waker = self.world.waker();
                let closer = self.world.ledger.await_returns(waker.clone());
                assert_eq!(closer.is_some(), self.model.closed && self.model.unclosed() > 0);
                self.closers.extend(closer.map(|closer| (closer, waker)));
            }
            Step::EndWait { nth } => drop(take(&mut self.closers, nth)),
            Step::SetClosed(closed) => {
                self.world.ledger.set_closed(closed);
                self.model.set_closed(closed);
            }
            _ => {
                self.world.ledger.reset();
                self.model.reset();
                // The caller that makes the pool anew tells the housekeeper.
                self.resting = None;
                self.check_wakers();
                // From before the reset: they do no harm now.
                self.drop_all();
            }
        }
    }

    fn discarded(&mut self, tokens: Vec<Token>, given: Vec<Returning<'w, Thing, TestWaker>>, expected: &[u32]) {
        assert_eq!(given.iter().map(|given| given.connection().name).collect::<Vec<_>>(), expected);
        self.returning.extend(tokens.into_iter().zip(given));
    }

    pub(super) fn drop_all(&mut self) {
        self.closers.clear();
        self.refill = None;
        self.growths.clear();
        self.waiting.clear();
        self.checking.clear();
        self.returning.clear();
        self.reservations.clear();
    }

    // --- what always holds -----------------------------------------------------------------------------------------------

    pub(super) fn agree(&self) {
        let (model, counts) = (&self.model, self.world.ledger.counts());
        assert_eq!(self.world.idle(), model.idle.iter().map(|idle| idle.name).collect::<Vec<_>>());
        assert_eq!(self.world.lent(), model.lent.iter().map(|loan| loan.connection.name).collect::<Vec<_>>());
        let rooms = model.promised.iter().filter(|(_, promise)| matches!(promise, Promise::Room)).count();
        assert_eq!((counts.promised, counts.opening), (model.promised.len() - rooms, model.opening.len() + rooms));
        assert_eq!((counts.checking, counts.returning), (model.checking.len(), model.returning.len()));
        assert_eq!((counts.waiting, counts.closed), (model.waiting(), model.closed));
        assert_eq!(
            (counts.unopened, counts.unclosed),
            (model.ensure_open() == Err(Refusal::Unopened), model.unclosed())
        );
        let over = !model.closed || model.unclosed() == 0;
        assert!(!over || self.closers.iter().all(|(_, waker)| waker.wakes() == 1), "a closer sleeps for ever");
        let room = model.maxconn.saturating_sub(model.occupied());
        let held_back = model.is_backing_off();
        let free = !model.idle.is_empty() || model.policy.grow.is_none() && room > 0 && !held_back;
        let free = free && model.admits_first();
        assert!(model.closed || !free || model.waiting_for_room() == 0, "a caller waits while a slot is free");
        let busy = model.called + model.growing.len() + usize::from(model.refill.busy);
        let limit = model.policy.grow.map_or(0, std::num::NonZero::get);
        let first = model
            .queue
            .iter()
            .find(|waiter| waiter.for_room && waiter.timed.is_some())
            .filter(|_| held_back && room > 0 && model.admits_first());
        assert!(
            first.is_none_or(|first| first.timed == Some(true) || !first.armed),
            "a caller waits and does not know until when"
        );
        let allowed = if limit > 0 && !held_back { model.room_for_workers(0) } else { room };
        let needed = model.waiting_for_room().min(limit).min(allowed + model.growing.len());
        assert!(model.closed || held_back || busy >= needed, "a caller waits for a worker that is not called");
        let connects = model.growing.len() + usize::from(model.refill.busy);
        assert!(connects <= limit.max(1), "more connect than may");
        assert_eq!(self.workers.wakes(), model.calls, "workers are called as often");
        assert_eq!(self.world.ledger.stats(self.world.now()).0, model.stats());
        self.check_times();
        self.check_wakers();
        self.check_housekeeper();
    }

    fn check_times(&self) {
        let told = |times: &Histogram| (times.cumulative().collect::<Vec<_>>(), times.sum());
        let Times { waits, uses, connects } = self.world.ledger.times();
        assert_eq!(told(&uses), Model::spread(&self.model.uses, &uses));
        assert_eq!(told(&connects), Model::spread(&self.model.connects, &connects));
        assert!(waits.cumulative().all(|(_, count)| count == self.model.fast), "all were answered at once");
    }

    pub(super) fn check_wakers(&self) {
        for Waiting { number, waker, .. } in &self.waiting {
            assert_eq!(waker.wakes(), self.model.wakes.get(number).copied().unwrap_or(0), "of waiter {number}");
        }
    }

    /// The housekeeper comes back before anything is due, or it has been called.
    fn check_housekeeper(&self) {
        if let Some((until, wakes)) = self.resting
            && self.model.policy.has_housekeeper
            && self.housekeeper.wakes() == wakes
        {
            let due = self.model.due(false);
            assert!(until <= due, "the housekeeper rests until {until:?}, but {due:?} is due");
        }
    }
}
