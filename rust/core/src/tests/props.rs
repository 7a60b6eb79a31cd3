//! What the tests put in the place of connections, keys and waiters, and short ways to use a pool of them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use crate::{
    Ask, Busy, CheckOut, ConnectError, Counts, No, Pool, Refusal, Reservation, Returning, UserKey, Waiter, Want,
};

pub(super) type TestPool = Pool<Thing, Bell>;

#[derive(Debug)]
/// A connection or a key. When it is dropped, it checks that the pool's mutex is free.
pub(super) struct Thing {
    pub(super) name: u32,
    pool: Weak<TestPool>,
    dropped: Arc<Mutex<Vec<u32>>>,
}

impl Drop for Thing {
    fn drop(&mut self) {
        assert_unlocked(&self.pool, "a handle was dropped");
        self.dropped.lock().expect("no test panics with this lock").push(self.name);
    }
}

/// A waker that counts how often it was called, and checks that the pool's mutex is free.
#[derive(Clone)]
pub(super) struct Bell {
    rung: Arc<AtomicUsize>,
    pool: Weak<TestPool>,
}

impl Bell {
    pub(super) fn rung(&self) -> usize {
        self.rung.load(Ordering::SeqCst)
    }
}

impl crate::Wake for Bell {
    fn wake(&self) {
        assert_unlocked(&self.pool, "a waiter was woken");
        self.rung.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        assert_unlocked(&self.pool, "a waker was dropped");
    }
}

fn assert_unlocked(pool: &Weak<TestPool>, what: &str) {
    if let Some(pool) = pool.upgrade()
        && !std::thread::panicking()
    {
        assert!(pool.is_unlocked(), "{what} while the mutex was held");
    }
}

/// A pool and the things in it.
pub(super) struct World {
    pub(super) pool: Arc<TestPool>,
    /// The names of the things that were dropped, in order.
    pub(super) dropped: Arc<Mutex<Vec<u32>>>,
    places: AtomicU64,
}

impl World {
    pub(super) fn new(minconn: usize, maxconn: usize) -> Self {
        let pool = Arc::new(TestPool::default());
        pool.set_minconn(minconn);
        drop(pool.set_maxconn(maxconn));
        Self { pool, dropped: Arc::default(), places: AtomicU64::new(1 << 32) }
    }

    pub(super) fn thing(&self, name: u32) -> Arc<Thing> {
        Arc::new(Thing { name, pool: Arc::downgrade(&self.pool), dropped: Arc::clone(&self.dropped) })
    }

    /// Gives a clean connection back by the fast path; says whether that was taken.
    pub(super) fn keep(&self, name: u32) -> bool {
        self.pool.keep_clean(name as usize)
    }

    pub(super) fn bell(&self) -> Bell {
        Bell { rung: Arc::default(), pool: Arc::downgrade(&self.pool) }
    }

    pub(super) fn any(&self) -> Want<Thing> {
        Want::Any(self.pool.next_number(), 0)
    }

    /// Asks for a key by value, through a new object each time. Keys of the same parity have the same hash.
    pub(super) fn ask(&self, key: u32, caller: u64) -> Want<Thing> {
        let place = usize::try_from(self.places.fetch_add(1, Ordering::SeqCst)).expect("64 bits");
        Want::Key(Ask::new(
            UserKey { hash: isize::try_from(key % 2).expect("small"), address: place, handle: self.thing(key) },
            caller,
        ))
    }

    /// Borrows, and expects a connection.
    pub(super) fn borrow(&self) -> u32 {
        if let Some(connection) = self.pool.lend_idle() {
            return connection.name;
        }
        match self.check_out(&self.any()) {
            Ok(CheckOut::Lent(connection)) => connection.name,
            other => panic!("no connection was lent: {}", show(&other)),
        }
    }

    pub(super) fn check_out(&self, want: &Want<Thing>) -> Result<CheckOut<'_, Thing, Bell>, No<Thing>> {
        self.pool.check_out(want, None, None)
    }

    /// Borrows, and expects room to open a connection.
    pub(super) fn reserve(&self) -> Reservation<'_, Thing, Bell> {
        match self.check_out(&self.any()) {
            Ok(CheckOut::Reserved(reservation)) => reservation,
            other => panic!("no room was reserved: {}", show(&other)),
        }
    }

    /// Fulfils a reservation with a connection of this name.
    pub(super) fn fulfil(&self, reservation: &Reservation<'_, Thing, Bell>, name: u32) -> Result<(), Refusal> {
        self.pool.fulfil(reservation.slot(), name as usize, &self.thing(name))
    }

    /// Opens connections with these names, and lends them.
    pub(super) fn open(&self, names: impl IntoIterator<Item = u32>) {
        for name in names {
            let reservation = self.reserve();
            self.fulfil(&reservation, name).expect("the pool is open");
        }
    }

    /// Joins the queue, and expects the pool to be full.
    pub(super) fn join(&self, want: &Want<Thing>, bell: &Bell) -> Waiter<'_, Thing, Bell> {
        match self.pool.check_out(want, None, Some(bell.clone())) {
            Ok(CheckOut::Busy(Busy::Full, Some(waiter))) => waiter,
            other => panic!("it did not wait: {}", show(&other)),
        }
    }

    /// Claims what a waiter was promised, and expects a connection.
    pub(super) fn claim(&self, want: &Want<Thing>, waiter: &Waiter<'_, Thing, Bell>) -> u32 {
        match self.pool.check_out(want, Some(waiter), None) {
            Ok(CheckOut::Lent(connection)) => connection.name,
            other => panic!("nothing was promised: {}", show(&other)),
        }
    }

    /// Begins to return a connection by its name.
    pub(super) fn begin_return(&self, name: u32) -> Result<Returning<'_, Thing, Bell>, Refusal> {
        self.pool.begin_return(Some(name as usize), None, false).map_err(refusal)
    }

    /// Returns a clean connection; says whether it was kept.
    pub(super) fn give_back(&self, name: u32) -> bool {
        if self.keep(name) {
            return true;
        }
        let returning = self.begin_return(name).expect("it is lent");
        returning.wanted() && returning.keep()
    }

    pub(super) fn idle(&self) -> Vec<u32> {
        self.pool.idle().iter().map(|connection| connection.name).collect()
    }

    pub(super) fn lent(&self) -> Vec<u32> {
        self.pool.lent().iter().map(|(_, connection)| connection.name).collect()
    }
}

/// Expects a refusal.
#[expect(clippy::needless_pass_by_value, reason = "it takes what an error is")]
pub(super) fn refusal(no: No<Thing>) -> Refusal {
    match no {
        No::Refused(refusal) => refusal,
        No::Compare(_) => panic!("there is something to compare"),
    }
}

/// Asks until there is an answer or a refusal, as the binding does with Python's `==`.
pub(super) fn settle<T>(
    want: &mut Want<Thing>,
    mut ask: impl FnMut(&Want<Thing>) -> Result<T, No<Thing>>,
) -> Result<T, Refusal> {
    loop {
        match ask(want) {
            Ok(answer) => return Ok(answer),
            Err(No::Refused(refusal)) => return Err(refusal),
            Err(No::Compare(candidates)) => compare(want, &candidates),
        }
    }
}

/// Compares the candidates by value and notes the outcome.
pub(super) fn compare(want: &mut Want<Thing>, candidates: &crate::Candidates<Thing>) {
    let Want::Key(ask) = want else { panic!("only keys are compared") };
    let ours = ask.key().handle.name;
    match candidates.list.iter().find(|candidate| candidate.key.name == ours) {
        Some(candidate) => ask.matched(candidate),
        None => ask.none_matched(candidates),
    }
}

pub(super) fn show<E: std::fmt::Debug>(answer: &Result<CheckOut<'_, Thing, Bell>, E>) -> String {
    match answer {
        Ok(CheckOut::Lent(connection)) => format!("lent {}", connection.name),
        Ok(CheckOut::Reserved(_)) => "reserved".to_owned(),
        Ok(CheckOut::Busy(busy, waiter)) => format!("{busy:?}, waiting: {}", waiter.is_some()),
        Err(no) => format!("{no:?}"),
    }
}

/// Why a connect failed.
pub(super) fn no(text: &str) -> ConnectError {
    ConnectError { text: text.to_owned(), at: Instant::now() }
}

/// Counts what is idle, lent, being opened, being returned, and waited for.
pub(super) fn counts(world: &World) -> (usize, usize, usize, usize, usize) {
    let Counts { idle, lent, opening, returning, waiting, .. } = world.pool.counts();
    (idle, lent, opening, returning, waiting)
}
