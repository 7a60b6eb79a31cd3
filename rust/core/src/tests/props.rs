//! What the tests put in the place of connections, keys and waiters, and short ways to use a pool of them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use crate::{
    Ask, Busy, CheckOut, ConnectError, Pool, Refusal, Reservation, Return, Returned, Returning, UserKey, Waiter, Want,
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
        self.pool.keep(name as usize)
    }

    pub(super) fn bell(&self) -> Bell {
        Bell { rung: Arc::default(), pool: Arc::downgrade(&self.pool) }
    }

    pub(super) fn any(&self) -> Want<'static, Thing> {
        Want::Any(self.pool.next_number())
    }

    /// Asks for a key by value, through a new object each time. Keys of the same parity have the same hash.
    pub(super) fn ask(&self, key: u32, caller: u64) -> Ask<Thing> {
        let place = usize::try_from(self.places.fetch_add(1, Ordering::SeqCst)).expect("64 bits");
        Ask::new(
            UserKey { hash: isize::try_from(key % 2).expect("small"), address: place, handle: self.thing(key) },
            caller,
        )
    }

    /// Borrows, and expects a connection.
    pub(super) fn borrow(&self) -> u32 {
        if let Some(connection) = self.pool.lend() {
            return connection.name;
        }
        match self.check_out(&self.any()) {
            Ok(CheckOut::Lent(connection)) => connection.name,
            other => panic!("no connection was lent: {}", show(&other)),
        }
    }

    pub(super) fn check_out(&self, want: &Want<'_, Thing>) -> Result<CheckOut<'_, Thing, Bell>, Refusal> {
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
    pub(super) fn join(&self, want: &Want<'_, Thing>, bell: &Bell) -> Waiter<'_, Thing, Bell> {
        match self.pool.check_out(want, None, Some(bell.clone())) {
            Ok(CheckOut::Busy(Busy::Full, Some(waiter))) => waiter,
            other => panic!("it did not wait: {}", show(&other)),
        }
    }

    /// Claims what a waiter was promised, and expects a connection.
    pub(super) fn claim(&self, want: &Want<'_, Thing>, waiter: &Waiter<'_, Thing, Bell>) -> u32 {
        match self.pool.check_out(want, Some(waiter), None) {
            Ok(CheckOut::Lent(connection)) => connection.name,
            other => panic!("nothing was promised: {}", show(&other)),
        }
    }

    /// Begins to return a connection by its name.
    pub(super) fn begin_return(&self, name: u32) -> Result<Returning<'_, Thing, Bell>, Refusal> {
        match self.pool.begin_return(&Returned::Connection(name as usize), false)? {
            Return::Begun(returning) => Ok(returning),
            Return::Compare(_) => panic!("there is nothing to compare"),
        }
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

/// Compares the candidates by value and notes the outcome, as the binding does with Python's `==`.
pub(super) fn compare(ask: &mut Ask<Thing>, candidates: &crate::Candidates<Thing>) {
    let ours = ask.key().handle.name;
    match candidates.list.iter().find(|candidate| candidate.key.name == ours) {
        Some(candidate) => ask.matched(candidate),
        None => ask.none_matched(candidates),
    }
}

pub(super) fn show(answer: &Result<CheckOut<'_, Thing, Bell>, Refusal>) -> String {
    match answer {
        Ok(CheckOut::Lent(connection)) => format!("lent {}", connection.name),
        Ok(CheckOut::Reserved(_)) => "reserved".to_owned(),
        Ok(CheckOut::Compare(_)) => "compare".to_owned(),
        Ok(CheckOut::Busy(busy, waiter)) => format!("{busy:?}, waiting: {}", waiter.is_some()),
        Err(refusal) => format!("{refusal:?}"),
    }
}

/// Why a connect failed.
pub(super) fn no(text: &str) -> ConnectError {
    ConnectError { text: text.to_owned(), at: Instant::now() }
}
