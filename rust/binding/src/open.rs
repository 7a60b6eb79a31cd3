//! `_connect`, step by step: it opens a connection, and files it under a key or puts it into the pool.

use std::sync::Arc;
use std::time::Instant;

use pgpool_core::{CloseReason, ConnectError, Reserve, Seek, SharedLedger, Span};
use pyo3::prelude::*;

use crate::call::{answered_by_ours, call_or_undo};
use crate::caller::caller;
use crate::check::{begin_clean, leave_clean};
use crate::connection;
use crate::error::{Error, is_database_error, weightier};
use crate::give_back::give_back;
use crate::handle::{Handle, address};
use crate::keys::{resolve_key_if_any, want_for};
use crate::limit;
use crate::log::{OPENED, describe_public, log, log_connect};
use crate::news::{News, close_for, tell};
use crate::notes::with_notes;
use crate::pool::AbstractPool;
use crate::python::imports;
use crate::system::now;
use crate::wait::Waker;

/// Opens a connection and files it under `key`, or puts it into the pool if there is no key.
pub(crate) fn connect<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let undo = |connection: Bound<'_, PyAny>| match key {
        Some(_) => Ok(give_back(pool, Some(&connection), None, true)?),
        // It is idle in the pool.
        None => Ok(()),
    };
    call_or_undo(pool.py(), || connect_and_file(pool, key), undo)
}

fn connect_and_file<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    let py = pool.py();
    let ledger = pool.get().ledger();
    let mut want = key.map(want_for).transpose()?;
    let caller = caller(py)?;
    let mut sought: Option<(Seek<'_, Handle, Waker>, bool)> = None;
    let (slot, own) = loop {
        let reserved = resolve_key_if_any(py, &mut want, |want| match sought.take() {
            Some((seek, granted)) => seek.reserve(granted, want, caller),
            None => ledger.reserve(want, caller),
        });
        match with_notes(pool, reserved)? {
            Reserve::Pending(slot) => break (slot, None),
            Reserve::New(reservation) => break (reservation.slot(), Some(reservation)),
            Reserve::Seek(seek) => sought = Some((seek, limit::take(pool)?)),
        }
    };
    let began = Instant::now();
    let established = establish(pool, ledger);
    let took = Span::from_secs_f64(began.elapsed().as_secs_f64());
    ledger.note_connect(took, established.is_err());
    tell(pool, established.as_ref().map_or_else(News::ConnectFailed, |_| News::Connected(took)));
    let connection = match established {
        Ok(connection) => connection,
        Err(error) => {
            let why = connect_error(pool, &error);
            let text = why.text.clone();
            if let Some(own) = own {
                drop(own.fail(why, outage(pool, &error)));
            }
            let logged = log_connect(pool, ledger, Some((&error, &text)));
            return Err(weightier(py, error, logged.err()).into());
        }
    };
    let handle = Handle::of(&connection);
    if let Err(refusal) = ledger.fulfil(slot, address(&connection), &handle, now()) {
        close_for(pool, &connection, CloseReason::Unplaced)?;
        return with_notes(pool, Err(refusal));
    }
    Ok(connection)
}

/// Opens a connection and calls `configure`. Closes the connection if that fails.
fn establish<'py>(
    pool: &Bound<'py, AbstractPool>,
    ledger: &SharedLedger<Handle, Waker>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = pool.get().options();
    let connection = connection::connect(pool, options.connect.as_ref())?;
    let begun = limit::leave_in_parent(pool, &connection)
        .and_then(|()| if options.connect.is_some() { begin_clean(pool, &connection) } else { Ok(()) });
    let configured = begun.and_then(|()| match &options.configure {
        Some(configure) => leave_clean(pool, &connection, configure, "configure"),
        None => Ok(()),
    });
    let configured = configured.and_then(|()| log_connect(pool, ledger, None)).and_then(|()| log(pool, OPENED, || ()));
    match configured {
        Ok(()) => Ok(connection),
        Err(error) => Err(weightier(pool.py(), error, limit::close(pool, &connection).err())),
    }
}

/// Describes why a connect failed, for waiters.
pub(crate) fn connect_error(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> ConnectError {
    ConnectError { text: describe_public(pool, error), at: now() }
}

/// Says whether a connect has failed since the server has too many connections.
pub(crate) fn is_server_full(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> bool {
    let py = pool.py();
    let is_operational = imports().is_ok_and(|imports| error.is_instance(py, imports.OperationalError.bind(py)));
    let full = || imports()?.is_server_full.bind(py).call1((error.value(py),))?.is_truthy();
    is_operational && answered_by_ours(py, full()).unwrap_or_default()
}

/// Copies the error of a connect for the callers that may not connect while connects are held back, if it holds them back.
pub(crate) fn outage(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> Option<Arc<Handle>> {
    let counts = pool.get().options().policy.reconnect_backoff.is_some() && is_database_error(pool.py(), error);
    counts.then(|| copied(pool.py(), error)).flatten()
}

/// Copies the error of a connect.
pub(crate) fn copied(py: Python<'_>, error: &PyErr) -> Option<Arc<Handle>> {
    let copied = imports().and_then(|imports| imports.copied.bind(py).call1((error.value(py),)));
    answered_by_ours(py, copied).map(|copied| Handle::of(&copied))
}

/// Copies the error of the last connect, for a caller that may not connect. Each caller gets a copy of its own, since a raise writes
/// into the exception. Nothing: connects are not held back any more.
pub(crate) fn told_again(pool: &Bound<'_, AbstractPool>) -> PyResult<Option<PyErr>> {
    let (py, ledger) = (pool.py(), pool.get().ledger());
    let Some(error) = ledger.last_failure() else { return Ok(None) };
    let ago = ledger.connect_error().map_or(0.0, |error| now().since(error.at).as_secs_f64());
    let note = format!("{} did not connect, since this connect failed {ago:.1} s ago", pool.get().shown_name(py));
    let told = imports()?.copied.bind(py).call1((error.object(py)?, note))?;
    Ok(Some(PyErr::from_value(told)))
}

/// Says why the last failed connect failed, as the end of a sentence.
pub(crate) fn last_connect_error(pool: &Bound<'_, AbstractPool>) -> String {
    pool.get().ledger().connect_error().map_or_else(String::new, |error| {
        let ConnectError { text, at } = &*error;
        format!("; last connect error, {:.1} s ago: {text}", now().since(*at).as_secs_f64())
    })
}
