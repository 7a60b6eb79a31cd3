//! The mutex round the ledger.

use std::sync::Arc;

use crate::error::Refusal;
use crate::guards::{Reservation, Returning, Waiter};
use crate::key::{LoanKey, No, Want};
use crate::ledger::{self, After, Busy, Ledger};
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
    /// called, no code of the caller's runs. [`Pool::edit`] and the two fast paths are all that lock it; for the garbage
    /// collector alone, [`Pool::try_visit`] looks in.
    ledger: Mutex<Ledger<H, W>>,
}

/// The answer to a borrower.
#[must_use]
pub enum CheckOut<'p, H, W: Wake> {
    /// Here it is.
    Lent(Arc<H>),
    /// There is room: open a connection and fulfil this.
    Reserved(Reservation<'p, H, W>),
    /// Nothing yet. A waiter that comes with it takes the place of the one that was brought, if any.
    Busy(Busy, Option<Waiter<'p, H, W>>),
}

/// The answer to somebody who asks for a slot to open a connection in.
#[must_use]
pub enum Reserve<'p, H, W: Wake> {
    /// Somebody further up holds the reservation, and will deal with a failure.
    Pending(SlotId),
    /// A reservation of your own.
    New(Reservation<'p, H, W>),
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
    pub fn lend_idle(&self) -> Option<Arc<H>> {
        self.ledger.lock().lend_idle()
    }

    /// Takes back a lent connection that is open and in no transaction, by its address.
    ///
    /// `false` decides nothing: the connection is still lent; go on with [`Pool::begin_return`].
    #[inline]
    #[must_use = "where it is false, the connection is still lent"]
    pub fn keep_clean(&self, address: usize) -> bool {
        self.ledger.lock().keep_clean(address)
    }

    // --- borrowing and opening -------------------------------------------------------------------------------

    /// Gives out the next automatic number.
    pub fn next_number(&self) -> u64 {
        self.edit(Ledger::next_number)
    }

    /// Answers a borrower, who offers a waker if it is willing to wait, and brings its waiter if it has waited.
    ///
    /// Told that the pool is busy, a willing borrower waits until its waker is called, and asks again. A waiter that is
    /// brought stays valid until it is dropped or [`Waiter::leave`]s, whatever the answer is.
    ///
    /// # Errors
    /// [`No::Compare`], [`Refusal::Closed`] and [`Refusal::Reentrant`].
    pub fn check_out(
        &self,
        want: &Want<H>,
        waiter: Option<&Waiter<'_, H, W>>,
        waker: Option<W>,
    ) -> Result<CheckOut<'_, H, W>, No<H>> {
        let known = waiter.map(|waiter| waiter.id);
        Ok(match self.edit(|ledger| ledger.check_out(want, known, waker))? {
            ledger::CheckOut::Lent(connection) => CheckOut::Lent(connection),
            ledger::CheckOut::Reserved(slot) => CheckOut::Reserved(Reservation { pool: self, slot }),
            ledger::CheckOut::Busy(busy, id) => {
                let joined = id.filter(|&id| known != Some(id));
                CheckOut::Busy(busy, joined.map(|id| Waiter { pool: self, id }))
            }
        })
    }

    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle.
    ///
    /// # Errors
    /// [`No::Compare`], [`Refusal::Closed`] and [`Refusal::Exhausted`].
    pub fn reserve(&self, want: Option<&Want<H>>) -> Result<Reserve<'_, H, W>, No<H>> {
        Ok(match self.edit(|ledger| ledger.reserve(want))? {
            ledger::Reserve::Pending(slot) => Reserve::Pending(slot),
            ledger::Reserve::New(slot) => Reserve::New(Reservation { pool: self, slot }),
        })
    }

    /// Puts an opened connection into the slot that is reserved for it.
    ///
    /// # Errors
    /// [`Refusal::Closed`]: the pool was closed meanwhile. [`Refusal::Exhausted`]: there is no room any more, since
    /// somebody else has filled the slot, or maxconn was lowered. The connection is yours to close.
    pub fn fulfil(&self, slot: SlotId, address: usize, connection: &Arc<H>) -> Result<(), Refusal> {
        self.edit(|ledger| ledger.fulfil(slot, address, connection))
    }

    // --- returning -------------------------------------------------------------------------------------------

    /// Takes a lent connection out of its borrower's hands. It is named by its address, by what it is filed under, or
    /// by both, which must then agree; `close` says that it is not to be kept.
    ///
    /// # Errors
    /// [`No::Compare`], [`Refusal::Closed`], [`Refusal::Unkeyed`] and [`Refusal::WrongKey`].
    pub fn begin_return(
        &self,
        address: Option<usize>,
        filed: Option<&Want<H>>,
        close: bool,
    ) -> Result<Returning<'_, H, W>, No<H>> {
        let ledger::Return { slot, connection, wanted } =
            self.edit(|ledger| ledger.begin_return(address, filed, close))?;
        Ok(Returning { pool: self, slot, connection, wanted })
    }

    pub(crate) fn discarding(&self, (slot, connection): (SlotId, Arc<H>)) -> Returning<'_, H, W> {
        Returning { pool: self, slot, connection, wanted: false }
    }

    // --- limits and the end ----------------------------------------------------------------------------------

    /// Sets how many idle connections are kept, from the next return on.
    pub fn set_minconn(&self, minconn: usize) {
        self.edit(|ledger| ledger.set_minconn(minconn));
    }

    /// Sets the limit. Idle connections above it are given to be closed; each frees its slot when it is dropped.
    pub fn set_maxconn(&self, maxconn: usize) -> Vec<Returning<'_, H, W>> {
        let discarded = self.edit(|ledger| ledger.set_maxconn(maxconn));
        discarded.into_iter().map(|discarded| self.discarding(discarded)).collect()
    }

    /// Closes the pool, wakes all who wait, and gives every connection, to be closed: idle ones first, then lent ones,
    /// each as listed. They stay in the books.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn close(&self) -> Result<Vec<Arc<H>>, Refusal> {
        let (idle, lent) = self.edit(|ledger| ledger.close().map(|()| (ledger.idle(), ledger.lent())))?;
        Ok(idle.into_iter().chain(in_order(lent).into_iter().map(|(_, connection)| connection)).collect())
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
        in_order(self.edit(|ledger| ledger.lent()))
    }

    /// Replaces the list of idle connections, if its addresses still are `seen`; `false` if they are not.
    #[must_use]
    pub fn replace_idle(&self, seen: &[usize], wanted: Vec<(usize, Arc<H>)>) -> bool {
        self.edit(|ledger| ledger.replace_idle(seen, wanted))
    }

    /// Enters a loan that was made elsewhere, in an open pool or a closed one. It takes the place of one under the same
    /// key, or fulfils the reservation that was made for it.
    ///
    /// # Errors
    /// [`No::Compare`].
    pub fn enter_loan(&self, want: &Want<H>, address: usize, connection: &Arc<H>) -> Result<(), No<H>> {
        self.edit(|ledger| ledger.enter_loan(want, address, connection))
    }

    /// Finds the connection that is lent under a key.
    ///
    /// # Errors
    /// [`No::Compare`].
    pub fn loan(&self, want: &Want<H>) -> Result<Option<Arc<H>>, No<H>> {
        self.edit(|ledger| ledger.loan(want))
    }

    /// Finds the key under which the connection at `address` is lent.
    pub fn key_of(&self, address: usize) -> Option<LoanKey<H>> {
        self.edit(|ledger| ledger.key_of(address))
    }

    /// Strikes a loan out of the books, and gives its connection; `None` if there is no such loan.
    ///
    /// # Errors
    /// [`No::Compare`].
    pub fn strike_loan(&self, want: &Want<H>) -> Result<Option<Arc<H>>, No<H>> {
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

/// Puts loans, which the ledger lists as they lie, into the order in which they were made.
fn in_order<H>(mut loans: Vec<(u64, LoanKey<H>, Arc<H>)>) -> Vec<(LoanKey<H>, Arc<H>)> {
    loans.sort_unstable_by_key(|&(generation, ..)| generation);
    loans.into_iter().map(|(_, key, connection)| (key, connection)).collect()
}
