//! Growth: a worker, which is a thread of its own, opens connections for the waiters.

use pgpool_core::{ConnectFailure, Grown, Growth};
use pyo3::prelude::*;

use crate::call::{call, edit};
use crate::caller::caller;
use crate::error::{is_database_error, is_exception};
use crate::give_back::discard;
use crate::handle::Handle;
use crate::log::{OPEN_FAILED, RETURN_FAILED, report_alone};
use crate::open::{connect_error, copied, is_server_full, outage};
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::system::now;
use crate::wait::Waker;

/// Opens one connection after the other, as long as callers wait for them. What a log handler raises meanwhile, or an interrupt of the
/// thread, has no caller, and is printed.
pub(crate) fn work(pool: &Bound<'_, AbstractPool>) {
    let py = pool.py();
    let mut next = caller(py).and_then(|worker| edit(py, || pool.get().ledger().begin_growth(worker)));
    while let Ok(Some(growth)) = next {
        next = call(py, || connect(pool, growth));
    }
    if let Err(error) = next {
        error.write_unraisable(py, None);
    }
}

/// Opens a connection, which goes to the first waiter, as an error does.
fn connect<'p>(
    pool: &Bound<'_, AbstractPool>,
    growth: Growth<'p, Handle, Waker>,
) -> PyResult<Option<Growth<'p, Handle, Waker>>> {
    let py = pool.py();
    let error = pool.call_method0(name!(py, connect_hook)).err().filter(|error| !is_refusal(py, error));
    // An interrupt of the worker is no answer to a waiter: the first waiter connects itself.
    let answer = error.as_ref().filter(|error| is_exception(py, error));
    let failed = answer.map(|error| {
        let (full, outage) = (is_server_full(pool, error), outage(pool, error));
        let failure = match (full, &outage) {
            (true, _) => ConnectFailure::Full,
            (false, Some(_)) => ConnectFailure::Outage,
            (false, None) => ConnectFailure::Other,
        };
        let copied = outage.or_else(|| full.then(|| copied(py, error)).flatten());
        (copied.unwrap_or_else(|| Handle::of(error.value(py).as_any())), connect_error(pool, error), failure)
    });
    let Grown { told, surplus, next } = growth.end(failed, now());
    // The connect has logged a database's error.
    if let Some(error) = error.filter(|error| !told && !is_database_error(py, error)) {
        report_alone(pool, OPEN_FAILED, Err(error))?;
    }
    report_alone(pool, RETURN_FAILED, surplus.map_or(Ok(()), |surplus| discard(pool, surplus)))?;
    Ok(next)
}

/// Says whether the pool itself has refused the connection: it was closed meanwhile, or maxconn was lowered.
fn is_refusal(py: Python<'_>, error: &PyErr) -> bool {
    imports().is_ok_and(|imports| error.is_instance(py, imports.PoolError.bind(py)))
}
