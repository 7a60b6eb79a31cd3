//! Random sequences of steps, run on the pool and on a naive model of it side by side.
//!
//! After every step these agree: the answer, the idle list, the loans and their order, the counts, and who has been
//! woken. And these hold: slots in use never grow past maxconn, nobody waits while something is free, and no handle
//! is dropped and nobody woken under the mutex (see `props`).

use std::collections::VecDeque;

use proptest::prelude::*;

use super::lengths;
use super::props::{Bell, Thing, World, compare, no, refusal, settle};
use crate::{Busy, Candidates, CheckOut, No, Refusal, Reservation, Returning, Waiter, Want};

#[derive(Clone, Debug)]
enum Step {
    /// Borrow without a key, or under one; join the queue if the pool is full and `wait`.
    Borrow {
        key: Option<u32>,
        wait: bool,
    },
    /// Begin to borrow under a key, and stop where keys are to be compared.
    Pause {
        key: u32,
        wait: bool,
    },
    /// The nth caller that has stopped there compares, and goes on.
    Resume {
        nth: usize,
    },
    /// The nth reservation is fulfilled, or fails.
    Open {
        nth: usize,
        fail: bool,
    },
    /// The nth loan comes back.
    Return {
        nth: usize,
        close: bool,
        fast: bool,
    },
    /// The nth connection that is being returned is kept if the pool wants it, or discarded.
    Finish {
        nth: usize,
        keep: bool,
    },
    /// The nth waiter looks whether it has been promised something.
    Claim {
        nth: usize,
    },
    /// The nth waiter gives up.
    Leave {
        nth: usize,
    },
    SetMinconn(usize),
    SetMaxconn(usize),
    Close,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let nth = 0..4_usize;
    let step = prop_oneof![
        8 => (prop_oneof![2 => Just(None), 3 => (0..4_u32).prop_map(Some)], any::<bool>())
            .prop_map(|(key, wait)| Step::Borrow { key, wait }),
        4 => (0..4_u32, any::<bool>()).prop_map(|(key, wait)| Step::Pause { key, wait }),
        4 => nth.clone().prop_map(|nth| Step::Resume { nth }),
        5 => (nth.clone(), prop::bool::weighted(0.2)).prop_map(|(nth, fail)| Step::Open { nth, fail }),
        6 => (nth.clone(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(nth, close, fast)| Step::Return { nth, close, fast }),
        5 => (nth.clone(), prop::bool::weighted(0.7)).prop_map(|(nth, keep)| Step::Finish { nth, keep }),
        4 => nth.clone().prop_map(|nth| Step::Claim { nth }),
        2 => nth.prop_map(|nth| Step::Leave { nth }),
        1 => (0..4_usize).prop_map(Step::SetMinconn),
        1 => (0..5_usize).prop_map(Step::SetMaxconn),
        1 => prop_oneof![1 => Just(Step::Close), 2 => Just(Step::Reopen)],
    ];
    prop::collection::vec(step, lengths::steps(0..120))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Promise {
    Connection(u32),
    Room,
}

/// The pool as one would explain it to a child: a few lists.
#[derive(Default)]
struct Model {
    minconn: usize,
    maxconn: usize,
    closed: bool,
    idle: Vec<u32>,
    /// Key and connection; a loan without a key has `None`.
    lent: Vec<(Option<u32>, u32)>,
    /// Keys of the reservations that are held.
    opening: Vec<Option<u32>>,
    returning: usize,
    queue: VecDeque<usize>,
    promised: Vec<(usize, Promise)>,
}

impl Model {
    fn occupied(&self) -> usize {
        self.idle.len() + self.lent.len() + self.opening.len() + self.returning + self.promised.len()
    }

    fn wants_another(&self) -> bool {
        (!self.queue.is_empty() || self.idle.len() < self.minconn) && self.occupied() <= self.maxconn
    }

    fn serve(&mut self) {
        while !self.closed && !self.queue.is_empty() {
            let promise = match self.idle.pop() {
                Some(connection) => Promise::Connection(connection),
                None if self.occupied() < self.maxconn => Promise::Room,
                None => return,
            };
            let first = self.queue.pop_front().expect("it is not empty");
            self.promised.push((first, promise));
        }
    }

    fn claim(&mut self, waiter: usize) -> Option<Promise> {
        let at = self.promised.iter().position(|&(promised, _)| promised == waiter)?;
        Some(self.promised.remove(at).1)
    }

    fn close(&mut self) {
        self.closed = true;
        self.queue.clear();
        for (_, promise) in std::mem::take(&mut self.promised) {
            if let Promise::Connection(connection) = promise {
                self.idle.push(connection);
            }
        }
    }
}

/// A waiter of the real pool, with what is needed to ask again.
struct Waiting<'w> {
    number: usize,
    key: Option<u32>,
    waiter: Waiter<'w, Thing, Bell>,
}

/// Both pools, and everything that is in the making.
struct Duel<'w> {
    world: &'w World,
    model: Model,
    reservations: Vec<(Reservation<'w, Thing, Bell>, Option<u32>)>,
    returning: Vec<(Returning<'w, Thing, Bell>, u32)>,
    waiting: Vec<Waiting<'w>>,
    comparing: Vec<Comparing>,
    next: u32,
}

/// A caller that has been given candidates and has not compared them yet.
struct Comparing {
    key: u32,
    want: Want<Thing>,
    candidates: Candidates<Thing>,
    wait: bool,
}

/// What a borrower got, in the model's terms.
#[derive(Debug, PartialEq)]
enum Got {
    Lent(u32),
    Reserved,
    Busy(Busy),
    Refused(Refusal),
}

impl<'w> Duel<'w> {
    fn new(world: &'w World, minconn: usize, maxconn: usize) -> Self {
        let model = Model { minconn, maxconn, ..Model::default() };
        Self { world, model, reservations: vec![], returning: vec![], waiting: vec![], comparing: vec![], next: 100 }
    }

    /// What the model answers to a borrower that holds `promise`, if any.
    fn expected(&mut self, key: Option<u32>, waiter: Option<usize>) -> Got {
        let model = &mut self.model;
        if model.closed {
            return Got::Refused(Refusal::Closed);
        }
        if key.is_some() {
            if let Some(&(_, connection)) = model.lent.iter().find(|(lent, _)| *lent == key) {
                return Got::Lent(connection);
            }
            if model.opening.contains(&key) {
                return Got::Busy(Busy::KeyOpening);
            }
        }
        let promise = waiter.and_then(|waiter| model.claim(waiter));
        let busy = if self.waiting.iter().any(|waiting| {
            let same_hash = key.zip(waiting.key).is_some_and(|(ours, its)| ours % 2 == its % 2);
            same_hash && model.promised.iter().any(|&(promised, _)| promised == waiting.number)
        }) {
            Busy::KeyOpening
        } else {
            Busy::Full
        };
        let queued = waiter.is_some_and(|waiter| model.queue.contains(&waiter));
        let connection = match promise {
            Some(Promise::Connection(connection)) => Some(connection),
            Some(Promise::Room) => None,
            None if queued => return Got::Busy(busy),
            None => match model.idle.pop() {
                Some(connection) => Some(connection),
                None if model.occupied() < model.maxconn => None,
                None => return Got::Busy(busy),
            },
        };
        if let Some(connection) = connection {
            model.lent.push((key, connection));
            return Got::Lent(connection);
        }
        model.opening.push(key);
        Got::Reserved
    }

    /// What the real pool is asked for; each call is another caller's.
    fn want(&mut self, key: Option<u32>) -> Want<Thing> {
        self.next += 1;
        key.map_or_else(|| self.world.any(), |key| self.world.ask(key, u64::from(self.next)))
    }

    /// Asks the real pool, comparing keys where it wants them compared.
    fn ask(&mut self, key: Option<u32>, want: &mut Want<Thing>, waiter: Option<usize>, willing: bool) -> Got {
        let world = self.world;
        let at = waiter.and_then(|waiter| self.waiting.iter().position(|waiting| waiting.number == waiter));
        let place = at.map(|at| &self.waiting[at].waiter);
        let answer =
            settle(want, |want| world.pool.check_out(want, place, willing.then(|| world.bell()), self.world.now()));
        self.note(key, answer)
    }

    /// Keeps what came with an answer, and tells it in the model's terms.
    fn note(&mut self, key: Option<u32>, answer: Result<CheckOut<'w, Thing, Bell>, Refusal>) -> Got {
        match answer {
            Ok(CheckOut::Lent(connection)) => Got::Lent(connection.name),
            Ok(CheckOut::Reserved(reservation)) => {
                self.reservations.push((reservation, key));
                Got::Reserved
            }
            Ok(CheckOut::Doubtful(_) | CheckOut::Errand(_)) => panic!("this pool checks nothing and leaves nothing"),
            Ok(CheckOut::Busy(busy, joined)) => {
                if let Some(waiter) = joined.filter(|_| busy == Busy::Full) {
                    let number = self.next as usize;
                    self.next += 1;
                    self.model.queue.push_back(number);
                    self.waiting.push(Waiting { number, key, waiter });
                }
                Got::Busy(busy)
            }
            Err(refusal) => Got::Refused(refusal),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Borrow { key, wait } => {
                let expected = self.expected(key, None);
                if key.is_none()
                    && let Some(connection) = self.world.pool.lend_idle(0, self.world.now())
                {
                    assert_eq!(expected, Got::Lent(connection.name));
                } else {
                    let mut want = self.want(key);
                    assert_eq!(expected, self.ask(key, &mut want, None, wait));
                }
            }
            Step::Pause { key, wait } => {
                let want = self.want(Some(key));
                match self.world.pool.check_out(&want, None, wait.then(|| self.world.bell()), self.world.now()) {
                    Err(No::Compare(candidates)) => {
                        self.comparing.push(Comparing { key, want, candidates, wait });
                    }
                    answer => {
                        let expected = self.expected(Some(key), None);
                        assert_eq!(expected, self.note(Some(key), answer.map_err(refusal)));
                    }
                }
            }
            Step::Resume { nth } if !self.comparing.is_empty() => {
                let Comparing { key, mut want, candidates, wait } = self.comparing.remove(nth % self.comparing.len());
                compare(&mut want, &candidates);
                let expected = self.expected(Some(key), None);
                assert_eq!(expected, self.ask(Some(key), &mut want, None, wait));
            }
            Step::Open { nth, fail } if !self.reservations.is_empty() => {
                let (reservation, key) = self.reservations.remove(nth % self.reservations.len());
                let at = self.model.opening.iter().position(|&opening| opening == key).expect("the model has it");
                let connection = self.next;
                self.next += 1;
                if fail {
                    drop(reservation.fail(no("it did not work")));
                } else {
                    let fulfilled = self.world.fulfil(&reservation, connection);
                    assert_eq!(fulfilled.is_err(), self.model.closed);
                    drop(reservation);
                }
                self.model.opening.remove(at);
                if !fail && !self.model.closed {
                    self.model.lent.push((key, connection));
                }
                self.model.serve();
            }
            Step::Return { nth, close, fast } if !self.model.lent.is_empty() => {
                let (key, connection) = self.model.lent[nth % self.model.lent.len()];
                self.give_back(key, connection, close, fast);
            }
            Step::Finish { nth, keep } if !self.returning.is_empty() => {
                let (mut returning, connection) = self.returning.remove(nth % self.returning.len());
                let wanted = !self.model.closed && self.model.wants_another();
                let kept = keep && returning.keep(self.world.now());
                assert_eq!(kept, keep && wanted);
                drop(returning);
                self.model.returning -= 1;
                if kept {
                    self.model.idle.push(connection);
                }
                self.model.serve();
            }
            Step::Claim { nth } if !self.waiting.is_empty() => {
                let Waiting { number, key, .. } = self.waiting[nth % self.waiting.len()];
                let expected = self.expected(key, Some(number));
                let mut want = self.want(key);
                assert_eq!(expected, self.ask(key, &mut want, Some(number), false));
                if !matches!(expected, Got::Busy(_)) {
                    self.leave(number);
                }
            }
            Step::Leave { nth } if !self.waiting.is_empty() => {
                self.leave(self.waiting[nth % self.waiting.len()].number);
            }
            Step::SetMinconn(minconn) => {
                self.world.pool.set_minconn(minconn);
                self.model.minconn = minconn;
            }
            Step::SetMaxconn(maxconn) => self.set_maxconn(maxconn),
            Step::Close => {
                let closing = self.world.pool.close();
                assert_eq!(closing.is_err(), self.model.closed);
                self.model.close();
            }
            Step::Reopen => {
                self.world.pool.set_closed(false);
                self.model.closed = false;
            }
            Step::Resume { .. }
            | Step::Open { .. }
            | Step::Return { .. }
            | Step::Finish { .. }
            | Step::Claim { .. }
            | Step::Leave { .. } => {}
        }
    }

    fn set_maxconn(&mut self, maxconn: usize) {
        let surplus = self.model.occupied().saturating_sub(maxconn + self.model.returning);
        let retired = self.model.idle.drain(..surplus.min(self.model.idle.len())).collect::<Vec<_>>();
        let given = self.world.pool.set_maxconn(maxconn);
        assert_eq!(given.iter().map(|given| given.connection().name).collect::<Vec<_>>(), retired);
        self.model.maxconn = maxconn;
        drop(given);
        self.model.serve();
    }

    fn give_back(&mut self, key: Option<u32>, connection: u32, close: bool, fast: bool) {
        let wanted = !close && self.model.wants_another();
        let at = self.model.lent.iter().position(|loan| *loan == (key, connection)).expect("it is lent");
        if fast && !close {
            let plain = key.is_none() && wanted && !self.model.closed && self.model.queue.is_empty();
            assert_eq!(self.world.keep(connection), plain);
            if plain {
                self.model.lent.remove(at);
                self.model.idle.push(connection);
                return;
            }
        }
        match self.world.pool.begin_return(Some(connection as usize), None, close, self.world.now()).map_err(refusal) {
            Ok(returning) => {
                assert_eq!(returning.closing().is_none(), wanted);
                self.returning.push((returning, connection));
                self.model.lent.remove(at);
                self.model.returning += 1;
            }
            Err(refusal) => assert!(refusal == Refusal::Closed && self.model.closed),
        }
    }

    fn leave(&mut self, number: usize) {
        let at = self.waiting.iter().position(|waiting| waiting.number == number).expect("it waits");
        let surplus = self.waiting.remove(at).waiter.leave();
        self.model.queue.retain(|&queued| queued != number);
        let expected = match self.model.claim(number) {
            Some(Promise::Connection(connection)) => {
                // Still counted while it is decided upon.
                self.model.returning += 1;
                let useful = self.model.wants_another();
                self.model.returning -= 1;
                if useful {
                    self.model.idle.push(connection);
                }
                (!useful).then_some(connection)
            }
            Some(Promise::Room) | None => None,
        };
        assert_eq!(surplus.as_ref().map(|surplus| surplus.connection().name), expected);
        drop(surplus);
        self.model.serve();
    }

    fn agree(&self) {
        let (model, counts) = (&self.model, self.world.pool.counts());
        assert_eq!(self.world.idle(), model.idle);
        assert_eq!(self.world.lent(), model.lent.iter().map(|&(_, connection)| connection).collect::<Vec<_>>());
        let promised = |what: fn(&Promise) -> bool| model.promised.iter().filter(|(_, promise)| what(promise)).count();
        let room = promised(|promise| *promise == Promise::Room);
        assert_eq!((counts.lent, counts.promised), (model.lent.len(), model.promised.len() - room));
        assert_eq!(counts.opening, model.opening.len() + room);
        assert_eq!((counts.returning, counts.waiting), (model.returning, model.queue.len()));
        let free = !model.idle.is_empty() || model.occupied() < model.maxconn;
        assert!(model.closed || model.queue.is_empty() || !free, "somebody waits while something is free");
    }
}

proptest! {
    #![proptest_config(lengths::config(2000))]

    #[test]
    fn the_pool_does_what_a_few_lists_would_do(
        minconn in 0..3_usize,
        extra in 0..3_usize,
        steps in steps(),
    ) {
        let world = World::new(minconn, minconn + extra);
        let mut duel = Duel::new(&world, minconn, minconn + extra);
        for step in &steps {
            let before = duel.model.occupied();
            duel.step(step);
            duel.agree();
            let after = duel.model.occupied();
            prop_assert!(after <= before.max(duel.model.maxconn), "above the limit");
        }
        drop(duel);
        let counts = world.pool.counts();
        prop_assert_eq!((counts.opening, counts.returning, counts.waiting), (0, 0, 0));
    }
}
