//! Opening a connection, and filing it or laying it into the pool: what `_connect` does.

use std::sync::Arc;
use std::time::Instant;

use pgpool_core::{CloseReason, ConnectError, Reserve, SharedLedger, Span};
use pyo3::prelude::*;

use crate::call::call_or_undo;
use crate::caller::caller;
use crate::connection;
use crate::error::{Error, weightier};
use crate::give_back::give_back;
use crate::handle::{Handle, address};
use crate::keys::{resolve_key_if_any, want_for};
use crate::log::{OPENED, close_and_log, describe_public, log, log_connect};
use crate::notes::told;
use crate::pool::AbstractPool;
use crate::system::now;
use crate::wait::Waker;

/// Does what `_connect` does: opens a connection and files it under `key`, or lays it into the pool without one.
pub(crate) fn connect<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let undo = |connection: Bound<'_, PyAny>| match key {
        Some(_) => Ok(give_back(pool, Some(&connection), None, true)?),
        // It is idle.
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
    let (slot, own) = match told(pool, resolve_key_if_any(py, &mut want, |want| ledger.reserve(want, caller)))? {
        Reserve::Pending(slot) => (slot, None),
        Reserve::New(reservation) => (reservation.slot(), Some(reservation)),
    };
    let began = Instant::now();
    let established = establish(pool, ledger);
    ledger.note_connect(Span::from_secs_f64(began.elapsed().as_secs_f64()), established.is_err());
    let connection = match established {
        Ok(connection) => connection,
        Err(error) => {
            let why = connect_error(pool, &error);
            let text = why.text.clone();
            if let Some(own) = own {
                drop(own.fail(why));
            }
            let logged = log_connect(pool, ledger, Some((&error, &text)));
            return Err(weightier(py, error, logged.err()).into());
        }
    };
    let handle = Arc::new(Handle::Object(connection.clone().unbind()));
    if let Err(refusal) = ledger.fulfil(slot, address(&connection), &handle, now()) {
        close_and_log(pool, &connection, CloseReason::Unplaced)?;
        return Err(refusal.into());
    }
    Ok(connection)
}

/// Opens a connection and prepares it for use. One that cannot be prepared is closed.
fn establish<'py>(
    pool: &Bound<'py, AbstractPool>,
    ledger: &SharedLedger<Handle, Waker>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = pool.get().options();
    let connection = connection::connect(pool, options.connect.as_ref())?;
    let configured = match &options.configure {
        Some(configure) => connection::leave_clean(&connection, configure.bind(pool.py()), "configure"),
        None => Ok(()),
    };
    let configured = configured.and_then(|()| log_connect(pool, ledger, None)).and_then(|()| log(pool, OPENED, || ()));
    match configured {
        Ok(()) => Ok(connection),
        Err(error) => Err(weightier(pool.py(), error, connection::close(&connection).err())),
    }
}

/// Says why a connect failed, for those who wait.
pub(crate) fn connect_error(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> ConnectError {
    ConnectError { text: describe_public(pool, error), at: now() }
}

/// Tells why the last connect that failed did so, as the end of a sentence.
pub(crate) fn last_connect_error(pool: &Bound<'_, AbstractPool>) -> String {
    pool.get().ledger().connect_error().map_or_else(String::new, |error| {
        let ConnectError { text, at } = &*error;
        format!("; last connect error, {:.1} s ago: {text}", now().since(*at).as_secs_f64())
    })
}
