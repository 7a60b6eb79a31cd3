//! putconn, step by step.

use std::sync::Arc;

use pgpool_core::{Reason, Refusal, Returning};
use pyo3::prelude::*;

use crate::connection::{self, Closed, Handle, Look, address};
use crate::error::{Error, both, every, raise_kept_back, weightier};
use crate::filing::{settle_maybe, under};
use crate::log::{DROPPED, NOT_RETURNED, log_closed, log_unclean, report};
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
    let returned = take_back(slf, connection, key, close);
    raise_kept_back()?;
    returned
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
        Err(error) => close_after(slf, returning, NOT_RETURNED, error)?,
    }
    if let Some(lent_for) = overdue {
        watch::log_late(slf, lent_for.as_secs_f64())?;
    }
    Ok(())
}

/// Says whether what is left to do for a return takes the network.
fn is_slow(slf: &Bound<'_, AbstractPool>, returning: &Returning<'_, Handle, Waker>) -> PyResult<bool> {
    if returning.closing().is_some() {
        return Ok(true);
    }
    Ok(match connection::look_at(&returning.connection().object(slf.py())?)? {
        Look::Clean => slf.get().options().reset.is_some(),
        Look::InTransaction(_) => true,
        Look::Broken | Look::Closed(_) => false,
    })
}

/// Finishes a return: makes the connection clean and lays it into the pool, or closes it.
pub(crate) fn finish(slf: &Bound<'_, AbstractPool>, mut returning: Returning<'_, Handle, Waker>) -> Result<(), Error> {
    let py = slf.py();
    let connection = returning.connection().object(py)?;
    if let Some(reason) = returning.closing() {
        // Its end may be the first sign of one that others share.
        let looked = if reason == Reason::Surplus { condemn_if_broken(&mut returning, &connection) } else { Ok(()) };
        let discarded = discard(slf, returning);
        let looked = looked.or_else(|error| report(slf, NOT_RETURNED, error));
        return Ok(both(py, looked, discarded)?);
    }
    let look = match connection::look_at(&connection) {
        Ok(look) => look,
        // No connection, most likely.
        Err(error) => return Ok(close_after(slf, returning, NOT_RETURNED, error)?),
    };
    let cleaned = match look {
        Look::InTransaction(seen) => connection::make_clean(&connection, seen).map_err(|error| ("rollback()", error)),
        look => Ok(look),
    };
    let done = cleaned.and_then(|look| match look {
        Look::Clean => reset(slf, &connection).map(|()| look).map_err(|error| ("reset", error)),
        look => Ok(look),
    });
    match done {
        Ok(Look::Clean) if returning.keep(now()) => Ok(()),
        Ok(Look::Clean) => Ok(discard(slf, returning)?),
        Ok(Look::InTransaction(left)) => Ok(match close_whatever_it_says(py, returning) {
            Some(error) => report(slf, &format!("close() {DROPPED}"), error),
            None => log_unclean(slf, left),
        }?),
        Ok(Look::Broken) => {
            returning.condemn(Reason::Lost);
            Ok(discard(slf, returning)?)
        }
        Ok(Look::Closed(how)) => {
            let reason = if how == Closed::Broken { Reason::Lost } else { Reason::ByBorrower };
            returning.condemn(reason);
            drop(returning);
            Ok(log_closed(slf, reason)?)
        }
        Err((what, error)) => {
            let error = weightier(py, error, condemn_if_broken(&mut returning, &connection).err());
            Ok(close_after(slf, returning, &format!("{what} {DROPPED}"), error)?)
        }
    }
}

/// Notes that a connection has failed, as far as psycopg2 knows.
fn condemn_if_broken(returning: &mut Returning<'_, Handle, Waker>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Look::Broken | Look::Closed(Closed::Broken) = connection::look_at(connection)? {
        returning.condemn(Reason::Lost);
    }
    Ok(())
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
        (Err(Error::Refused(Refusal::WrongKey)), Some(key)) => Err(Error::WrongKey(key.repr()?.to_string())),
        (Err(Error::Refused(Refusal::Unkeyed)), Some(key)) if connection.is_none() => {
            Err(Error::NotLent(key.repr()?.to_string()))
        }
        (begun, _) => begun,
    }
}

/// Closes a connection that nobody has a use for. Its slot is free once that is done, however it ends.
pub(crate) fn discard(slf: &Bound<'_, AbstractPool>, returning: Returning<'_, Handle, Waker>) -> PyResult<()> {
    let reason = returning.closing().unwrap_or(Reason::Unclean);
    match close_whatever_it_says(slf.py(), returning) {
        Some(error) => report(slf, &format!("close() {DROPPED}"), error),
        None => log_closed(slf, reason),
    }
}

/// Does the same to several: to all of them, whatever is raised.
pub(crate) fn discard_all<'p>(
    slf: &Bound<'_, AbstractPool>,
    all: impl IntoIterator<Item = Returning<'p, Handle, Waker>>,
) -> PyResult<()> {
    every(slf.py(), all.into_iter().map(|returning| discard(slf, returning)))
}

/// Closes a connection, frees its slot, and gives the error of the first, if any.
fn close_whatever_it_says(py: Python<'_>, returning: Returning<'_, Handle, Waker>) -> Option<PyErr> {
    let closed = returning.connection().object(py).and_then(|connection| connection::close(&connection));
    drop(returning);
    closed.err()
}

/// Closes a connection after an error, frees its slot, and logs what the database has said.
fn close_after(
    slf: &Bound<'_, AbstractPool>,
    returning: Returning<'_, Handle, Waker>,
    what: &str,
    error: PyErr,
) -> PyResult<()> {
    let second = close_whatever_it_says(slf.py(), returning);
    report(slf, what, weightier(slf.py(), error, second))
}
