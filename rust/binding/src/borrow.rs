//! getconn, step by step.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgpool_core::{
    Busy, Caller, CheckOut, CloseReason, ConnectError, Refusal, Reservation, Reserve, SharedLedger, SlotId, Span,
    Waiter, Want,
};
use pyo3::prelude::*;

use crate::call::{call_or_undo, is_speaking, speak};
use crate::check;
use crate::connection::{self, Handle, address};
use crate::error::{Error, both, weightier};
use crate::filing::{caller, settle, settle_maybe, to_key, under};
use crate::give_back::{discard, finish, give_back, give_back_loan};
use crate::log::{CROWDED, OPENED, TIMED_OUT, close_and_log, describe_public, log, log_connect};
use crate::names::name;
use crate::notes::{annotated, told};
use crate::pool::AbstractPool;
use crate::system::now;
use crate::timeout::{Bell, Timeout, Waker};
use crate::watch;

/// How often a caller that will not wait for room looks whether some is still coming for it.
const GLANCE: Duration = Duration::from_millis(50);

/// Lends a connection: an idle one, a new one, or, where the pool is full and `timeout` allows, one to come.
pub(crate) fn borrow(
    slf: &Bound<'_, AbstractPool>,
    key: Option<&Bound<'_, PyAny>>,
    timeout: Timeout,
) -> PyResult<Py<PyAny>> {
    // Report the first error, and ignore one of the return.
    let undo = |lent: NewLoan<'_>| drop(lent.loan(slf).map(|loan| give_back_loan(slf, loan, true)));
    call_or_undo(slf.py(), || lend(slf, key, timeout), undo).map(|lent| lent.connection.unbind())
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
}

fn lend<'py>(
    slf: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
    timeout: Timeout,
) -> Result<NewLoan<'py>, Error> {
    let pool = slf.get().ledger();
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
        Some(loan) => watch::begin(slf, loan, &lent.connection),
        None => Ok(()),
    };
    // Report the first error, and ignore one of the return.
    both(slf.py(), given_up, watched)
        .inspect_err(|_| drop(lent.loan(slf).map(|loan| give_back_loan(slf, loan, true))))?;
    Ok(lent)
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
            // What the hook had filed before it failed is closed; an error of that is not the one to be heard.
            if let Some(filed) = reservation.fail(connect_error(slf, &error)) {
                drop(discard(slf, filed));
            }
            return Err(error.into());
        }
    };
    if let Err(refusal) = slf.get().ensure_open() {
        close_and_log(slf, &connection, CloseReason::WithPool)?;
        return Err(refusal.into());
    }
    // What the hook has not filed gives its room back as the reservation goes; it is the borrower's all the same.
    Ok(connection)
}

/// Does what `_connect` does: opens a connection and files it under `key`, or lays it into the pool without one.
pub(crate) fn connect<'py>(
    slf: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let undo = |connection: Bound<'_, PyAny>| {
        // Without a key it is idle.
        if key.is_some() {
            let _ = give_back(slf, Some(&connection), None, true);
        }
    };
    call_or_undo(slf.py(), || connect_and_file(slf, key), undo)
}

fn connect_and_file<'py>(
    slf: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    let py = slf.py();
    let pool = slf.get().ledger();
    let mut want = key.map(under).transpose()?;
    let caller = caller(py)?;
    let (slot, own) = match told(slf, settle_maybe(py, &mut want, |want| pool.reserve(want, caller)))? {
        Reserve::Pending(slot) => (slot, None),
        Reserve::New(reservation) => (reservation.slot(), Some(reservation)),
    };
    let began = Instant::now();
    let established = establish(slf, pool);
    pool.note_connect(Span::from_secs_f64(began.elapsed().as_secs_f64()), established.is_err());
    let connection = match established {
        Ok(connection) => connection,
        Err(error) => {
            let why = connect_error(slf, &error);
            let text = why.text.clone();
            if let Some(own) = own {
                drop(own.fail(why));
            }
            let logged = log_connect(slf, pool, Some((&error, &text)));
            return Err(weightier(py, error, logged.err()).into());
        }
    };
    let handle = Arc::new(Handle::Object(connection.clone().unbind()));
    if let Err(refusal) = pool.fulfil(slot, address(&connection), &handle, now()) {
        close_and_log(slf, &connection, CloseReason::Unplaced)?;
        return Err(refusal.into());
    }
    Ok(connection)
}

/// Opens a connection and prepares it for use. One that cannot be prepared is closed.
fn establish<'py>(slf: &Bound<'py, AbstractPool>, pool: &SharedLedger<Handle, Waker>) -> PyResult<Bound<'py, PyAny>> {
    let options = slf.get().options();
    let connection = connection::connect(slf, options.connect.as_ref())?;
    let configured = match &options.configure {
        Some(configure) => connection::leave_clean(&connection, configure.bind(slf.py()), "configure"),
        None => Ok(()),
    };
    let configured = configured.and_then(|()| log_connect(slf, pool, None)).and_then(|()| log(slf, OPENED, || ()));
    // Report the first error, and ignore one of the close.
    configured.inspect_err(|_| drop(connection::close(&connection)))?;
    Ok(connection)
}

/// Says why a connect failed, for those who wait.
fn connect_error(slf: &Bound<'_, AbstractPool>, error: &PyErr) -> ConnectError {
    ConnectError { text: describe_public(slf, error), at: now() }
}

/// Tells why the last connect that failed did so, as the end of a sentence.
pub(crate) fn last_connect_error(slf: &Bound<'_, AbstractPool>) -> String {
    slf.get().ledger().connect_error().map_or_else(String::new, |error| {
        let ConnectError { text, at } = &*error;
        format!("; last connect error, {:.1} s ago: {text}", now().since(*at).as_secs_f64())
    })
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
