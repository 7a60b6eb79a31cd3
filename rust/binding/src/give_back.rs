//! putconn, step by step.

use std::sync::Arc;

use pgpool_core::{Reason, Refusal, Returning};
use pyo3::prelude::*;

use crate::call::{answered, call};
use crate::connection::{self, Closed, Handle, Look, address};
use crate::error::{Error, is_plain};
use crate::filing::{settle_maybe, under};
use crate::log::{CLOSE_FAILED, RESET_FAILED, RETURN_FAILED, ROLLBACK_FAILED, log_closed, report};
use crate::pool::AbstractPool;
use crate::system::now;
use crate::text::repr_of;
use crate::timeout::Waker;
use crate::watch;

/// Takes a connection back: into the pool if it is well and there is a use for it, or else out of the world.
pub(crate) fn give_back(
    slf: &Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<(), Error> {
    Ok(call(slf.py(), || take_back(slf, connection, key, close))?)
}

fn take_back(
    slf: &Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<(), Error> {
    let mut returning = begin(slf, connection, key, close)?;
    let options = slf.get().options();
    if options.reclaim {
        let object = returning.connection().object(slf.py())?;
        returning.replace_handle(Arc::new(Handle::Object(object.unbind())));
    }
    let overdue = returning.overdue();
    match options.background.then(|| is_slow(slf, &returning)).transpose() {
        Ok(Some(true)) => returning.leave(now()).map_or(Ok(()), |returning| finish(slf, returning))?,
        Ok(Some(false) | None) => finish(slf, returning)?,
        Err(error) => {
            drop(close_whatever_it_says(slf.py(), returning));
            return Err(error.into());
        }
    }
    if let Some(lent_for) = overdue {
        watch::log_late(slf, lent_for.as_secs_f64())?;
    }
    Ok(())
}

/// Finishes a return that was left by somebody who is not there any more to be told of an error.
pub(crate) fn finish_errand(slf: &Bound<'_, AbstractPool>, returning: Returning<'_, Handle, Waker>) -> PyResult<()> {
    let finished = finish(slf, returning).map_err(PyErr::from);
    finished.or_else(|error| report(slf, RETURN_FAILED, error))
}

/// Says whether what is left to do for a return takes the network.
fn is_slow(slf: &Bound<'_, AbstractPool>, returning: &Returning<'_, Handle, Waker>) -> PyResult<bool> {
    if returning.closing().is_some() {
        return Ok(true);
    }
    Ok(match connection::look_at(&returning.connection().object(slf.py())?)? {
        Look::Clean => slf.get().options().reset.is_some(),
        Look::InTransaction => true,
        Look::Broken | Look::Closed(_) => false,
    })
}

/// Finishes a return: makes the connection clean and lays it into the pool, or closes it.
pub(crate) fn finish(slf: &Bound<'_, AbstractPool>, mut returning: Returning<'_, Handle, Waker>) -> Result<(), Error> {
    let py = slf.py();
    let connection = returning.connection().object(py)?;
    if let Some(reason) = returning.closing() {
        // Its end may be the first sign of one that others share.
        if reason == Reason::Surplus && is_broken(&connection) {
            returning.condemn(Reason::Lost);
        }
        return Ok(discard(slf, returning)?);
    }
    let look = match connection::look_at(&connection) {
        Ok(look) => look,
        Err(error) => {
            // No connection, most likely, and psycopg2.pool would raise this too. Its slot is freed all the same.
            drop(close_whatever_it_says(py, returning));
            return Err(error.into());
        }
    };
    let cleaned = match look {
        Look::Clean => Ok(()),
        Look::InTransaction => connection::rollback(&connection).map_err(|error| (ROLLBACK_FAILED, error)),
        Look::Broken => {
            returning.condemn(Reason::Lost);
            return Ok(discard(slf, returning)?);
        }
        Look::Closed(how) => {
            let reason = if how == Closed::Broken { Reason::Lost } else { Reason::ByBorrower };
            returning.condemn(reason);
            drop(returning);
            return Ok(log_closed(slf, reason)?);
        }
    };
    match cleaned.and_then(|()| reset(slf, &connection).map_err(|error| (RESET_FAILED, error))) {
        Ok(()) if returning.keep(now()) => Ok(()),
        Ok(()) => Ok(discard(slf, returning)?),
        Err((failed, error)) => {
            if is_broken(&connection) {
                returning.condemn(Reason::Lost);
            }
            let closing = close_whatever_it_says(py, returning);
            let stronger = closing.filter(|closing| !is_plain(py, closing) && is_plain(py, &error));
            Ok(report(slf, failed, stronger.unwrap_or(error))?)
        }
    }
}

/// Says whether a connection has failed, as far as psycopg2 knows. Whatever stops it from telling is of no interest here.
fn is_broken(connection: &Bound<'_, PyAny>) -> bool {
    let look = answered(connection.py(), connection::look_at(connection));
    matches!(look, Some(Look::Broken | Look::Closed(Closed::Broken)))
}

/// Calls `reset`, if there is one, which must leave the connection open and in no transaction.
fn reset(slf: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    let options = slf.get().options();
    let Some(reset) = &options.reset else { return Ok(()) };
    if connection::is_async(connection)? {
        return Ok(());
    }
    connection::leave_clean(connection, reset.bind(slf.py()), "reset")
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
    let begun = settle_maybe(slf.py(), &mut filed, |filed| pool.ledger().begin_return(place, filed, close, now()));
    match (begun, key) {
        (Err(Error::Refused(Refusal::WrongKey)), Some(key)) => Err(Error::WrongKey(repr_of(key)?)),
        (Err(Error::Refused(Refusal::Unkeyed)), Some(key)) if connection.is_none() => {
            Err(Error::NotLent(repr_of(key)?))
        }
        (begun, _) => begun,
    }
}

/// Closes a connection that nobody has a use for. Its slot is free once that is done, however it ends.
pub(crate) fn discard(slf: &Bound<'_, AbstractPool>, returning: Returning<'_, Handle, Waker>) -> PyResult<()> {
    let reason = returning.closing().unwrap_or(Reason::Unclean);
    match close_whatever_it_says(slf.py(), returning) {
        Some(error) => report(slf, CLOSE_FAILED, error),
        None => log_closed(slf, reason),
    }
}

/// Closes connections that nobody has a use for, all of them, and gives the first error.
pub(crate) fn discard_all(slf: &Bound<'_, AbstractPool>, surplus: Vec<Returning<'_, Handle, Waker>>) -> PyResult<()> {
    surplus.into_iter().map(|surplus| discard(slf, surplus)).fold(Ok(()), Result::and)
}

/// Closes a connection, frees its slot, and gives the error of the first, if any.
fn close_whatever_it_says(py: Python<'_>, returning: Returning<'_, Handle, Waker>) -> Option<PyErr> {
    let closed = returning.connection().object(py).and_then(|connection| connection::close(&connection));
    drop(returning);
    closed.err()
}
