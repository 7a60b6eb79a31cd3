//! putconn, step by step.

use std::sync::Arc;

use pgpool_core::{Reason, Refusal, Returning, SlotId};
use pyo3::exceptions::{PyMemoryError, PyRecursionError};
use pyo3::prelude::*;

use crate::connection::{self, Closed, Handle, Look, address};
use crate::error::{Error, answered, is_plain, raise_kept_back};
use crate::filing::{settle_maybe, under};
use crate::log::{DROPPED, log_closed, report};
use crate::pool::AbstractPool;
use crate::system::now;
use crate::timeout::Waker;
use crate::watch;

/// Takes a connection back: into the pool if it is well and there is a use for it, or else out of the world.
pub(crate) fn give_back(
    slf: &Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<(), Error> {
    let begun = begin(slf, connection, key, close);
    let returned = begun.and_then(|begun| begun.map_or(Ok(()), |returning| take_back(slf, returning)));
    raise_kept_back()?;
    returned
}

/// As [`give_back`], for one loan, and only if it has not come back since.
pub(crate) fn give_back_loan(slf: &Bound<'_, AbstractPool>, loan: SlotId, close: bool) -> Result<(), Error> {
    let begun = slf.get().ledger().begin_return_of(loan, close, now()).map_err(Error::from);
    let returned = begun.and_then(|returning| take_back(slf, returning));
    raise_kept_back()?;
    returned
}

fn take_back(slf: &Bound<'_, AbstractPool>, mut returning: Returning<'_, Handle, Waker>) -> Result<(), Error> {
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
            drop(close_whatever_it_says(slf, returning));
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
    finished.or_else(|error| report(slf, "a connection could not be returned", error))
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
            drop(close_whatever_it_says(slf, returning));
            return Err(error.into());
        }
    };
    let cleaned = match look {
        Look::Clean => Ok(()),
        Look::InTransaction => connection::rollback(&connection).map_err(|error| ("rollback()", error)),
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
    match cleaned.and_then(|()| reset(slf, &connection).map_err(|error| ("reset", error))) {
        Ok(()) if returning.keep(now()) => Ok(()),
        Ok(()) => Ok(discard(slf, returning)?),
        Err((what, error)) => {
            if is_broken(&connection) {
                returning.condemn(Reason::Lost);
            }
            let closing = close_whatever_it_says(slf, returning);
            let stronger = closing.filter(|closing| !is_plain(py, closing) && is_plain(py, &error));
            Ok(report(slf, &format!("{what} {DROPPED}"), stronger.unwrap_or(error))?)
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

/// Takes the connection out of its borrower's hands. Nothing is left to be done for one that the parent of this process
/// has lent.
fn begin<'p>(
    slf: &'p Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<Option<Returning<'p, Handle, Waker>>, Error> {
    let (py, pool) = (slf.py(), slf.get());
    pool.ensure_open()?;
    let ledger = pool.ledger();
    let place = connection.map(address);
    let filed = key.map(under).transpose().map_err(Error::from);
    let begun = filed.and_then(|mut filed| {
        settle_maybe(py, &mut filed, |filed| ledger.begin_return(place, filed, close, now())).map(Some)
    });
    match (begun, key) {
        (Err(Error::Refused(Refusal::WrongKey | Refusal::Unkeyed)), _) if is_inherited(slf, place, key)? => Ok(None),
        // Nothing is wrong with the key: the interpreter could not compare it now, or not without an interrupt. The caller
        // will not come back, and the connection is named.
        (Err(Error::Raised(error)), Some(_)) if place.is_some() && is_no_answer(py, &error) => {
            if let Ok(returning) = settle_maybe(py, &mut None, |_| ledger.begin_return(place, None, true, now())) {
                drop(close_whatever_it_says(slf, returning));
            }
            Err(error.into())
        }
        (Err(Error::Refused(Refusal::WrongKey)), Some(key)) => Err(Error::WrongKey(key.repr()?.to_string())),
        (Err(Error::Refused(Refusal::Unkeyed)), Some(key)) if connection.is_none() => {
            Err(Error::NotLent(key.repr()?.to_string()))
        }
        (begun, _) => begun,
    }
}

/// Says whether the interpreter itself stopped what it was to do for us: by an interrupt, or as it had no stack or memory.
fn is_no_answer(py: Python<'_>, error: &PyErr) -> bool {
    !is_plain(py, error) || error.is_instance_of::<PyRecursionError>(py) || error.is_instance_of::<PyMemoryError>(py)
}

/// Says whether this was lent in the process that we were forked from; from now on it is not any more.
fn is_inherited(
    slf: &Bound<'_, AbstractPool>,
    place: Option<usize>,
    key: Option<&Bound<'_, PyAny>>,
) -> Result<bool, Error> {
    let ledger = slf.get().ledger();
    if !ledger.has_inherited() {
        return Ok(false);
    }
    let mut filed = key.map(under).transpose()?;
    settle_maybe(slf.py(), &mut filed, |filed| ledger.forget_inherited(place, filed))
}

/// Closes a connection that nobody has a use for. Its slot is free once that is done, however it ends.
pub(crate) fn discard(slf: &Bound<'_, AbstractPool>, returning: Returning<'_, Handle, Waker>) -> PyResult<()> {
    let reason = returning.closing().unwrap_or(Reason::Unclean);
    match close_whatever_it_says(slf, returning) {
        Some(error) => report(slf, &format!("close() {DROPPED}"), error),
        None => log_closed(slf, reason),
    }
}

/// Closes a connection, frees its slot, and gives the error of the first, if any.
fn close_whatever_it_says(slf: &Bound<'_, AbstractPool>, returning: Returning<'_, Handle, Waker>) -> Option<PyErr> {
    // In the child of a fork that came meanwhile, the ledger is emptied now, and the connection is the parent's.
    slf.get().ledger();
    if !returning.lasts() {
        return None;
    }
    let closed = returning.connection().object(slf.py()).and_then(|connection| connection::close(&connection));
    drop(returning);
    closed.err()
}
