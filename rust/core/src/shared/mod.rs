//! The ledger behind its mutex, shared between threads. Each file forwards to the file of the same name in `ledger`;
//! `guards` forwards what ends work that such a call has begun, and this file the fast path.

mod borrow;
mod chores;
mod closing;
mod give_back;
mod granted;
mod growth;
mod guards;
mod health;
mod inherited;
mod limits;
mod loans;
mod mutex;
mod open;
mod outage;
mod requests;
mod views;

use std::sync::{Arc, OnceLock};

use self::mutex::Mutex;
use crate::caller::Caller;
use crate::key::UserKey;
use crate::ledger::{After, Ledger};
use crate::queue::{Rank, Wake};
use crate::slot::SlotId;
use crate::time::{Moment, Span};

pub use self::borrow::CheckOut;
pub use self::chores::Chore;
pub use self::closing::Closer;
pub use self::granted::{Grantor, Seek};
pub use self::guards::{Checking, Grown, Growth, Refill, Reservation, Returning, Waiter};
pub use self::open::Reserve;

/// A pool's ledger, shared between threads.
///
/// `H` is a handle: a connection or a key. `W` wakes a waiter. The ledger only keeps and moves them; it never looks
/// into one.
pub struct SharedLedger<H, W: Wake> {
    /// Guards the ledger and nothing else. While it is held, the ledger edits plain data: it drops no handle, calls no
    /// waker, and runs no code of the caller's. [`SharedLedger::edit`] and the fast paths are all that lock it.
    /// [`SharedLedger::try_visit`] looks in for the garbage collector.
    ledger: Mutex<Ledger<H, W>>,
    /// Woken each time there is a chore.
    housekeeper: OnceLock<W>,
    /// Woken each time a worker is needed.
    workers: OnceLock<W>,
    /// Grants room, if the pool shares a limit with others.
    grantor: OnceLock<Box<dyn Grantor>>,
}

impl<H, W: Wake> SharedLedger<H, W> {
    /// Makes a ledger that has room for nothing yet. The seed is for its random numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let ledger = Mutex::new(Ledger::new(seed));
        Self { ledger, housekeeper: OnceLock::new(), workers: OnceLock::new(), grantor: OnceLock::new() }
    }

    /// Tells the ledger the time, and edits it.
    pub(crate) fn edit_at<R>(&self, now: Moment, edit: impl FnOnce(&mut Ledger<H, W>) -> R) -> R {
        self.edit(|ledger| {
            // Two callers may have read the clock in one order and come here in the other.
            ledger.now = ledger.now.max(now);
            edit(ledger)
        })
    }

    /// Edits the ledger under the mutex; then, without it, wakes the waiters whose turn has come and drops what was displaced.
    pub(crate) fn edit<R>(&self, edit: impl FnOnce(&mut Ledger<H, W>) -> R) -> R {
        let mut ledger = self.ledger.lock();
        let result = edit(&mut ledger);
        let dues = ledger.end_edit();
        if dues.is_some() || !ledger.after.is_empty() {
            let after = std::mem::take(&mut ledger.after);
            drop(ledger);
            self.act(after);
            if let Some(dues) = dues {
                self.tell_grantor(dues);
            }
        }
        result
    }

    /// Does, after the unlock, what an edit has left to do.
    fn act(&self, After { to_wake, handles, unused_wakers, chores, workers }: After<H, W>) {
        for waker in &to_wake {
            waker.wake();
        }
        if chores && self.housekeeper.get().is_some_and(|housekeeper| !housekeeper.wake()) {
            self.housekeeper_missed();
        }
        if workers > 0 {
            self.call_workers(workers);
        }
        drop((to_wake, handles, unused_wakers));
    }

    /// Says whether no thread holds the mutex at this moment.
    #[cfg(test)]
    pub(crate) fn is_unlocked(&self) -> bool {
        self.ledger.try_lock().is_some()
    }

    /// Lends the next idle connection, under an automatic number, and names the loan.
    ///
    /// `None` decides nothing: go on with [`SharedLedger::next_number`] and [`SharedLedger::check_out`].
    #[expect(clippy::inline_always, reason = "the fast path is some instructions longer without")]
    #[inline(always)]
    pub fn lend_idle(&self, borrower: Caller, now: Moment) -> Option<(SlotId, Arc<H>)> {
        self.ledger.lock().lend_idle(borrower, now).map(|(loan, connection)| (loan, Arc::clone(connection)))
    }

    /// As [`SharedLedger::lend_idle`], for a caller of this rank, under a user's key perhaps, and with options that must see each loan.
    pub fn lend_idle_as(
        &self,
        rank: Rank,
        key: Option<UserKey<H>>,
        borrower: Caller,
        now: Moment,
    ) -> Option<(SlotId, Arc<H>)> {
        self.edit_at(now, |ledger| ledger.lend_idle_as(rank, key, borrower))
    }

    /// Takes back a lent connection that is open and in no transaction, by its address.
    ///
    /// `false` decides nothing: the connection is still lent; go on with [`SharedLedger::begin_return`].
    #[expect(clippy::inline_always, reason = "the fast path is some instructions longer without")]
    #[inline(always)]
    #[must_use = "where it is false, the connection is still lent"]
    pub fn take_back_clean(&self, address: usize, now: Moment) -> bool {
        self.ledger.lock().take_back_clean(address, now)
    }

    /// As [`SharedLedger::take_back_clean`], for one loan.
    #[inline]
    #[must_use = "where it is false, the connection is still lent"]
    pub fn take_back_clean_loan(&self, loan: SlotId, now: Moment) -> bool {
        self.ledger.lock().take_back_clean_loan(loan, now)
    }

    /// As [`SharedLedger::take_back_clean_loan`], under any key. `connection` is the handle to keep from now on, if it is
    /// another. It says how long the connection was lent.
    #[must_use = "where there is none, the connection is still lent"]
    pub fn take_back_any_clean(&self, loan: SlotId, connection: Option<Arc<H>>, now: Moment) -> Option<Span> {
        let (lent_for, displaced) = self.edit_at(now, |ledger| ledger.take_back_any_clean(loan, connection));
        drop(displaced);
        lent_for
    }

    /// Visits every handle for a garbage collector, unless another thread edits the ledger at this moment.
    ///
    /// This call alone runs the caller's code under the mutex: `visit` may do nothing but note the handle.
    pub fn try_visit(&self, visit: impl FnMut(&H)) {
        if let Some(ledger) = self.ledger.try_lock() {
            ledger.for_each_handle(visit);
        }
    }
}
