//! getconn, step by step.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use pgpool_core::{Busy, CheckOut, ConnectError, Refusal, Reservation, Reserve, Waiter, Want};
use pyo3::intern;
use pyo3::prelude::*;

use crate::connection::{self, Handle, address};
use crate::error::{Error, class_name, describe};
use crate::filing::{caller, settle, settle_maybe, to_key, under};
use crate::give_back::discard;
use crate::pool::AbstractPool;
use crate::timeout::{Bell, Timeout, Waker};

/// Lends a connection: an idle one, a new one, or, where the pool is full and `timeout` allows, one to come.
pub(crate) fn borrow(
    slf: &Bound<'_, AbstractPool>,
    key: Option<&Bound<'_, PyAny>>,
    timeout: Timeout,
) -> Result<Py<PyAny>, Error> {
    let py = slf.py();
    let pool = &slf.get().pool;
    let mut want = file(slf, key)?;
    let mut place = Place { py, waiter: None };
    let mut bell = None;
    let mut expired = false;
    let asked = Instant::now();
    loop {
        let answer = settle(py, &mut want, |want| {
            let waker = if expired { None } else { bell.as_ref().map(Bell::waker) };
            pool.check_out(want, place.waiter.as_ref(), waker)
        })?;
        let (busy, joined) = match answer {
            CheckOut::Lent(connection) => return Ok(connection.clone_ref(py)),
            CheckOut::Reserved(reservation) => return open(slf, &want, reservation),
            CheckOut::Busy(busy, joined) => (busy, joined),
        };
        place.take(joined);
        let deadline = match (busy, timeout) {
            (Busy::Full, Timeout::ZERO) => return Err(Refusal::Exhausted.into()),
            // Not a wait for room: the connection is on its way, and its opener has no time limit either.
            (Busy::KeyOpening, Timeout::ZERO) => None,
            _ if expired => return Err(timed_out(slf, busy, asked)),
            _ => timeout.deadline(asked),
        };
        match &bell {
            None => bell = Some(Bell::new(py)?),
            Some(bell) => expired = !bell.wait(deadline)?,
        }
    }
}

/// Finds out what to file the loan under, as psycopg2.pool does: a closed pool comes before a bad key, and an
/// automatic key is used up even if the call then fails.
fn file(slf: &Bound<'_, AbstractPool>, key: Option<&Bound<'_, PyAny>>) -> Result<Want<Handle>, Error> {
    let pool = slf.get();
    pool.ensure_open()?;
    Ok(match key {
        Some(key) => under(key)?,
        None if pool.hooks().getkey => under(&slf.call_method0(intern!(slf.py(), "_getkey"))?)?,
        None => Want::Any(pool.pool.next_number(), caller(slf.py())?),
    })
}

/// Opens a connection through `self._connect`, which a subclass may have overridden, and which does the filing.
fn open(
    slf: &Bound<'_, AbstractPool>,
    want: &Want<Handle>,
    reservation: Reservation<'_, Handle, Waker>,
) -> Result<Py<PyAny>, Error> {
    let py = slf.py();
    let connection = match slf.call_method1(intern!(py, "_connect"), (to_key(py, want)?,)) {
        Ok(connection) => connection,
        Err(error) => {
            // What the hook had filed before it failed is closed; an error of that is not the one to be heard.
            if let Some(filed) = reservation.fail(connect_error(py, &error)) {
                drop(connection::close(filed.connection().bind(py)));
            }
            return Err(error.into());
        }
    };
    if let Err(refusal) = slf.get().ensure_open() {
        close_late(&connection)?;
        return Err(refusal.into());
    }
    // What the hook has not filed gives its room back as the reservation goes; it is the borrower's all the same.
    Ok(connection.unbind())
}

/// Closes a connection that was being opened while the pool was closed. Its room is given back after that.
fn close_late(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection::close(connection).or_else(|error| connection::report(connection.py(), "close()", error))
}

/// Does what `_connect` does: opens a connection and files it under `key`, or lays it into the pool without one.
pub(crate) fn connect<'py>(
    slf: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    let py = slf.py();
    let pool = &slf.get().pool;
    let mut want = key.map(under).transpose()?;
    let (slot, own) = match settle_maybe(py, &mut want, |want| pool.reserve(want))? {
        Reserve::Pending(slot) => (slot, None),
        Reserve::New(reservation) => (reservation.slot(), Some(reservation)),
    };
    let connection = match connection::connect(slf) {
        Ok(connection) => connection,
        Err(error) => {
            if let Some(own) = own {
                drop(own.fail(connect_error(py, &error)));
            }
            return Err(error.into());
        }
    };
    let handle = Arc::new(connection.clone().unbind());
    if let Err(refusal) = pool.fulfil(slot, address(&connection), &handle) {
        close_late(&connection)?;
        return Err(refusal.into());
    }
    Ok(connection)
}

/// Says why a connect failed, for those who wait. Only what libpq says of a host that it has found is repeated: any other
/// text may quote the connection string, or what a wrong one made of a password.
fn connect_error(py: Python<'_>, error: &PyErr) -> ConnectError {
    let operational = || py.import("psycopg2")?.getattr("OperationalError");
    let operational = operational().is_ok_and(|class| error.is_instance(py, &class));
    let text = describe(py, error);
    let public = operational && text.contains(": connection to server ");
    ConnectError { text: if public { text } else { class_name(py, error) }, at: Instant::now() }
}

fn timed_out(slf: &Bound<'_, AbstractPool>, busy: Busy, asked: Instant) -> Error {
    let pool = &slf.get().pool;
    let counts = pool.counts();
    let waited = asked.elapsed().as_secs_f64();
    let mut text = match busy {
        Busy::Full => {
            format!("connection pool exhausted: waited {waited:.2} s for one of {} connections", counts.maxconn)
        }
        Busy::KeyOpening => {
            format!("connection not opened: waited {waited:.2} s for the one that another caller opens under this key")
        }
    };
    let lent = counts.lent + counts.promised;
    let _ = write!(text, " (lent {lent}, opening {}, waiting {})", counts.opening, counts.waiting);
    if let Some(ConnectError { text: why, at }) = pool.connect_error().as_deref() {
        let _ = write!(text, "; last connect error, {:.1} s ago: {why}", at.elapsed().as_secs_f64());
    }
    Error::TimedOut(text)
}

/// A borrower's place among those who wait, given up properly however the wait ends.
struct Place<'py, 'p> {
    py: Python<'py>,
    waiter: Option<Waiter<'p, Handle, Waker>>,
}

impl<'p> Place<'_, 'p> {
    /// Takes a new place, if there is one, and gives up the old one.
    fn take(&mut self, joined: Option<Waiter<'p, Handle, Waker>>) {
        if joined.is_some() {
            self.give_up();
            self.waiter = joined;
        }
    }

    fn give_up(&mut self) {
        if let Some(surplus) = self.waiter.take().and_then(Waiter::leave)
            && let Err(error) = discard(self.py, surplus)
        {
            error.write_unraisable(self.py, None);
        }
    }
}

impl Drop for Place<'_, '_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
