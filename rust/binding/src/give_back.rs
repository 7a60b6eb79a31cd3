//! putconn, step by step.

use std::time::Duration;

use pgpool_core::{CloseReason, Refusal, Returning, SlotId};
use pyo3::prelude::*;

use crate::call::call;
use crate::check::leave_clean;
use crate::connection::{self, Closed, Look};
use crate::error::{Error, both, every, is_exception, is_shortage, weightier};
use crate::fast_path::flags;
use crate::handle::{Handle, address};
use crate::keys::{is_plainly, resolve_key_if_any, want_for};
use crate::limit;
use crate::log::{
    CLOSE_FAILED, Event, LATE, RESET_FAILED, RETURN_FAILED, ROLLBACK_FAILED, log, log_closed, log_unclean, report,
};
use crate::news::{News, tell};
use crate::notes::{annotated, with_notes};
use crate::pool::AbstractPool;
use crate::system::now;
use crate::wait::Waker;

/// Takes a connection back into the pool if it is healthy and needed. Otherwise closes it.
pub(crate) fn give_back(
    pool: &Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<(), Error> {
    Ok(call(pool.py(), || {
        let may_keep = !close && pool.get().options().reset.is_none();
        let clean = connection.filter(|connection| may_keep && pool.get().is_clean(connection));
        if clean.is_some_and(|connection| give_back_without_python(pool, connection, key)) {
            return Ok(());
        }
        match begin(pool, connection, key, close)? {
            Some(returning) => finish_or_defer(pool, returning),
            // The parent process lent it.
            None => Ok(()),
        }
    })?)
}

/// Takes back a clean connection, if that needs no Python code. `false`: it is still lent.
pub(crate) fn give_back_without_python(
    pool: &Bound<'_, AbstractPool>,
    connection: &Bound<'_, PyAny>,
    key: Option<&Bound<'_, PyAny>>,
) -> bool {
    let loan = pool.get().ledger().loan_at(address(connection));
    loan.is_some_and(|(loan, filed)| {
        key.is_none_or(|key| is_plainly(&filed, key)) && end_clean_loan(pool, loan, connection)
    })
}

/// Ends the loan of a clean connection. `false`: it is still lent.
pub(crate) fn end_clean_loan(pool: &Bound<'_, AbstractPool>, loan: SlotId, connection: &Bound<'_, PyAny>) -> bool {
    let ledger = pool.get().ledger();
    let weak = pool.get().has(flags::LOANS).then(|| ledger.unkeyed(loan)).flatten();
    let lent_for = ledger.take_back_any_clean(loan, weak.and_then(|weak| weak.strong(connection)), now());
    lent_for.inspect(|&lent_for| tell(pool, News::Returned(lent_for))).is_some()
}

/// As [`give_back`], for one loan, if it has not ended.
pub(crate) fn give_back_loan(pool: &Bound<'_, AbstractPool>, loan: SlotId, close: bool) -> Result<(), Error> {
    Ok(call(pool.py(), || finish_or_defer(pool, pool.get().ledger().begin_return_of(loan, close, now())?))?)
}

/// Finishes a return, or leaves it to the housekeeper.
pub(crate) fn finish_or_defer(
    pool: &Bound<'_, AbstractPool>,
    mut returning: Returning<'_, Handle, Waker>,
) -> Result<(), Error> {
    let options = pool.get().options();
    returning.lent_for().into_iter().for_each(|lent_for| tell(pool, News::Returned(lent_for)));
    if let Some(handle) = returning.connection().strong(&returning.connection().object(pool.py())?) {
        returning.replace_handle(handle);
    }
    let overdue = returning.overdue();
    match options.background.then(|| is_slow(pool, &returning)).transpose() {
        Ok(Some(true)) => returning.defer(now()).map_or(Ok(()), |returning| finish(pool, returning))?,
        Ok(Some(false) | None) => finish(pool, returning)?,
        Err(error) => close_after(pool, returning, RETURN_FAILED, error)?,
    }
    if let Some(lent_for) = overdue {
        log(pool, LATE, || (lent_for.as_secs_f64(),))?;
    }
    Ok(())
}

/// Says whether the rest of a return uses the network.
fn is_slow(pool: &Bound<'_, AbstractPool>, returning: &Returning<'_, Handle, Waker>) -> PyResult<bool> {
    if returning.closing().is_some() {
        return Ok(true);
    }
    Ok(match pool.get().look_at(&returning.connection().object(pool.py())?)? {
        Look::Clean => pool.get().options().reset.is_some(),
        Look::InTransaction(_) => true,
        Look::Broken | Look::Closed(_) => false,
    })
}

/// Finishes a return: makes the connection clean and puts it into the pool, or closes it.
pub(crate) fn finish(pool: &Bound<'_, AbstractPool>, mut returning: Returning<'_, Handle, Waker>) -> Result<(), Error> {
    let py = pool.py();
    let connection = returning.connection().object(py)?;
    if let Some(reason) = returning.closing() {
        // It may be broken, and the first sign that the server is gone.
        let looked = if reason == CloseReason::Surplus { note_if_broken(&mut returning, &connection) } else { Ok(()) };
        let discarded = discard(pool, returning);
        let looked = looked.or_else(|error| report(pool, RETURN_FAILED, error));
        return Ok(both(py, looked, discarded)?);
    }
    let look = match pool.get().look_at(&connection) {
        Ok(look) => look,
        // The object is most likely no connection.
        Err(error) => return Ok(close_after(pool, returning, RETURN_FAILED, error)?),
    };
    let cleaned = match look {
        Look::InTransaction(seen) => {
            connection::make_clean(&connection, seen).map_err(|error| (ROLLBACK_FAILED, error))
        }
        look => Ok(look),
    };
    let done = cleaned.and_then(|look| match look {
        Look::Clean => reset(pool, &connection).map(|()| look).map_err(|error| (RESET_FAILED, error)),
        look => Ok(look),
    });
    match done {
        Ok(Look::Clean) if returning.keep(now()) => Ok(()),
        Ok(Look::Clean) => Ok(discard(pool, returning)?),
        Ok(Look::InTransaction(left)) => Ok(match close_and_free(pool, returning) {
            Some(error) => report(pool, CLOSE_FAILED, error),
            None => log_unclean(pool, left),
        }?),
        Ok(Look::Broken) => {
            returning.close_for(CloseReason::Lost);
            Ok(discard(pool, returning)?)
        }
        Ok(Look::Closed(how)) => {
            let reason = if how == Closed::Broken { CloseReason::Lost } else { CloseReason::ByBorrower };
            returning.close_for(reason);
            drop(returning);
            tell(pool, News::Closed(reason));
            Ok(log_closed(pool, reason)?)
        }
        Err((failed, error)) => {
            let error = weightier(py, error, note_if_broken(&mut returning, &connection).err());
            Ok(close_after(pool, returning, failed, error)?)
        }
    }
}

/// Notes the reason if psycopg2 knows that the connection has failed.
fn note_if_broken(returning: &mut Returning<'_, Handle, Waker>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Look::Broken | Look::Closed(Closed::Broken) = connection::look_at(connection)? {
        returning.close_for(CloseReason::Lost);
    }
    Ok(())
}

/// Calls `reset`, if it is given. It must leave the connection open and in no transaction.
fn reset(pool: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    let options = pool.get().options();
    let Some(reset) = &options.reset else { return Ok(()) };
    if connection::is_async(connection)? {
        return Ok(());
    }
    leave_clean(pool, connection, reset, "reset")
}

/// Begins the return of a connection. Gives nothing for one that the parent process lent: there is nothing to do.
fn begin<'p>(
    pool: &'p Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<Option<Returning<'p, Handle, Waker>>, Error> {
    with_notes(pool, pool.get().ledger().ensure_returnable())?;
    let (py, ledger) = (pool.py(), pool.get().ledger());
    let place = connection.map(address);
    let filed = key.map(want_for).transpose().map_err(Error::from);
    let begun = filed.and_then(|mut filed| {
        resolve_key_if_any(py, &mut filed, |filed| ledger.begin_return(place, filed, close, now())).map(Some)
    });
    match begun {
        Err(Error::Refused(_)) if is_inherited(pool, place, key)? => Ok(None),
        // The interpreter could not compare the key now, or an interrupt struck. The caller will not call again, and it has given
        // the connection: free its slot.
        Err(Error::Raised(error)) if key.is_some() && place.is_some() && is_no_answer(py, &error) => {
            let returning = resolve_key_if_any(py, &mut None, |_| ledger.begin_return(place, None, true, now()));
            let second = returning.ok().and_then(|returning| {
                returning.lent_for().into_iter().for_each(|lent_for| tell(pool, News::Returned(lent_for)));
                close_and_free(pool, returning)
            });
            Err(weightier(py, error, second).into())
        }
        begun => begun.map_err(|error| {
            let only_key = connection.is_none() && key.is_some();
            let unkeyed = matches!(error, Error::Refused(Refusal::Unkeyed));
            let error = if only_key && unkeyed { Error::NotLent } else { error };
            annotated(pool, error, Duration::ZERO, Some((connection, key.is_some())))
        }),
    }
}

/// Says whether the interpreter itself stopped: by an interrupt, or for want of stack or memory.
fn is_no_answer(py: Python<'_>, error: &PyErr) -> bool {
    !is_exception(py, error) || is_shortage(py, error)
}

/// Says whether the parent process lent this connection, and forgets it.
fn is_inherited(
    pool: &Bound<'_, AbstractPool>,
    place: Option<usize>,
    key: Option<&Bound<'_, PyAny>>,
) -> Result<bool, Error> {
    let ledger = pool.get().ledger();
    if !ledger.has_inherited() {
        return Ok(false);
    }
    let mut filed = key.map(want_for).transpose()?;
    resolve_key_if_any(pool.py(), &mut filed, |filed| ledger.forget_inherited(place, filed))
}

/// Closes a connection. Its slot is free once `close()` has ended, even by an error.
pub(crate) fn discard(pool: &Bound<'_, AbstractPool>, returning: Returning<'_, Handle, Waker>) -> PyResult<()> {
    let reason = returning.closing().unwrap_or(CloseReason::Unclean);
    match close_and_free(pool, returning) {
        Some(error) => report(pool, CLOSE_FAILED, error),
        None => log_closed(pool, reason),
    }
}

/// Closes several connections: all of them, even if some `close()` raises.
pub(crate) fn discard_all<'p>(
    pool: &Bound<'_, AbstractPool>,
    all: impl IntoIterator<Item = Returning<'p, Handle, Waker>>,
) -> PyResult<()> {
    every(pool.py(), all.into_iter().map(|returning| discard(pool, returning)))
}

/// Closes a connection, frees its slot, and gives the error of `close()`.
fn close_and_free(pool: &Bound<'_, AbstractPool>, returning: Returning<'_, Handle, Waker>) -> Option<PyErr> {
    // In the child of a fork that came meanwhile, this empties the ledger, and the connection is the parent's.
    pool.get().ledger();
    if !returning.lasts() {
        return None;
    }
    tell(pool, News::Closed(returning.closing().unwrap_or(CloseReason::Unclean)));
    let closed = returning.connection().object(pool.py()).and_then(|connection| limit::close(pool, &connection));
    drop(returning);
    closed.err()
}

/// Closes a connection after an error, frees its slot, and logs a database's error.
fn close_after(
    pool: &Bound<'_, AbstractPool>,
    returning: Returning<'_, Handle, Waker>,
    event: Event,
    error: PyErr,
) -> PyResult<()> {
    let second = close_and_free(pool, returning);
    report(pool, event, weightier(pool.py(), error, second))
}
