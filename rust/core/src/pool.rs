//! The mutex round the ledger.

use std::sync::{Arc, OnceLock};

use crate::error::Refusal;
use crate::guards::{Checking, Refill, Reservation, Returning, Waiter};
use crate::key::{Caller, LoanKey, Unanswered, Want};
use crate::ledger::{self, After, Busy, Ledger, Policy};
use crate::slot::SlotId;
use crate::stats::{ConnectError, ConnectNews, Counts, LoanReport, Stats};
use crate::sync::Mutex;
use crate::time::{Moment, Span};
use crate::wait::{WaiterId, Wake};

/// A pool's ledger, shared between threads.
///
/// `H` is a handle: a connection or a key. `W` wakes a waiter. The pool only keeps and moves them; it never looks
/// into one.
pub struct Pool<H, W: Wake> {
    /// Guards the ledger and nothing else. While it is held, plain data is edited: no handle is dropped, no waker
    /// called, no code of the caller's runs. [`Pool::edit`] and the two fast paths are all that lock it; for the garbage
    /// collector alone, [`Pool::try_visit`] looks in.
    ledger: Mutex<Ledger<H, W>>,
    /// Woken, each time, when there is something for the housekeeping to do.
    housekeeper: OnceLock<W>,
}

/// The answer to a borrower.
#[must_use]
pub enum CheckOut<'p, H, W: Wake> {
    /// Here it is.
    Lent(Arc<H>),
    /// Check this one first, or close it: it may have died, or its time is over.
    Check(Checking<'p, H, W>),
    /// There is room: open a connection and fulfil this.
    Reserved(Reservation<'p, H, W>),
    /// Finish this return, which was left to the housekeeping; then ask again.
    FinishReturn(Returning<'p, H, W>),
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

/// What is to be done that no caller waits for.
#[must_use]
pub enum Chore<'p, H, W: Wake> {
    /// Finish this return, or close the connection if it says why.
    Return(Returning<'p, H, W>),
    /// Report this loan, which lasts too long.
    Report(LoanReport<H>),
    /// Open one more connection, to lie idle.
    Open(Refill<'p, H, W>),
    /// Nothing, until then.
    Rest(Moment),
}

impl<H, W: Wake> Pool<H, W> {
    /// Makes a pool that has room for nothing yet. The seed is for what is left to chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { ledger: Mutex::new(Ledger::new(seed)), housekeeper: OnceLock::new() }
    }

    /// Edits the ledger, having told it the time.
    pub(crate) fn edit_at<R>(&self, now: Moment, edit: impl FnOnce(&mut Ledger<H, W>) -> R) -> R {
        self.edit(|ledger| {
            // Two callers may have read the clock in one order and come here in the other.
            ledger.now = ledger.now.max(now);
            edit(ledger)
        })
    }

    /// Edits the ledger under the lock; then, without it, wakes who is to be woken and drops what was displaced.
    pub(crate) fn edit<R>(&self, edit: impl FnOnce(&mut Ledger<H, W>) -> R) -> R {
        let mut ledger = self.ledger.lock();
        let result = edit(&mut ledger);
        let After { to_wake, handles, unused_wakers, chores } = std::mem::take(&mut ledger.after);
        drop(ledger);
        for waker in to_wake.iter().chain(self.housekeeper.get().filter(|_| chores)) {
            waker.wake();
        }
        drop((to_wake, handles, unused_wakers));
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
    pub fn lend_idle(&self, borrower: Caller, now: Moment) -> Option<Arc<H>> {
        self.ledger.lock().lend_idle(borrower, now)
    }

    /// Takes back a lent connection that is open and in no transaction, by its address.
    ///
    /// `false` decides nothing: the connection is still lent; go on with [`Pool::begin_return`].
    #[inline]
    #[must_use = "where it is false, the connection is still lent"]
    pub fn take_back_clean(&self, address: usize, now: Moment) -> bool {
        self.ledger.lock().take_back_clean(address, now)
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
    /// [`Unanswered::Compare`], [`Refusal::Closed`] and [`Refusal::Reentrant`].
    pub fn check_out(
        &self,
        want: &Want<H>,
        waiter: Option<&Waiter<'_, H, W>>,
        waker: Option<W>,
        now: Moment,
    ) -> Result<CheckOut<'_, H, W>, Unanswered<H>> {
        let known = waiter.map(|waiter| waiter.id);
        Ok(self.checked_out(self.edit_at(now, |ledger| ledger.check_out(want, known, waker))?, known))
    }

    pub(crate) fn checked_out(&self, answer: ledger::CheckOut<H>, known: Option<WaiterId>) -> CheckOut<'_, H, W> {
        match answer {
            ledger::CheckOut::Lent(connection) => CheckOut::Lent(connection),
            ledger::CheckOut::Check(slot, connection, check) => {
                CheckOut::Check(Checking { pool: self, slot, connection, check })
            }
            ledger::CheckOut::Reserved(slot) => CheckOut::Reserved(Reservation { pool: self, slot }),
            ledger::CheckOut::FinishReturn(returning) => CheckOut::FinishReturn(self.returning(returning)),
            ledger::CheckOut::Busy(busy, id) => {
                let joined = id.filter(|&id| known != Some(id));
                CheckOut::Busy(busy, joined.map(|id| Waiter { pool: self, id }))
            }
        }
    }

    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle.
    ///
    /// # Errors
    /// [`Unanswered::Compare`], [`Refusal::Closed`] and [`Refusal::Exhausted`].
    pub fn reserve(&self, want: Option<&Want<H>>, caller: Caller) -> Result<Reserve<'_, H, W>, Unanswered<H>> {
        Ok(match self.edit(|ledger| ledger.reserve(want, caller))? {
            ledger::Reserve::Pending(slot) => Reserve::Pending(slot),
            ledger::Reserve::New(slot) => Reserve::New(Reservation { pool: self, slot }),
        })
    }

    /// Puts an opened connection into the slot that is reserved for it.
    ///
    /// # Errors
    /// [`Refusal::Closed`]: the pool was closed meanwhile. [`Refusal::Exhausted`]: there is no room any more, since
    /// somebody else has filled the slot, or maxconn was lowered. The connection is yours to close.
    pub fn fulfil(&self, slot: SlotId, address: usize, connection: &Arc<H>, now: Moment) -> Result<(), Refusal> {
        self.edit_at(now, |ledger| ledger.fulfil(slot, address, connection))
    }

    // --- returning -------------------------------------------------------------------------------------------

    /// Takes a lent connection out of its borrower's hands. It is named by its address, by what it is filed under, or
    /// by both, which must then agree; `close` says that it is not to be kept.
    ///
    /// # Errors
    /// [`Unanswered::Compare`], [`Refusal::Closed`], [`Refusal::Unkeyed`] and [`Refusal::WrongKey`].
    pub fn begin_return(
        &self,
        address: Option<usize>,
        filed: Option<&Want<H>>,
        close: bool,
        now: Moment,
    ) -> Result<Returning<'_, H, W>, Unanswered<H>> {
        Ok(self.returning(self.edit_at(now, |ledger| ledger.begin_return(address, filed, close))?))
    }

    /// Takes one loan out of its borrower's hands; `close` says that it is not to be kept.
    ///
    /// # Errors
    /// [`Refusal::Closed`]; [`Refusal::LoanEnded`]: it has come back since.
    pub fn begin_return_of(&self, slot: SlotId, close: bool, now: Moment) -> Result<Returning<'_, H, W>, Refusal> {
        Ok(self.returning(self.edit_at(now, |ledger| ledger.begin_return_of(slot, close))?))
    }

    /// Says whether there are loans that were made in the process that this one was forked from.
    pub fn has_inherited(&self) -> bool {
        self.edit(|ledger| ledger.has_inherited())
    }

    /// Forgets a loan that was made in the process that this one was forked from, and is named as in
    /// [`Pool::begin_return`]; says whether there was one.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn forget_inherited(&self, address: Option<usize>, filed: Option<&Want<H>>) -> Result<bool, Unanswered<H>> {
        self.edit(|ledger| ledger.forget_inherited(address, filed))
    }

    pub(crate) fn returning(&self, begun: ledger::Return<H>) -> Returning<'_, H, W> {
        let ledger::Return { slot, connection, closing, overdue } = begun;
        Returning { pool: self, slot, connection, closing, overdue, deferred: false }
    }

    // --- health ----------------------------------------------------------------------------------------------

    /// Marks a lent connection as dead, and, if `older`, marks all that were opened before it for replacement. Does nothing
    /// if it has come back since.
    pub fn invalidate(&self, slot: SlotId, older: bool) {
        self.edit(|ledger| ledger.invalidate(slot, older));
    }

    /// Marks every connection for replacement, and gives those that are idle, to be closed.
    pub fn drain(&self, caller: Caller) -> Vec<Returning<'_, H, W>> {
        self.edit(|ledger| ledger.drain(caller)).into_iter().map(|drained| self.returning(drained)).collect()
    }

    /// Names the slots that are idle, for [`Pool::begin_idle_check`].
    pub fn idle_slots(&self) -> Vec<SlotId> {
        self.edit(|ledger| ledger.idle_slots())
    }

    /// Takes an idle connection out of the pool to look at it; nothing, if it has been lent since.
    pub fn begin_idle_check(&self, slot: SlotId, caller: Caller, now: Moment) -> Option<Checking<'_, H, W>> {
        let (slot, connection, check) = self.edit_at(now, |ledger| ledger.begin_idle_check(slot, caller))?;
        Some(Checking { pool: self, slot, connection, check })
    }

    // --- housekeeping ----------------------------------------------------------------------------------------

    /// Names who is woken, from now on, when there are chores. It wakes somebody who takes them with [`Pool::chore`].
    pub fn set_housekeeper(&self, housekeeper: W) {
        // A pool that is made anew in the same place has the same housekeeper.
        let _ = self.housekeeper.set(housekeeper);
    }

    /// Tells what is to be done next, by this caller.
    pub fn chore(&self, caller: Caller, now: Moment) -> Chore<'_, H, W> {
        match self.edit_at(now, |ledger| ledger.chore(caller)) {
            ledger::Chore::Return(begun) => Chore::Return(self.returning(begun)),
            ledger::Chore::Report(report) => Chore::Report(report),
            ledger::Chore::Open(number) => Chore::Open(Refill { pool: self, number }),
            ledger::Chore::Rest(until) => Chore::Rest(until),
        }
    }

    /// Says whether the connection at `address` is in the books.
    pub fn holds(&self, address: usize) -> bool {
        self.edit(|ledger| ledger.holds(address))
    }

    /// Says whether another caller is opening one of the connections that are missing.
    pub fn is_refilled_by_another(&self, caller: Caller) -> bool {
        self.edit(|ledger| ledger.is_refilled_by_another(caller))
    }

    /// Lets what is missing be opened without a pause, though the last connect has failed.
    pub fn hurry_refill(&self) {
        self.edit(Ledger::hurry_refill);
    }

    // --- loans -----------------------------------------------------------------------------------------------

    /// Reports all loans, each with its connection, the oldest first.
    pub fn loans(&self, now: Moment) -> Vec<(LoanReport<H>, Arc<H>)> {
        let mut loans = self.edit_at(now, |ledger| ledger.loans());
        loans.sort_unstable_by_key(|&(generation, ..)| generation);
        loans.into_iter().map(|(_, report, connection)| (report, connection)).collect()
    }

    /// Tells for how long the oldest loan has lasted, and who borrowed it.
    pub fn oldest_loan(&self, now: Moment) -> Option<(Span, Caller)> {
        self.edit_at(now, |ledger| ledger.oldest_loan())
    }

    /// Notes something of a loan, for its reports, unless it has come back since. The first note stays.
    pub fn annotate(&self, slot: SlotId, note: Arc<H>) {
        self.edit(|ledger| ledger.annotate(slot, note));
    }

    /// Tells the number of the last event, for [`Pool::own_loan`], to a block that is about to borrow.
    ///
    /// # Errors
    /// [`Unanswered::Compare`]; [`Refusal::Taken`]: the key is lent, and a block needs a loan of its own.
    pub fn begin_block(&self, want: Option<&Want<H>>) -> Result<u64, Unanswered<H>> {
        self.edit(|ledger| ledger.begin_block(want))
    }

    /// Names the loan of the connection at `address` that was made for this borrower after `since`.
    pub fn loan_since(&self, address: usize, borrower: Caller, since: u64) -> Option<SlotId> {
        self.edit(|ledger| ledger.loan_since(address, borrower, since))
    }

    /// As [`Pool::loan_since`], for a block; nothing, for an object that the pool does not know.
    ///
    /// # Errors
    /// [`Refusal::Taken`]: the connection is lent to another.
    pub fn own_loan(&self, address: usize, borrower: Caller, since: u64) -> Result<Option<SlotId>, Refusal> {
        self.edit(|ledger| ledger.own_loan(address, borrower, since))
    }

    /// Names the loan of the connection at `address`; of several, the latest.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(crate) fn loan_at(&self, address: usize) -> Option<SlotId> {
        self.edit(|ledger| ledger.loan_at(address))
    }

    /// Says whether a loan still lasts.
    pub fn is_lent(&self, slot: SlotId) -> bool {
        self.edit(|ledger| ledger.is_lent(slot))
    }

    /// Says whether a loan still lasts, and was made without a user's key.
    pub fn is_unkeyed(&self, slot: SlotId) -> bool {
        self.edit(|ledger| ledger.is_unkeyed(slot))
    }

    /// Puts another handle of the same connection into its slot: a weak one for as long as it is lent, for instance.
    pub fn replace_handle(&self, slot: SlotId, handle: Arc<H>) {
        self.edit(|ledger| ledger.replace_handle(slot, handle));
    }

    /// Reports one loan of an open pool; nothing, if it has come back since.
    pub fn loan_report(&self, slot: SlotId, now: Moment) -> Option<LoanReport<H>> {
        self.edit_at(now, |ledger| ledger.loan_report(slot))
    }

    /// Frees the slot of a loan whose connection is gone, unless it has come back since.
    pub fn reclaim(&self, slot: SlotId, now: Moment) {
        self.edit_at(now, |ledger| ledger.reclaim(slot));
    }

    // --- counting --------------------------------------------------------------------------------------------

    /// Counts a request, and tells the number of the last event, for [`Pool::loan_since`].
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn begin_request(&self) -> Result<u64, Refusal> {
        self.edit(Ledger::begin_request)
    }

    /// Notes how long a request had to wait, if it had to, and whether it failed.
    pub fn end_request(&self, waited: Option<Span>, failed: bool) {
        self.edit(|ledger| ledger.end_request(waited, failed));
    }

    /// Notes how long a connect took, and whether it failed.
    pub fn note_connect(&self, took: Span, failed: bool) {
        self.edit(|ledger| ledger.note_connect(took, failed));
    }

    /// Notes how a connect has ended, and gives what the log is to say of it, if anything.
    pub fn connect_news(&self, failed: bool, now: Moment) -> Option<ConnectNews> {
        self.edit_at(now, |ledger| ledger.connect_news(failed))
    }

    /// Tells what has happened, and what there is now.
    pub fn stats(&self, now: Moment) -> (Stats, Counts) {
        self.edit_at(now, |ledger| (ledger.stats(), ledger.counts()))
    }

    /// As [`Pool::stats`]; what has happened is counted from zero from now on.
    pub fn take_stats(&self, now: Moment) -> (Stats, Counts) {
        self.edit_at(now, |ledger| (ledger.take_stats(), ledger.counts()))
    }

    // --- limits and the end ----------------------------------------------------------------------------------

    /// Sets how long connections are trusted and kept.
    pub fn set_policy(&self, policy: Policy) {
        self.edit(|ledger| ledger.set_policy(policy));
    }

    /// Sets how many idle connections are kept, from the next return on.
    pub fn set_minconn(&self, minconn: usize) {
        self.edit(|ledger| ledger.set_minconn(minconn));
    }

    /// Sets the limit. Idle connections above it are given to be closed; each frees its slot when it is dropped.
    pub fn set_maxconn(&self, maxconn: usize) -> Vec<Returning<'_, H, W>> {
        let discarded = self.edit(|ledger| ledger.set_maxconn(maxconn));
        discarded.into_iter().map(|discarded| self.returning(discarded)).collect()
    }

    /// Sets both limits at once. What is above them is given to be closed.
    pub fn resize(&self, minconn: usize, maxconn: usize) -> Vec<Returning<'_, H, W>> {
        let discarded = self.edit(|ledger| {
            ledger.set_minconn(minconn);
            ledger.set_maxconn(maxconn)
        });
        discarded.into_iter().map(|discarded| self.returning(discarded)).collect()
    }

    /// Closes the pool, wakes all who wait, and gives every connection, to be closed: those that nobody has begun to
    /// return, idle ones, then lent ones, each as listed. The latter two stay in the books.
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn close(&self) -> Result<Vec<Arc<H>>, Refusal> {
        let (unreturned, idle, lent) =
            self.edit(|ledger| ledger.close().map(|unreturned| (unreturned, ledger.idle(), ledger.lent())))?;
        let lent = in_order(lent).into_iter().map(|(_, connection)| connection);
        Ok(unreturned.into_iter().chain(idle).chain(lent).collect())
    }

    /// Marks the pool as closed or open, and touches no connection.
    pub fn set_closed(&self, closed: bool) {
        self.edit(|ledger| ledger.set_closed(closed));
    }

    /// Empties the pool and opens it; its connections are dropped, not closed. Who waits, asks anew.
    pub fn reset(&self) {
        self.edit(Ledger::reset);
    }

    /// Empties the pool if it was filled in another process than this one, whose connections these are. They are dropped,
    /// not closed. The seed is for what is left to chance from now on.
    pub fn enter_process(&self, process: u64, seed: u64) {
        self.edit(|ledger| ledger.enter_process(process, seed));
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

    /// Says whether the connection at `address` is idle.
    pub fn is_idle(&self, address: usize) -> bool {
        self.edit(|ledger| ledger.is_idle(address))
    }

    /// Lists the loans, the oldest first.
    pub fn lent(&self) -> Vec<(LoanKey<H>, Arc<H>)> {
        in_order(self.edit(|ledger| ledger.lent()))
    }

    /// Replaces the list of idle connections, if its addresses still are `seen`; `false` if they are not.
    #[must_use]
    pub fn replace_idle(&self, seen: &[usize], wanted: Vec<(usize, Arc<H>)>, now: Moment) -> bool {
        self.edit_at(now, |ledger| ledger.replace_idle(seen, wanted))
    }

    /// Enters a loan that was made elsewhere, in an open pool or a closed one. It takes the place of one under the same
    /// key, or fulfils the reservation that was made for it.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn insert_loan(
        &self,
        want: &Want<H>,
        address: usize,
        connection: &Arc<H>,
        now: Moment,
    ) -> Result<(), Unanswered<H>> {
        self.edit_at(now, |ledger| ledger.insert_loan(want, address, connection))
    }

    /// Finds the connection that is lent under a key.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn loan(&self, want: &Want<H>) -> Result<Option<Arc<H>>, Unanswered<H>> {
        self.edit(|ledger| ledger.loan(want))
    }

    /// Finds the key under which the connection at `address` is lent.
    pub fn key_of(&self, address: usize) -> Option<LoanKey<H>> {
        self.edit(|ledger| ledger.key_of(address))
    }

    /// Strikes a loan out of the model, and gives its connection; `None` if there is no such loan.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn remove_loan(&self, want: &Want<H>) -> Result<Option<Arc<H>>, Unanswered<H>> {
        self.edit(|ledger| ledger.remove_loan(want))
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
