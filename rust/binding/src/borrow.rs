//! getconn, step by step.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use pgpool_core::{Busy, CheckOut, ConnectError, Refusal, Reservation, Reserve, Waiter};
use pyo3::intern;
use pyo3::prelude::*;

use crate::connection::{self, Handle, address};
use crate::error::{Error, class_name, describe};
use crate::filing::Filing;
use crate::give_back::retire;
use crate::patience::{Bell, Patience, Waker};
use crate::pool::AbstractPool;

/// Lends a connection: an idle one, a new one, or, where the pool is full and `patience` allows, one to come.
pub(crate) fn borrow(
    slf: &Bound<'_, AbstractPool>,
    key: Option<&Bound<'_, PyAny>>,
    patience: Patience,
) -> Result<Py<PyAny>, Error> {
    let py = slf.py();
    let pool = &slf.get().pool;
    let mut filing = file(slf, key)?;
    let mut line = Line { py, waiter: None };
    let mut bell = None;
    let mut expired = false;
    let asked = Instant::now();
    let deadline = match patience {
        Patience::Limited(limit) => asked.checked_add(limit),
        Patience::Zero | Patience::Endless => None,
    };
    loop {
        let waker = if expired { None } else { bell.as_ref().map(Bell::waker) };
        match pool.check_out(&filing.want(), line.waiter.as_ref(), waker)? {
            CheckOut::Lent(connection) => return Ok(connection.clone_ref(py)),
            CheckOut::Reserved(reservation) => return open(slf, &filing, reservation),
            CheckOut::Compare(candidates) => filing.compare(py, &candidates)?,
            CheckOut::Busy(busy, joined) => {
                line.join(joined);
                if busy == Busy::Full && patience == Patience::Zero {
                    return Err(Refusal::Exhausted.into());
                }
                if expired {
                    return Err(timed_out(slf, asked));
                }
                match &bell {
                    None => bell = Some(Bell::new(py)?),
                    Some(bell) => expired = !bell.wait(deadline)?,
                }
            }
        }
    }
}

/// Finds out what to file the loan under, as psycopg2.pool does: a closed pool comes before a bad key, and an
/// automatic key is used up even if the call then fails.
fn file(slf: &Bound<'_, AbstractPool>, key: Option<&Bound<'_, PyAny>>) -> Result<Filing, Error> {
    let pool = slf.get();
    pool.ensure_open()?;
    Ok(match key {
        Some(key) => Filing::under(key)?,
        None if pool.hooks().getkey => Filing::under(&slf.call_method0(intern!(slf.py(), "_getkey"))?)?,
        None => Filing::Any(pool.pool.next_number()),
    })
}

/// Opens a connection through `self._connect`, which a subclass may have overridden, and which does the filing.
fn open(
    slf: &Bound<'_, AbstractPool>,
    filing: &Filing,
    reservation: Reservation<'_, Handle, Waker>,
) -> Result<Py<PyAny>, Error> {
    let py = slf.py();
    match slf.call_method1(intern!(py, "_connect"), (filing.to_key(py)?,)) {
        // What the hook has not filed gives its room back here; what it returns is the borrower's all the same.
        Ok(connection) => Ok(connection.unbind()),
        Err(error) => {
            reservation.fail(connect_error(py, &error));
            Err(error.into())
        }
    }
}

/// Does what `_connect` does: opens a connection and files it under `key`, or lays it into the pool without one.
pub(crate) fn connect<'py>(
    slf: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    let py = slf.py();
    let pool = &slf.get().pool;
    let mut filing = key.map(Filing::under).transpose()?;
    let (slot, own) = loop {
        match pool.reserve(filing.as_ref().map(Filing::want).as_ref())? {
            Reserve::Pending(slot) => break (slot, None),
            Reserve::New(reservation) => break (reservation.slot(), Some(reservation)),
            Reserve::Compare(candidates) => {
                if let Some(filing) = &mut filing {
                    filing.compare(py, &candidates)?;
                }
            }
        }
    };
    let connection = match connection::connect(slf) {
        Ok(connection) => connection,
        Err(error) => {
            if let Some(own) = own {
                own.fail(connect_error(py, &error));
            }
            return Err(error.into());
        }
    };
    let handle = Arc::new(connection.clone().unbind());
    if let Err(refusal) = pool.fulfil(slot, address(&connection), &handle) {
        // The pool was closed while we connected: this one is closed too, before its room is given back.
        connection::close(&connection).or_else(|error| connection::report(py, "close()", error))?;
        return Err(refusal.into());
    }
    Ok(connection)
}

/// Says why a connect failed, for those who wait. Only what the server or the network said is repeated: the text of
/// any other error may quote the connection string.
fn connect_error(py: Python<'_>, error: &PyErr) -> ConnectError {
    let operational = || py.import("psycopg2")?.getattr("OperationalError");
    let public = operational().is_ok_and(|class| error.is_instance(py, &class));
    let text = if public { describe(py, error) } else { class_name(py, error) };
    ConnectError { text, at: Instant::now() }
}

fn timed_out(slf: &Bound<'_, AbstractPool>, asked: Instant) -> Error {
    let pool = &slf.get().pool;
    let counts = pool.counts();
    let mut text = format!(
        "connection pool exhausted: waited {:.2} s for one of {} connections (lent {}, opening {}, waiting {})",
        asked.elapsed().as_secs_f64(),
        counts.maxconn,
        counts.lent,
        counts.opening,
        counts.waiting,
    );
    if let Some(ConnectError { text: why, at }) = pool.connect_error().as_deref() {
        let _ = write!(text, "; last connect error, {:.1} s ago: {why}", at.elapsed().as_secs_f64());
    }
    Error::TimedOut(text)
}

/// A borrower's place among those who wait, given up properly however the wait ends.
struct Line<'py, 'p> {
    py: Python<'py>,
    waiter: Option<Waiter<'p, Handle, Waker>>,
}

impl<'p> Line<'_, 'p> {
    /// Takes a new place, if there is one, and gives up the old one.
    fn join(&mut self, joined: Option<Waiter<'p, Handle, Waker>>) {
        if joined.is_some() {
            self.leave();
            self.waiter = joined;
        }
    }

    fn leave(&mut self) {
        if let Some(surplus) = self.waiter.take().and_then(Waiter::leave)
            && let Err(error) = retire(self.py, surplus)
        {
            error.write_unraisable(self.py, None);
        }
    }
}

impl Drop for Line<'_, '_> {
    fn drop(&mut self) {
        self.leave();
    }
}
