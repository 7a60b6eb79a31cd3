//! A pool under examination, and how it must be found at each moment and in the end.

use std::sync::Arc;

use super::explorer::{note, unobserved};
use super::limited::Places;
use super::model::Model;
use super::things::{Parker, TestLedger, Thing};
use crate::{CheckOut, Moment, Rank, Reservation, Reserve, Returning, Unanswered, Want};

/// The time does not pass here.
pub(super) const NOW: Moment = Moment::from_nanos(1_000_000);

pub(super) struct World {
    pub(super) ledger: Arc<TestLedger>,
    pub(super) model: Model,
    minconn: usize,
    /// What the pool shares with others.
    pub(super) places: Option<Places>,
}

impl World {
    pub(super) fn new(minconn: usize, maxconn: usize) -> Self {
        let ledger = Arc::new(TestLedger::new(1));
        drop(ledger.resize(minconn, maxconn));
        Self { ledger, model: Model::new(maxconn), minconn, places: None }
    }

    /// Lets the pool share a limit, of which so many places are free.
    pub(super) fn limit(&mut self, places: usize) {
        self.places = Some(Places::of(self, places));
    }

    /// Takes a place for a caller, if one is free.
    pub(super) fn take_place(&self) -> bool {
        self.places.as_ref().is_some_and(|places| places.take(1) > 0)
    }

    pub(super) fn thing(&self, name: u32) -> Arc<Thing> {
        self.model.state().handles += 1;
        Arc::new(Thing { name, model: self.model.clone(), ledger: Arc::downgrade(&self.ledger) })
    }

    pub(super) fn parker(&self, thread: usize) -> Parker {
        Parker { thread, model: self.model.clone(), ledger: Arc::downgrade(&self.ledger), woken: Arc::default() }
    }

    /// Opens a connection, as the server sees it.
    pub(super) fn connect(&self) -> u32 {
        let (name, mut open, highest, careless) = {
            let mut state = self.model.state();
            (state.connect(), state.open(), state.highest, state.careless)
        };
        if careless {
            // A connection that is dropped, not closed, is open until its last handle is dropped.
            open.retain(|&other| other == name || unobserved(|| self.ledger.holds(other as usize)));
        }
        assert!(open.len() <= highest, "{open:?} are open, and the limit never was above {highest}");
        name
    }

    /// Lays a connection into the pool, before the threads start.
    pub(super) fn open_idle(&self) {
        let Ok(Reserve::New(room)) = self.ledger.reserve(None, 0) else { panic!("there is room") };
        let name = self.connect();
        self.ledger.fulfil(room.slot(), name as usize, &self.thing(name), NOW).expect("the pool is open");
        drop(room);
        self.look();
    }

    /// Takes room to open a connection for a thread, before the threads start.
    pub(super) fn reserve(&self, thread: usize, want: &Want<Thing>) -> Reservation<'_, Thing, Parker> {
        let Ok(CheckOut::Reserved(room)) = self.check_out(want) else { panic!("there is room") };
        self.model.state().grant(thread, matches!(want, Want::Key(_)));
        room
    }

    /// Asks for a connection without waiting.
    fn check_out(&self, want: &Want<Thing>) -> Result<CheckOut<'_, Thing, Parker>, Unanswered<Thing>> {
        match self.ledger.check_out(want, None, None, NOW) {
            Ok(CheckOut::Seek(seek)) => seek.check_out_as(self.take_place(), Rank::Normal, want, None, None, NOW),
            answer => answer,
        }
    }

    /// Closes the pool, and what it gives out to be closed.
    pub(super) fn close(&self, thread: usize) {
        let closing = self.ledger.close();
        note(thread, "closes the pool");
        let first = !std::mem::replace(&mut self.model.state().closed, true);
        assert_eq!(closing.is_ok(), first, "a pool is closed once");
        for connection in closing.into_iter().flatten() {
            self.model.state().disconnect(connection.name);
        }
        if self.places.is_some() {
            self.ledger.end_closing();
        }
        self.look();
    }

    /// Closes the pool gently, and waits until all connections are closed.
    pub(super) fn close_gently(&self, thread: usize) {
        let idle = self.ledger.close_gently(thread as u64).expect("it is open");
        note(thread, "closes the pool gently");
        {
            let mut state = self.model.state();
            (state.closed, state.gently) = (true, true);
        }
        for idle in idle {
            self.discard(idle);
        }
        let parker = self.parker(thread);
        while let Some(_closer) = self.ledger.await_returns(parker.clone()) {
            parker.park();
        }
        assert_eq!((self.ledger.unclosed(), self.model.state().open().len()), (0, 0), "it was woken too soon");
    }

    /// Sets the limit, and closes what is above it.
    pub(super) fn resize(&self, thread: usize, limit: usize) {
        let surplus = self.ledger.resize(self.minconn, limit);
        note(thread, if surplus.is_empty() { "sets the limit" } else { "sets the limit and closes a connection" });
        let closed = {
            let mut state = self.model.state();
            state.limit = limit;
            state.highest = state.highest.max(limit);
            state.closed
        };
        self.look();
        for surplus in surplus {
            if closed {
                // It was closed with the pool.
                drop(surplus);
            } else {
                self.discard(surplus);
            }
        }
    }

    /// Tells the pool that others wait, closes what it may not keep, and tells it that none do.
    pub(super) fn press(&self, thread: usize) {
        let surplus = self.ledger.press(Some(0));
        note(thread, if surplus.is_empty() { "presses" } else { "presses and closes a connection" });
        self.look();
        surplus.into_iter().for_each(|surplus| self.discard(surplus));
        assert!(self.ledger.press(None).is_empty(), "nothing is closed when it ends");
        note(thread, "ends the press");
        self.look();
    }

    /// Closes a connection that the pool has no use for, and frees its slot.
    pub(super) fn discard(&self, returning: Returning<'_, Thing, Parker>) {
        self.model.state().disconnect(returning.connection().name);
        drop(returning);
        self.look();
    }

    /// Looks at the pool between two steps.
    pub(super) fn look(&self) {
        let counts = unobserved(|| self.ledger.counts());
        let mut state = self.model.state();
        assert_eq!(counts.closed, state.closed);
        assert_eq!((counts.maxconn, counts.minconn), (state.limit, self.minconn));
        if state.closed {
            return;
        }
        let taken = counts.open() + counts.opening;
        let before = std::mem::replace(&mut state.taken, taken);
        assert!(taken <= before.max(state.limit), "{taken} slots are taken, were {before}: {counts:?}");
        assert_eq!(counts.lent, state.held(), "lent, and held: {counts:?}");
        if self.places.is_some() {
            assert_eq!(unobserved(|| self.ledger.granted()), taken, "granted, and taken: {counts:?}");
        }
        let room = self.places.is_none() && taken < state.limit && !self.has_workers();
        let free = counts.idle > 0 || room;
        assert!(!free || state.waiting() == 0, "a caller waits while a slot is free: {counts:?}");
    }

    /// Says whether workers connect for the waiters.
    fn has_workers(&self) -> bool {
        unobserved(|| self.ledger.has_workers())
    }

    /// Looks at the pool when all threads are done: no caller waits, no work is unfinished, and it lends as much as it may.
    pub(super) fn end(self) {
        let counts = self.ledger.counts();
        let busy = (counts.promised, counts.opening, counts.checking, counts.returning, counts.waiting);
        assert_eq!(busy, (0, 0, 0, 0, 0), "something is left: {counts:?}");
        let reported = self.ledger.stats(NOW).0;
        let (open, opened, held) = {
            let state = self.model.state();
            (state.open().len(), state.opened(), state.held())
        };
        assert_eq!(held, 0, "a thread holds a connection that it gave back");
        let closed: u64 = reported.closed.iter().sum();
        assert_eq!(
            usize::try_from(closed).expect("few"),
            opened - open,
            "closed by the model, and counted: {reported:?}"
        );
        if let Some(places) = &self.places {
            assert_eq!((self.ledger.granted(), places.free()), (open, places.total() - open), "granted, and free");
        }
        if counts.closed {
            assert_eq!(open, 0, "something is open in a closed pool");
        } else {
            assert_eq!((counts.idle, counts.lent), (open, 0), "what is open is idle: {counts:?}");
            self.lend_all();
        }
        self.model.state().careless = true;
        let Self { ledger, model, .. } = self;
        drop(ledger);
        assert_eq!(model.state().handles, 0, "a handle was lost");
    }

    fn lend_all(&self) {
        let may = self.places.as_ref().map_or(usize::MAX, |places| self.ledger.granted() + places.grantable());
        let mut taken = 0;
        let mut room = Vec::new();
        loop {
            match self.check_out(&Want::Any(self.ledger.next_number(), 1)) {
                Ok(CheckOut::Lent(_)) => taken += 1,
                Ok(CheckOut::Reserved(reserved)) => room.push(reserved),
                _ => break,
            }
        }
        let (lent, limit) = (taken + room.len(), self.model.state().limit.min(may));
        assert_eq!(lent, limit, "the pool lends {lent} connections, and its limit is {limit}");
    }
}
