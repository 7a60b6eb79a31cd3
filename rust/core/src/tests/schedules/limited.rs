//! A pool that shares a limit, and a pretended grantor: it has no place at first, and one later, or never grants any.

use std::sync::{Arc, Mutex, MutexGuard};

use super::acts::{Act, Start};
use super::caller::{Caller, Patience};
use super::claims::{claim, profile, prove_all};
use super::combinations::combinations;
use super::explorer::note;
use super::things::Parker;
use super::world::{NOW, World};
use crate::Grantor;

/// Names the grantor's thread.
const GRANTOR: usize = 9;

/// The places that the pool shares with others.
#[derive(Clone)]
pub(super) struct Places {
    state: Arc<Mutex<State>>,
    /// What the grantor's thread waits on.
    parker: Parker,
}

#[derive(Default)]
struct State {
    free: usize,
    total: usize,
    /// Whether it grants nothing any more.
    dead: bool,
    /// Whether no caller is left.
    done: bool,
}

impl Grantor for Places {
    fn release(&self, count: usize) -> bool {
        self.parker.assert_unlocked("the grantor was called");
        self.add(count, 0);
        self.parker.ring();
        true
    }

    fn wants(&self) -> bool {
        self.parker.assert_unlocked("the grantor was called");
        self.parker.ring();
        true
    }
}

impl Places {
    /// Limits a pool to so many, all of them free.
    pub(super) fn of(world: &World, total: usize) -> Self {
        let state = State { free: total, total, ..State::default() };
        let places = Self { state: Arc::new(Mutex::new(state)), parker: world.parker(GRANTOR) };
        world.ledger.set_limited(true);
        world.ledger.set_grantor(Box::new(places.clone()));
        places
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a test that panics has failed")
    }

    pub(super) fn free(&self) -> usize {
        self.state().free
    }

    pub(super) fn total(&self) -> usize {
        self.state().total
    }

    /// Counts the places that it would grant.
    pub(super) fn grantable(&self) -> usize {
        let state = self.state();
        if state.dead { 0 } else { state.free }
    }

    /// Makes places free: some that were taken, and some more.
    fn add(&self, back: usize, more: usize) {
        let (free, total) = {
            let mut state = self.state();
            (state.free, state.total) = (state.free + back + more, state.total + more);
            (state.free, state.total)
        };
        let model = self.parker.model.state();
        let open = model.open().len();
        // A connection that is dropped, not closed, is open until its last handle is dropped.
        assert!(model.careless || open + free <= total, "{open} are open, and {free} of {total} places are free");
    }

    /// Takes up to so many places.
    pub(super) fn take(&self, most: usize) -> usize {
        let taken = self.grantable().min(most);
        self.state().free -= taken;
        taken
    }

    /// Grants nothing from now on.
    pub(super) fn die(&self) {
        self.state().dead = true;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Has one place more, and grants what the waiters want, until no caller is left.
    pub(super) fn serve(&self, world: &World) {
        let mut more = 1;
        loop {
            let wanted = world.ledger.wanted(NOW);
            self.add(0, std::mem::take(&mut more));
            let taken = self.take(wanted);
            if taken > 0 {
                note(GRANTOR, "grants");
                let unused = world.ledger.grant(taken, NOW);
                world.look();
                self.add(unused, 0);
            }
            if self.state().done {
                return;
            }
            self.parker.park();
        }
    }

    /// Lets the grantor's thread end, since no caller is left.
    pub(super) fn end(&self) {
        self.state().done = true;
        self.parker.ring();
    }
}

#[test]
fn no_two_calls_at_once_lose_a_grant_or_a_waiter_in_a_schedule_explored() {
    let pairs = combinations(&Act::ALL, 2);
    assert_eq!(pairs.len(), 55);
    prove_all("pairs of a limited pool", &pairs, &Start::LIMITED, profile());
}

#[test]
fn no_press_during_a_return_and_another_call_loses_a_grant_or_a_waiter_in_a_schedule_explored() {
    let mut triples = combinations(&Act::ALL, 3);
    triples.retain(|acts| [Act::Return, Act::Press].iter().all(|act| acts.contains(act)));
    assert_eq!(triples.len(), 10);
    prove_all("triples of a limited pool", &triples, &Start::LIMITED, profile());
}

#[test]
fn no_caller_waits_for_ever_for_one_that_seeks_a_place_for_their_key_and_may_be_interrupted() {
    claim("no caller waits for ever for one that seeks a place for their key", || {
        let mut world = World::new(0, 1);
        world.limit(1);
        world.model.state().careless = true;
        let patience = [Patience::Endless, Patience::Endless, Patience::Interrupt];
        shuttle::thread::scope(|scope| {
            let world = &world;
            let places = world.places.as_ref().expect("it is limited");
            scope.spawn(|| places.serve(world));
            let callers = (1..).zip(patience).map(|(thread, patience)| {
                let mut caller = Caller::by_key(world, thread);
                scope.spawn(move || {
                    let name = caller.borrow(patience);
                    assert!(patience == Patience::Interrupt || name.is_some(), "it waits until it is served");
                    if let Some(name) = name {
                        caller.give_back(name, false);
                    }
                })
            });
            let callers: Vec<_> = callers.collect();
            callers.into_iter().for_each(|caller| caller.join().expect("a test that panics has failed"));
            places.end();
        });
        world.end();
    });
}
