//! The mutex round the ledger.

use std::sync::Arc;

use crate::error::Refusal;
use crate::guards::{Reservation, Returning, Waiter};
use crate::key::{Candidates, LoanKey, Want};
use crate::ledger::{self, After, Busy, Ledger, Place, Returned};
use crate::slot::SlotId;
use crate::stats::{ConnectError, Counts};
use crate::sync::Mutex;
use crate::wait::Wake;

/// A pool's ledger, shared between threads.
///
/// `H` is a handle: a connection or a key. `W` wakes a waiter. The pool only keeps and moves them; it never looks
/// into one.
pub struct Pool<H, W: Wake> {
    /// Guards the ledger and nothing else. While it is held, plain data is edited: no handle is dropped, no waker
    /// called, no code of the caller's runs. [`Pool::edit`] and the two fast paths are all that lock it.
    ledger: Mutex<Ledger<H, W>>,
}

/// The answer to a borrower.
#[must_use]
pub enum CheckOut<'p, H, W: Wake> {
    /// Here it is.
    Lent(Arc<H>),
    /// There is room: open a connection and fulfil this.
    Reserved(Reservation<'p, H, W>),
    /// Compare these with the key, note the outcome in the [`crate::Ask`], and call again.
    Compare(Candidates<H>),
    /// Nothing yet. With a waiter: wait until its waker is called, then call again with it. Without one: no waker
    /// was offered.
    Busy(Busy, Option<Waiter<'p, H, W>>),
}

/// The answer to somebody who returns a connection.
#[must_use]
pub enum Return<'p, H, W: Wake> {
    /// Look at it, clean it or close it, and say what came of it.
    Begun(Returning<'p, H, W>),
    /// Compare these with the key, note the outcome in the [`crate::Ask`], and call again.
    Compare(Candidates<H>),
}

/// The answer to somebody who asks for a slot to open a connection in.
#[must_use]
pub enum Reserve<'p, H, W: Wake> {
    /// Somebody further up holds the reservation, and will deal with a failure.
    Pending(SlotId),
    /// A reservation of your own.
    New(Reservation<'p, H, W>),
    /// Compare these with the key, note the outcome in the [`crate::Ask`], and call again.
    Compare(Candidates<H>),
}

impl<H, W: Wake> Default for Pool<H, W> {
    fn default() -> Self {
        Self { ledger: Mutex::new(Ledger::new()) }
    }
}

impl<H, W: Wake> Pool<H, W> {
    /// Edits the ledger under the lock; then, without it, wakes who is to be woken and drops what was displaced.
    pub(crate) fn edit<R>(&self, edit: impl FnOnce(&mut Ledger<H, W>) -> R) -> R {
        let mut ledger = self.ledger.lock();
        let result = edit(&mut ledger);
        let After { wakes, handles, wakers } = std::mem::take(&mut ledger.after);
        drop(ledger);
        for waker in &wakes {
            waker.wake();
        }
        drop((wakes, handles, wakers));
        result
    }

    /// Says whether nobody holds the mutex at this moment.
    #[cfg(test)]
    pub(crate) fn is_unlocked(&self) -> bool {
        self.ledger.try_lock().is_some()
    }

    // --- the fast path ---------------------------------------------------------------------------------------

    /// Lends the connection that came back last, under an automatic number.
    ///
    /// `None` decides nothing: go on with [`Pool::next_number`] and [`Pool::check_out`].
    #[inline]
    pub fn lend(&self) -> Option<Arc<H>> {
        self.ledger.lock().lend()
    }

    /// Takes back a lent connection that is open and in no transaction, by its address.
    ///
    /// `false` decides nothing: the connection is still lent; go on with [`Pool::begin_return`].
    #[inline]
    #[must_use = "where it is false, the connection is still lent"]
    pub fn keep(&self, address: usize) -> bool {
        self.ledger.lock().keep(address)
    }

    // --- borrowing and opening -------------------------------------------------------------------------------

    /// Gives out the next automatic number.
    pub fn next_number(&self) -> u64 {
        self.edit(Ledger::next_number)
    }

    /// Answers a borrower. One that is willing to wait offers a waker; one that has waited brings its waiter.
    ///
    /// A waiter that is brought stays valid until it is dropped or [`Waiter::leave`]s, whatever the answer is.
    ///
    /// # Errors
    /// [`Refusal::Closed`] and [`Refusal::Reentrant`].
    pub fn check_out(
        &self,
        want: &Want<'_, H>,
        waiter: Option<&Waiter<'_, H, W>>,
        waker: Option<W>,
    ) -> Result<CheckOut<'_, H, W>, Refusal> {
        let place = Place { waiter: waiter.map(|waiter| waiter.id), waker };
        let known = place.waiter;
        Ok(match self.edit(|ledger| ledger.check_out(want, place)) {
            ledger::CheckOut::Lent(connection) => CheckOut::Lent(connection),
            ledger::CheckOut::Reserved(slot) => CheckOut::Reserved(Reservation { pool: self, slot }),
            ledger::CheckOut::Compare(candidates) => CheckOut::Compare(candidates),
            ledger::CheckOut::Busy(busy, id) => {
                let joined = id.filter(|&id| known != Some(id));
                CheckOut::Busy(busy, joined.map(|id| Waiter { pool: self, id }))
            }
            ledger::CheckOut::Refused(refusal) => return Err(refusal),
        })
    }

    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle.
    ///
    /// # Errors
    /// [`Refusal::Closed`] and [`Refusal::Exhausted`].
    pub fn reserve(&self, want: Option<&Want<'_, H>>) -> Result<Reserve<'_, H, W>, Refusal> {
        Ok(match self.edit(|ledger| ledger.reserve(want)) {
            ledger::Reserve::Pending(slot) => Reserve::Pending(slot),
            ledger::Reserve::New(slot) => Reserve::New(Reservation { pool: self, slot }),
            ledger::Reserve::Compare(candidates) => Reserve::Compare(candidates),
            ledger::Reserve::Refused(refusal) => return Err(refusal),
        })
    }

    /// Puts an opened connection into the slot that is reserved for it.
    ///
    /// # Errors
    /// [`Refusal::Closed`]: the pool was closed, or made anew, meanwhile. The connection is yours to close.
    pub fn fulfil(&self, slot: SlotId, address: usize, connection: &Arc<H>) -> Result<(), Refusal> {
        self.edit(|ledger| ledger.fulfil(slot, address, connection))
    }

    // --- returning -------------------------------------------------------------------------------------------

    /// Takes a lent connection out of its borrower's hands; `close` says that it is not to be kept.
    ///
    /// # Errors
    /// [`Refusal::Closed`], [`Refusal::Unkeyed`] and [`Refusal::WrongKey`].
    pub fn begin_return(&self, returned: &Returned<'_, H>, close: bool) -> Result<Return<'_, H, W>, Refusal> {
        Ok(match self.edit(|ledger| ledger.begin_return(returned, close)) {
            ledger::Return::Begun { slot, connection, keep } => {
                Return::Begun(Returning { pool: self, slot, connection, keep })
            }
            ledger::Return::Compare(candidates) => Return::Compare(candidates),
            ledger::Return::Refused(refusal) => return Err(refusal),
        })
    }

    pub(crate) fn returning(&self, (slot, connection): (SlotId, Arc<H>)) -> Returning<'_, H, W> {
        Returning { pool: self, slot, connection, keep: false }
    }

    // --- limits and the end ----------------------------------------------------------------------------------

    /// Sets how many idle connections are kept, from the next return on.
    pub fn set_minconn(&self, minconn: usize) {
        self.edit(|ledger| ledger.set_minconn(minconn));
    }

    /// Sets the limit. Idle connections above it are given to be closed; each frees its slot when it is dropped.
    pub fn set_maxconn(&self, maxconn: usize) -> Vec<Returning<'_, H, W>> {
        let retired = self.edit(|ledger| ledger.set_maxconn(maxconn));
        retired.into_iter().map(|retired| self.returning(retired)).collect()
    }

    /// Closes the pool, wakes all who wait, and gives every connection, idle ones first, to be closed.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn close(&self) -> Result<Vec<Arc<H>>, Refusal> {
        self.edit(Ledger::close)
    }

    /// Marks the pool as closed or open, and touches no connection.
    pub fn set_closed(&self, closed: bool) {
        self.edit(|ledger| ledger.set_closed(closed));
    }

    /// Empties the pool and opens it; its connections are dropped, not closed. Who waits, asks anew.
    pub fn reset(&self) {
        self.edit(Ledger::reset);
    }

    // --- looking in, and other people's book-keeping ---------------------------------------------------------

    /// Counts slots and waiters.
    pub fn counts(&self) -> Counts {
        self.edit(|ledger| ledger.counts())
    }

    /// Tells why the last connect that failed did so.
    pub fn connect_error(&self) -> Option<Arc<ConnectError>> {
        self.edit(|ledger| ledger.connect_error())
    }

    /// Tells the last automatic number given out.
    pub fn last_number(&self) -> u64 {
        self.edit(|ledger| ledger.last_number())
    }

    /// Sets the last automatic number given out.
    pub fn set_last_number(&self, number: u64) {
        self.edit(|ledger| ledger.set_last_number(number));
    }

    /// Lists the idle connections, the next to be lent last.
    pub fn idle(&self) -> Vec<Arc<H>> {
        self.edit(|ledger| ledger.idle())
    }

    /// Lists the loans, the oldest first.
    pub fn lent(&self) -> Vec<(LoanKey<H>, Arc<H>)> {
        self.edit(|ledger| ledger.lent())
    }

    /// Replaces the list of idle connections, if its addresses still are `seen`; `false` if they are not.
    #[must_use]
    pub fn replace_idle(&self, seen: &[usize], wanted: Vec<(usize, Arc<H>)>) -> bool {
        self.edit(|ledger| ledger.replace_idle(seen, wanted))
    }

    /// Enters a loan that was made elsewhere. It takes the place of one under the same key.
    ///
    /// # Errors
    /// Candidates to compare first.
    pub fn enter_loan(&self, want: &Want<'_, H>, address: usize, connection: Arc<H>) -> Result<(), Candidates<H>> {
        self.edit(|ledger| ledger.enter_loan(want, address, connection))
    }

    /// Strikes a loan out of the books, and gives its connection; `None` if there is no such loan.
    ///
    /// # Errors
    /// Candidates to compare first.
    pub fn strike_loan(&self, want: &Want<'_, H>) -> Result<Option<Arc<H>>, Candidates<H>> {
        self.edit(|ledger| ledger.strike_loan(want))
    }

    /// Visits every handle for a garbage collector, unless the ledger is being edited at this moment.
    ///
    /// The one call that runs the caller's code under the lock: `visit` may do nothing but note the handle.
    pub fn try_visit(&self, visit: impl FnMut(&H)) {
        if let Some(ledger) = self.ledger.try_lock() {
            ledger.for_each_handle(visit);
        }
    }
}
