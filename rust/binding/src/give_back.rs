//! putconn, step by step.

use pgpool_core::{Refusal, Returning};
use pyo3::prelude::*;

use crate::connection::{self, Handle, Look, address};
use crate::error::{Error, is_plain};
use crate::filing::{settle_maybe, under};
use crate::pool::AbstractPool;
use crate::timeout::Waker;

/// Takes a connection back: into the pool if it is well and there is a use for it, or else out of the world.
pub(crate) fn give_back(
    slf: &Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<(), Error> {
    let py = slf.py();
    let returning = begin(slf, connection, key, close)?;
    if !returning.wanted() {
        return Ok(discard(py, returning)?);
    }
    let connection = returning.connection().bind(py).clone();
    let clean = match connection::look_at(&connection) {
        Ok(Look::Clean) => Ok(()),
        Ok(Look::InTransaction) => connection::rollback(&connection),
        Ok(Look::Broken) => return Ok(discard(py, returning)?),
        Ok(Look::Closed) => return Ok(()),
        Err(error) => {
            // No connection, most likely, and psycopg2.pool would raise this too. Its slot is freed all the same.
            close_whatever_it_says(py, returning);
            return Err(error.into());
        }
    };
    match clean {
        Ok(()) if returning.keep() => Ok(()),
        Ok(()) => Ok(discard(py, returning)?),
        Err(error) => {
            let closing = close_whatever_it_says(py, returning);
            let stronger = closing.filter(|closing| !is_plain(py, closing) && is_plain(py, &error));
            Ok(connection::report(py, "rollback()", stronger.unwrap_or(error))?)
        }
    }
}

/// Takes the connection out of its borrower's hands.
fn begin<'p>(
    slf: &'p Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<Returning<'p, Handle, Waker>, Error> {
    let pool = slf.get();
    pool.ensure_open()?;
    let place = connection.map(address);
    let mut filed = key.map(under).transpose()?;
    let begun = settle_maybe(slf.py(), &mut filed, |filed| pool.pool.begin_return(place, filed, close));
    match (begun, key) {
        (Err(Error::Refused(Refusal::WrongKey)), Some(key)) => Err(Error::WrongKey(key.repr()?.to_string())),
        (Err(Error::Refused(Refusal::Unkeyed)), Some(key)) if connection.is_none() => {
            Err(Error::NotLent(key.repr()?.to_string()))
        }
        (begun, _) => begun,
    }
}

/// Closes a connection that nobody has a use for. Its slot is free once that is done, however it ends.
pub(crate) fn discard(py: Python<'_>, returning: Returning<'_, Handle, Waker>) -> PyResult<()> {
    match close_whatever_it_says(py, returning) {
        Some(error) => connection::report(py, "close()", error),
        None => Ok(()),
    }
}

/// Closes a connection, frees its slot, and gives the error of the first, if any.
fn close_whatever_it_says(py: Python<'_>, returning: Returning<'_, Handle, Waker>) -> Option<PyErr> {
    let closed = connection::close(returning.connection().bind(py));
    drop(returning);
    closed.err()
}
