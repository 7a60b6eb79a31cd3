//! getconn, step by step.

use std::fmt::Write;
use std::time::{Duration, Instant};

use pgpool_core::{Busy, Caller, CheckOut, CloseReason, Refusal, Reservation, SlotId, Span, Waiter, Want};
use pyo3::prelude::*;

use crate::call::{call_or_undo, is_speaking, speak};
use crate::caller::caller;
use crate::check;
use crate::error::{Error, both, weightier};
use crate::give_back::{discard, finish, give_back_loan};
use crate::handle::{Handle, address};
use crate::keys::{settle, to_key, under};
use crate::leaks;
use crate::log::{CROWDED, TIMED_OUT, close_and_log, log};
use crate::notes::{annotated, told};
use crate::open::{connect_error, last_connect_error};
use crate::pool::AbstractPool;
use crate::python::name;
use crate::system::now;
use crate::wait::{Bell, Timeout, Waker};

/// How often a caller that will not wait for room looks whether some is still coming for it.
const GLANCE: Duration = Duration::from_millis(50);

/// Lends a connection: an idle one, a new one, or, where the pool is full and `timeout` allows, one to come.
pub(crate) fn borrow(
    slf: &Bound<'_, AbstractPool>,
    key: Option<&Bound<'_, PyAny>>,
    timeout: Timeout,
) -> PyResult<Py<PyAny>> {
    call_or_undo(slf.py(), || lend(slf, key, timeout), |lent| lent.undo(slf)).map(|lent| lent.connection.unbind())
}

/// What a caller has just been lent.
struct NewLoan<'py> {
    connection: Bound<'py, PyAny>,
    borrower: Caller,
    since: u64,
}

impl NewLoan<'_> {
    /// Names the loan. Another caller's loan of the same key is no concern of this one.
    fn loan(&self, pool: &Bound<'_, AbstractPool>) -> Option<SlotId> {
        pool.get().ledger().loan_since(address(&self.connection), self.borrower, self.since)
    }

    /// Takes the connection back and closes it.
    fn undo(&self, pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
        self.loan(pool).map_or(Ok(()), |loan| Ok(give_back_loan(pool, loan, true)?))
    }
}

fn lend<'py>(
    slf: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
    timeout: Timeout,
) -> Result<NewLoan<'py>, Error> {
    let pool = slf.get().ledger();
    leaks::log_forgotten(slf)?;
    let since = told(slf, pool.begin_request())?;
    let mut queued_at = None;
    let mut borrower = 0;
    let found = file(slf, key).and_then(|mut want| {
        borrower = want.caller();
        seek(slf, &mut want, timeout, &mut queued_at)
    });
    let waited = queued_at.map(|began: Instant| Span::from_secs_f64(began.elapsed().as_secs_f64()));
    if waited.is_some() || found.is_err() {
        pool.end_request(waited, found.is_err());
    }
    let (connection, given_up) = found.map_err(|error| {
        let waited = queued_at.map_or(Duration::ZERO, |began| began.elapsed());
        annotated(slf, error, waited, None)
    })?;
    let lent = NewLoan { connection, borrower, since };
    let watched = match slf.get().watches().then(|| lent.loan(slf)).flatten() {
        Some(loan) => leaks::begin(slf, loan, &lent.connection),
        None => Ok(()),
    };
    match both(slf.py(), given_up, watched) {
        Ok(()) => Ok(lent),
        Err(error) => Err(weightier(slf.py(), error, lent.undo(slf).err()).into()),
    }
}

/// Finds a connection, and tells how its place among those who wait was given up. Notes when it began to wait, if it had to.
fn seek<'py>(
    slf: &Bound<'py, AbstractPool>,
    want: &mut Want<Handle>,
    timeout: Timeout,
    queued_at: &mut Option<Instant>,
) -> Result<(Bound<'py, PyAny>, PyResult<()>), Error> {
    let mut place = Place { slf, waiter: None };
    let found = seek_from(&mut place, slf, want, timeout, queued_at);
    match (found, place.give_up()) {
        (Ok(connection), left) => Ok((connection, left)),
        (Err(error), Ok(())) => Err(error),
        (Err(first), Err(second)) => Err(weightier(slf.py(), first.into(), Some(second)).into()),
    }
}

/// Finds a connection, taking the place in the queue for it that it needs.
fn seek_from<'py, 'p>(
    place: &mut Place<'py, 'p>,
    slf: &'p Bound<'py, AbstractPool>,
    want: &mut Want<Handle>,
    timeout: Timeout,
    queued_at: &mut Option<Instant>,
) -> Result<Bound<'py, PyAny>, Error> {
    let py = slf.py();
    let pool = slf.get().ledger();
    let caller = want.caller();
    let mut bell = None;
    let mut expired = false;
    let asked = Instant::now();
    'asking: loop {
        let mut answer = settle(py, want, |want| {
            let waker = if expired { None } else { bell.as_ref().map(Bell::waker) };
            pool.check_out(want, place.waiter.as_ref(), waker, now())
        })?;
        let (busy, joined) = loop {
            match answer {
                CheckOut::Lent(connection) => return Ok(connection.object(py)?),
                CheckOut::Check(checking) => answer = check::lend(slf, checking)?,
                CheckOut::Reserved(reservation) => return open(slf, want, reservation),
                CheckOut::FinishReturn(returning) => {
                    finish(slf, returning)?;
                    continue 'asking;
                }
                CheckOut::Busy(busy, joined) => break (busy, joined),
            }
        };
        place.take(joined)?;
        let deadline = match (busy, timeout) {
            (Busy::Crowded, _) => return Err(crowded(slf)),
            _ if is_speaking(caller) => return Err(Refusal::Exhausted.into()),
            (Busy::Full, Timeout::ZERO) => return Err(Refusal::Exhausted.into()),
            // Not a wait for room: the connection is on its way, and whoever brings it has no time limit either.
            (Busy::KeyOpening, Timeout::ZERO) => None,
            // The same, as long as it is.
            (Busy::InTransit, Timeout::ZERO) => Instant::now().checked_add(GLANCE),
            // With no room at all, there is nothing to wait for.
            _ if expired || pool.counts().maxconn == 0 && busy == Busy::Full => {
                return Err(timed_out(slf, busy, asked));
            }
            _ => timeout.deadline(asked),
        };
        match &bell {
            None => {
                // Nothing is held yet, and the wait may be long.
                speak(py, caller)?;
                bell = Some(Bell::new(py)?);
            }
            Some(bell) => {
                queued_at.get_or_insert_with(Instant::now);
                expired = !bell.wait(deadline)? && timeout != Timeout::ZERO;
            }
        }
    }
}

/// Finds out what to file the loan under, as psycopg2.pool does: a closed pool comes before a bad key, and an
/// automatic key is used up even if the call then fails.
fn file(slf: &Bound<'_, AbstractPool>, key: Option<&Bound<'_, PyAny>>) -> Result<Want<Handle>, Error> {
    let pool = slf.get();
    Ok(match key {
        Some(key) => under(key)?,
        None if pool.hooks().getkey => under(&slf.call_method0(name!(slf.py(), getkey_hook))?)?,
        None => Want::Any(pool.ledger().next_number(), caller(slf.py())?),
    })
}

/// Opens a connection through `self._connect`, which a subclass may have overridden, and which does the filing.
fn open<'py>(
    slf: &Bound<'py, AbstractPool>,
    want: &Want<Handle>,
    reservation: Reservation<'_, Handle, Waker>,
) -> Result<Bound<'py, PyAny>, Error> {
    let py = slf.py();
    let connection = match slf.call_method1(name!(py, connect_hook), (to_key(py, want)?,)) {
        Ok(connection) => connection,
        Err(error) => {
            // What the hook had filed before it failed is closed.
            let filed = reservation.fail(connect_error(slf, &error));
            let discarded = filed.and_then(|filed| discard(slf, filed).err());
            return Err(weightier(py, error, discarded).into());
        }
    };
    if let Err(refusal) = slf.get().ensure_open() {
        close_and_log(slf, &connection, CloseReason::WithPool)?;
        return Err(refusal.into());
    }
    // What the hook has not filed gives its room back as the reservation goes; it is the borrower's all the same.
    Ok(connection)
}

fn crowded(slf: &Bound<'_, AbstractPool>) -> Error {
    let waiting = slf.get().ledger().counts().waiting;
    let text = format!(
        "connection pool exhausted: {waiting} callers wait for a connection of {}, and no more may",
        slf.get().shown_name(slf.py())
    );
    match log(slf, CROWDED, || (text.clone(),)) {
        Ok(()) => Error::Crowded(text),
        Err(error) => error.into(),
    }
}

fn timed_out(slf: &Bound<'_, AbstractPool>, busy: Busy, asked: Instant) -> Error {
    let pool = slf.get().ledger();
    let counts = pool.counts();
    let waited = asked.elapsed().as_secs_f64();
    let name = slf.get().shown_name(slf.py());
    let mut text = if busy == Busy::KeyOpening {
        format!("connection not opened: waited {waited:.2} s for the one that another caller opens under this key")
    } else {
        format!("connection pool exhausted: waited {waited:.2} s for one of {} connections", counts.maxconn)
    };
    let (lent, opening, waiting) = (counts.in_use(), counts.opening, counts.waiting);
    let _ = write!(text, " (lent {lent}, opening {opening}, waiting {waiting}) in {name}");
    text.push_str(&last_connect_error(slf));
    // Not a warning: under load that would be one for each request, and the caller is told.
    match log(slf, TIMED_OUT, || (text.clone(),)) {
        Ok(()) => Error::TimedOut(text),
        Err(error) => error.into(),
    }
}

/// A borrower's place among those who wait, given up properly however the wait ends.
struct Place<'py, 'p> {
    slf: &'p Bound<'py, AbstractPool>,
    waiter: Option<Waiter<'p, Handle, Waker>>,
}

impl<'p> Place<'_, 'p> {
    /// Takes a new place, if there is one, and gives up the old one.
    fn take(&mut self, joined: Option<Waiter<'p, Handle, Waker>>) -> PyResult<()> {
        if joined.is_none() {
            return Ok(());
        }
        let left = self.give_up();
        self.waiter = joined;
        left
    }

    fn give_up(&mut self) -> PyResult<()> {
        self.waiter.take().and_then(Waiter::leave).map_or(Ok(()), |surplus| discard(self.slf, surplus))
    }
}
