//! What the tests use as connections, keys and waiters, and short ways to use a ledger of them.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::{
    Ask, Busy, CheckOut, Checking, Chore, CloseReason, ConnectError, Counts, LoanReport, Moment, Policy, Rank, Refill,
    Refusal, Reservation, Reserve, Returning, SharedLedger, SlotId, Span, Unanswered, UserKey, Waiter, Want,
};

pub(super) type TestLedger = SharedLedger<Thing, TestWaker>;

#[derive(Debug)]
/// A connection or a key. When it is dropped, it checks that the pool's mutex is free.
pub(super) struct Thing {
    pub(super) name: u32,
    ledger: Weak<TestLedger>,
    dropped: Arc<Mutex<Vec<u32>>>,
}

impl Drop for Thing {
    fn drop(&mut self) {
        assert_unlocked(&self.ledger, "a handle was dropped");
        self.dropped.lock().expect("no test panics with this lock").push(self.name);
    }
}

/// A waker that counts how often it was called, and checks that the pool's mutex is free.
#[derive(Clone)]
pub(super) struct TestWaker {
    wakes: Arc<AtomicUsize>,
    /// Whether its wake-ups do not arrive.
    is_lost: Arc<AtomicBool>,
    ledger: Weak<TestLedger>,
}

impl TestWaker {
    /// Lets the wake-ups of this moment on arrive, or not.
    pub(super) fn lose(&self, is_lost: bool) {
        self.is_lost.store(is_lost, Ordering::SeqCst);
    }

    pub(super) fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }

    /// Counts how often it is called while something is done.
    pub(super) fn wakes_by(&self, act: impl FnOnce()) -> usize {
        let before = self.wakes();
        act();
        self.wakes() - before
    }
}

impl crate::Wake for TestWaker {
    fn wake(&self) -> bool {
        assert_unlocked(&self.ledger, "a waiter was woken");
        self.wakes.fetch_add(1, Ordering::SeqCst);
        !self.is_lost.load(Ordering::SeqCst)
    }
}

impl Drop for TestWaker {
    fn drop(&mut self) {
        assert_unlocked(&self.ledger, "a waker was dropped");
    }
}

fn assert_unlocked(ledger: &Weak<TestLedger>, what: &str) {
    if let Some(ledger) = ledger.upgrade()
        && !std::thread::panicking()
    {
        assert!(ledger.is_unlocked(), "{what} while the mutex was held");
    }
}

/// A pool and the things in it.
pub(super) struct World {
    pub(super) ledger: Arc<TestLedger>,
    /// The names of the things that were dropped, in order.
    pub(super) dropped: Arc<Mutex<Vec<u32>>>,
    /// How many things were made.
    pub(super) made: AtomicUsize,
    places: AtomicU64,
    clock: AtomicU64,
}

impl World {
    pub(super) fn new(minconn: usize, maxconn: usize) -> Self {
        let ledger = Arc::new(TestLedger::new(1));
        ledger.set_minconn(minconn);
        drop(ledger.set_maxconn(maxconn));
        Self {
            ledger,
            dropped: Arc::default(),
            made: AtomicUsize::new(0),
            places: AtomicU64::new(1 << 32),
            clock: AtomicU64::new(1_000_000),
        }
    }

    pub(super) fn with(minconn: usize, maxconn: usize, policy: Policy) -> Self {
        let world = Self::new(minconn, maxconn);
        world.ledger.set_policy(policy);
        world
    }

    /// Has lent connections with these names.
    pub(super) fn lending<const N: usize>(self, names: [u32; N]) -> Self {
        self.open(names);
        self
    }

    /// Has idle connections with these names, which came back in this order.
    pub(super) fn resting<const N: usize>(self, names: [u32; N]) -> Self {
        self.open(names);
        assert!(names.into_iter().all(|name| self.give_back(name)), "each is kept");
        self
    }

    /// Sets a housekeeper, and gives its waker.
    pub(super) fn housekeeper(&self) -> TestWaker {
        let waker = self.waker();
        self.ledger.set_housekeeper(waker.clone());
        waker
    }

    /// Tells the time.
    pub(super) fn now(&self) -> Moment {
        Moment::from_nanos(self.clock.load(Ordering::SeqCst))
    }

    /// Lets this many seconds pass.
    pub(super) fn pass(&self, seconds: f64) {
        self.clock.fetch_add(Span::from_secs_f64(seconds).as_nanos(), Ordering::SeqCst);
    }

    /// Reports a loan that was forgotten, and frees its slot.
    pub(super) fn reclaim(&self, slot: SlotId) -> Option<LoanReport<Thing>> {
        let report = self.ledger.loan_report(slot, self.now());
        self.ledger.reclaim(slot, None, self.now());
        report
    }

    /// Lets this many nanoseconds pass.
    pub(super) fn pass_nanos(&self, nanos: u64) {
        self.clock.fetch_add(nanos, Ordering::SeqCst);
    }

    pub(super) fn thing(&self, name: u32) -> Arc<Thing> {
        self.made.fetch_add(1, Ordering::SeqCst);
        Arc::new(Thing { name, ledger: Arc::downgrade(&self.ledger), dropped: Arc::clone(&self.dropped) })
    }

    /// Gives a clean connection back by the fast path; says whether that was taken.
    pub(super) fn take_back_clean(&self, name: u32) -> bool {
        self.ledger.take_back_clean(name as usize, self.now())
    }

    pub(super) fn waker(&self) -> TestWaker {
        TestWaker { wakes: Arc::default(), is_lost: Arc::default(), ledger: Arc::downgrade(&self.ledger) }
    }

    pub(super) fn any(&self) -> Want<Thing> {
        Want::Any(self.ledger.next_number(), 0)
    }

    /// Asks for a key by value, through a new object each time.
    pub(super) fn ask(&self, key: u32, caller: u64) -> Want<Thing> {
        Want::Key(Ask::new(self.key(key), caller))
    }

    /// Makes a new object of a key. Keys of the same parity have the same hash.
    pub(super) fn key(&self, key: u32) -> UserKey<Thing> {
        let address = usize::try_from(self.places.fetch_add(1, Ordering::SeqCst)).expect("64 bits");
        UserKey { hash: isize::try_from(key % 2).expect("small"), address, handle: self.thing(key) }
    }

    /// Borrows, and expects a connection.
    pub(super) fn borrow(&self) -> u32 {
        if let Some((_, connection)) = self.ledger.lend_idle(0, self.now()) {
            return connection.name;
        }
        match self.check_out(&self.any()) {
            Ok(CheckOut::Lent(connection)) => connection.name,
            other => panic!("no connection was lent: {}", show(&other)),
        }
    }

    pub(super) fn check_out(&self, want: &Want<Thing>) -> Result<CheckOut<'_, Thing, TestWaker>, Unanswered<Thing>> {
        self.ledger.check_out(want, None, None, self.now())
    }

    /// Borrows, and expects room to open a connection.
    pub(super) fn reserve(&self) -> Reservation<'_, Thing, TestWaker> {
        must_reserve(self.check_out(&self.any()))
    }

    /// Fulfils a reservation with a connection of this name.
    pub(super) fn fulfil(&self, reservation: &Reservation<'_, Thing, TestWaker>, name: u32) -> Result<(), Refusal> {
        self.ledger.fulfil(reservation.slot(), name as usize, &self.thing(name), self.now())
    }

    /// Fulfils a reservation with a connection of this name, and is done with it.
    #[expect(clippy::needless_pass_by_value, reason = "the reservation is dropped here")]
    pub(super) fn fill(&self, reservation: Reservation<'_, Thing, TestWaker>, name: u32) {
        self.fulfil(&reservation, name).expect("the pool is open");
    }

    /// Opens connections with these names, and lends them.
    pub(super) fn open(&self, names: impl IntoIterator<Item = u32>) {
        names.into_iter().for_each(|name| self.fill(self.reserve(), name));
    }

    /// Joins the queue, and expects the pool to be full.
    pub(super) fn join(&self) -> Queued<'_> {
        self.queue(self.any(), &[Busy::Full, Busy::InTransit])
    }

    /// Joins the queue to borrow under a key, and expects the pool to be full.
    pub(super) fn join_for(&self, key: u32, caller: u64) -> Queued<'_> {
        self.queue(self.ask(key, caller), &[Busy::Full])
    }

    /// Asks for a key that another caller is about to get, and expects to wait for it.
    pub(super) fn follow(&self, key: u32, caller: u64) -> Queued<'_> {
        self.queue(self.ask(key, caller), &[Busy::KeyOpening])
    }

    /// Waits, and expects to be told this.
    pub(super) fn queue(&self, want: Want<Thing>, expected: &[Busy]) -> Queued<'_> {
        self.queue_as(Rank::Normal, want, expected)
    }

    /// As `queue`, for a caller of this rank.
    pub(super) fn queue_as(&self, rank: Rank, mut want: Want<Thing>, expected: &[Busy]) -> Queued<'_> {
        let waker = self.waker();
        let ask = |want: &_| self.ledger.check_out_as(rank, want, None, Some(waker.clone()), self.now());
        match resolve_key(&mut want, ask) {
            Ok(CheckOut::Busy(busy, Some(place))) if expected.contains(&busy) => {
                Queued { world: self, rank, want, place, waker }
            }
            other => panic!("it did not wait as expected: {}", show(&other)),
        }
    }

    /// Says whether a caller that does not wait is told that the pool is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.check_out(&self.any()), Ok(CheckOut::Busy(Busy::Full, None)))
    }

    /// Takes the connection that has been idle for longest out of the pool to check it.
    pub(super) fn check_idle(&self) -> Checking<'_, Thing, TestWaker> {
        self.ledger.begin_idle_check(self.ledger.idle_slots()[0], 7, self.now()).expect("it is idle")
    }

    /// Borrows, and expects a connection that must be checked first.
    pub(super) fn must_check(&self) -> Checking<'_, Thing, TestWaker> {
        assert!(self.ledger.lend_idle(0, self.now()).is_none(), "the fast path lends nothing must_check");
        must_check(self.check_out(&self.any()))
    }

    /// Names the loan of a connection.
    pub(super) fn loan(&self, name: u32) -> SlotId {
        self.ledger.loan_at(name as usize).expect("it is lent").0
    }

    /// Begins to return a connection by its name.
    pub(super) fn begin_return(&self, name: u32) -> Result<Returning<'_, Thing, TestWaker>, Refusal> {
        self.ledger.begin_return(Some(name as usize), None, false, self.now()).map_err(refusal)
    }

    /// Returns a clean connection; says whether it was kept.
    pub(super) fn give_back(&self, name: u32) -> bool {
        if self.take_back_clean(name) {
            return true;
        }
        let mut returning = self.begin_return(name).expect("it is lent");
        returning.closing().is_none() && returning.keep(self.now())
    }

    /// Leaves the return of these connections to the housekeeping.
    pub(super) fn defer_returns(&self, names: impl IntoIterator<Item = u32>) {
        for name in names {
            assert!(self.begin_return(name).expect("it is lent").defer(self.now()).is_none());
        }
    }

    /// Does the chores, and expects that there are none. Tells in how many seconds there may be one.
    pub(super) fn rest(&self) -> f64 {
        match self.ledger.chore(7, true, self.now()) {
            Chore::Rest(Moment::NEVER) => f64::INFINITY,
            Chore::Rest(until) => until.since(self.now()).as_secs_f64(),
            other => panic!("there is something to do: {}", show_chore(&other)),
        }
    }

    /// Does the chores, and expects a connection that is to be returned or closed.
    pub(super) fn take_return(&self) -> Returning<'_, Thing, TestWaker> {
        match self.ledger.chore(7, true, self.now()) {
            Chore::Return(returning) => returning,
            other => panic!("nothing is to be returned: {}", show_chore(&other)),
        }
    }

    /// Lets as much time pass as there is nothing to do. Tells how much that was, and what connection is to be returned
    /// or closed then.
    pub(super) fn sleep(&self) -> (f64, Returning<'_, Thing, TestWaker>) {
        let began = self.now();
        for _ in 0..10 {
            match self.ledger.chore(7, true, self.now()) {
                Chore::Return(returning) => return (self.now().since(began).as_secs_f64(), returning),
                Chore::Rest(until) if until < Moment::NEVER => self.pass(until.since(self.now()).as_secs_f64()),
                other => panic!("nothing is to be returned: {}", show_chore(&other)),
            }
        }
        panic!("nothing came of ten rests");
    }

    /// Notes that a connection that is missing could not be opened.
    pub(super) fn fail(&self, refill: Refill<'_, Thing, TestWaker>) {
        refill.fail(self.now());
    }

    /// Does the chores, and expects a connection that is to be opened.
    pub(super) fn take_refill(&self) -> Refill<'_, Thing, TestWaker> {
        match self.ledger.chore(7, true, self.now()) {
            Chore::Open(refill) => refill,
            other => panic!("nothing is to be opened: {}", show_chore(&other)),
        }
    }

    /// Does the chores, and expects a loan that is to be reported.
    pub(super) fn take_report(&self) -> LoanReport<Thing> {
        match self.ledger.chore(7, true, self.now()) {
            Chore::Report(report) => report,
            other => panic!("nothing is to be reported: {}", show_chore(&other)),
        }
    }

    /// Opens a connection that lies idle, as the housekeeping does.
    pub(super) fn open_idle(&self, name: u32) {
        let Ok(Reserve::New(reservation)) = self.ledger.reserve(None, 0) else { panic!("there is no room") };
        self.fill(reservation, name);
    }

    /// Inserts a loan that a subclass has made under a key.
    pub(super) fn insert_by_key(&self, key: u32, name: u32) {
        let insert = |want: &_| self.ledger.insert_loan(want, name as usize, &self.thing(name), self.now());
        resolve_key(&mut self.ask(key, 9), insert).expect("the pool is open");
    }

    /// Counts the connections that were closed for this reason.
    pub(super) fn closed(&self, reason: CloseReason) -> u64 {
        self.ledger.stats(self.now()).0.closed[reason as usize]
    }

    pub(super) fn idle(&self) -> Vec<u32> {
        self.ledger.idle().iter().map(|connection| connection.name).collect()
    }

    pub(super) fn lent(&self) -> Vec<u32> {
        self.ledger.lent().iter().map(|(_, connection)| connection.name).collect()
    }
}

/// A caller that waits.
pub(super) struct Queued<'w> {
    world: &'w World,
    rank: Rank,
    want: Want<Thing>,
    place: Waiter<'w, Thing, TestWaker>,
    waker: TestWaker,
}

impl<'w> Queued<'w> {
    /// Counts how often it was woken.
    pub(super) fn wakes(&self) -> usize {
        self.waker.wakes()
    }

    /// Asks again, and waits no longer.
    pub(super) fn ask_again(&mut self) -> Result<CheckOut<'w, Thing, TestWaker>, Refusal> {
        resolve_key(&mut self.want, |want| {
            self.world.ledger.check_out_as(self.rank, want, Some(&self.place), None, self.world.now())
        })
    }

    /// Asks again, and is willing to wait on.
    pub(super) fn wait_on(&mut self) -> Result<CheckOut<'w, Thing, TestWaker>, Refusal> {
        let waker = || Some(self.waker.clone());
        resolve_key(&mut self.want, |want| {
            self.world.ledger.check_out_as(self.rank, want, Some(&self.place), waker(), self.world.now())
        })
    }

    /// Claims what it was promised, and expects a connection.
    pub(super) fn claim(&mut self) -> u32 {
        match self.ask_again() {
            Ok(CheckOut::Lent(connection)) => connection.name,
            other => panic!("nothing was promised: {}", show(&other)),
        }
    }

    /// Gives up its place.
    pub(super) fn leave(self) -> Option<Returning<'w, Thing, TestWaker>> {
        self.place.leave()
    }
}

/// Borrows under a key, comparing where that is asked for.
pub(super) fn by_key(world: &World, key: u32, caller: u64) -> Result<CheckOut<'_, Thing, TestWaker>, Refusal> {
    resolve_key(&mut world.ask(key, caller), |want| world.check_out(want))
}

/// Expects a refusal.
#[expect(clippy::needless_pass_by_value, reason = "it takes what an error is")]
pub(super) fn refusal(unanswered: Unanswered<Thing>) -> Refusal {
    match unanswered {
        Unanswered::Refused(refusal) => refusal,
        Unanswered::Compare(_) => panic!("there is something to compare"),
    }
}

/// Asks until there is an answer or a refusal, as the binding does with Python's `==`.
pub(super) fn resolve_key<T>(
    want: &mut Want<Thing>,
    mut ask: impl FnMut(&Want<Thing>) -> Result<T, Unanswered<Thing>>,
) -> Result<T, Refusal> {
    loop {
        match ask(want) {
            Ok(answer) => return Ok(answer),
            Err(Unanswered::Refused(refusal)) => return Err(refusal),
            Err(Unanswered::Compare(candidates)) => compare(want, &candidates),
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

pub(super) fn show<E: std::fmt::Debug>(answer: &Result<CheckOut<'_, Thing, TestWaker>, E>) -> String {
    match answer {
        Ok(CheckOut::Lent(connection)) => format!("lent {}", connection.name),
        Ok(CheckOut::Check(checking)) => format!("{:?} {}", checking.kind(), checking.connection().name),
        Ok(CheckOut::Reserved(_)) => "reserved".to_owned(),
        Ok(CheckOut::FinishReturn(returning)) => format!("return {} first", returning.connection().name),
        Ok(CheckOut::AskAgain) => "ask again".to_owned(),
        Ok(CheckOut::Seek(_)) => "seek a grant".to_owned(),
        Ok(CheckOut::ConnectFailed(error)) => format!("connect failed: {}", error.name),
        Ok(CheckOut::Busy(busy, waiter)) => format!("{busy:?}, waiting: {}", waiter.is_some()),
        Err(unanswered) => format!("{unanswered:?}"),
    }
}

fn show_chore(chore: &Chore<'_, Thing, TestWaker>) -> String {
    match chore {
        Chore::Return(returning) => format!("return {}, {:?}", returning.connection().name, returning.closing()),
        Chore::Report(loan) => format!("report a loan that has lasted for {} s", loan.age.as_secs_f64()),
        Chore::Open(_) => "open one".to_owned(),
        Chore::Rest(until) => format!("rest until {until:?}"),
    }
}

/// Expects room to open a connection.
pub(super) fn must_reserve<E: std::fmt::Debug>(
    answer: Result<CheckOut<'_, Thing, TestWaker>, E>,
) -> Reservation<'_, Thing, TestWaker> {
    match answer {
        Ok(CheckOut::Reserved(reservation)) => reservation,
        other => panic!("no room was reserved: {}", show(&other)),
    }
}

/// Expects a connection that must be checked first.
pub(super) fn must_check<E: std::fmt::Debug>(
    answer: Result<CheckOut<'_, Thing, TestWaker>, E>,
) -> Checking<'_, Thing, TestWaker> {
    match answer {
        Ok(CheckOut::Check(checking)) => checking,
        other => panic!("there is no check: {}", show(&other)),
    }
}

/// A span of this many seconds.
pub(super) fn seconds(seconds: f64) -> Span {
    Span::from_secs_f64(seconds)
}

/// Why a connect failed.
pub(super) fn connect_error(text: &str) -> ConnectError {
    ConnectError { text: text.to_owned(), at: Moment::START }
}

/// Counts what is idle, lent, being opened, being returned, and waited for.
pub(super) fn counts(world: &World) -> (usize, usize, usize, usize, usize) {
    let Counts { idle, lent, opening, returning, waiting, .. } = world.ledger.counts();
    (idle, lent, opening, returning, waiting)
}
