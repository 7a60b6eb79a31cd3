//! The beginning and the end of a pool.

use pgpool_core::Policy;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use crate::call::{call, edit};
use crate::connection::{self, Handle};
use crate::detours;
use crate::error::{Error, every, is_said};
use crate::log::{POOL_CLOSED, log};
use crate::maintain::poke;
use crate::names::{module, name};
use crate::notes::told;
use crate::options::Checked;
use crate::pool::AbstractPool;
use crate::timeout::Waker;

/// Empties the ledger, sets options and limits, and opens minconn connections; closes them again if one fails.
pub(crate) fn start(slf: &Bound<'_, AbstractPool>, minconn: usize, maxconn: usize, options: Checked) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let pool = this.ledger();
    let (policy, open_workers) = (options.policy(), options.open_workers);
    this.set_timeout(options.timeout);
    this.set_options(options.into_options(py)?);
    let started = call(py, || {
        pool.reset();
        pool.set_policy(Policy { has_housekeeper: false, ..policy });
        drop(pool.resize(minconn, maxconn));
        this.set_detours(detours::find(slf)?);
        if open_workers > 1 {
            module(name!(py, opening_module))?.call_method1("in_parallel", (slf, minconn, open_workers))?;
        } else {
            (0..minconn).try_for_each(|_| slf.call_method0(name!(py, connect_hook)).map(drop))?;
        }
        pool.set_policy(policy);
        pool.set_housekeeper(Waker::Keeper(PyWeakrefReference::new(slf)?.unbind()));
        if policy.has_housekeeper { poke(slf) } else { Ok(()) }
    });
    started.inspect_err(|_| {
        // Report the first error, and ignore those of the closes.
        let _ = edit(py, || {
            // Closed first, so that no call that comes in meanwhile opens another one.
            for connection in pool.close().unwrap_or_default() {
                let _ = connection.object(py).and_then(|connection| connection::close(&connection));
            }
            pool.reset();
        });
    })
}

/// Closes every connection, and the pool.
pub(crate) fn close(slf: &Bound<'_, AbstractPool>) -> PyResult<()> {
    call(slf.py(), || close_all(slf))
}

fn close_all(slf: &Bound<'_, AbstractPool>) -> Result<(), Error> {
    let py = slf.py();
    let connections = told(slf, slf.get().ledger().close())?;
    // All of them, whatever is raised. psycopg2.pool, too, is silent about what the database says of it.
    let ends = connections.iter().map(|connection| match close_last(py, connection) {
        Err(error) if is_said(py, &error) => Ok(()),
        closed => closed,
    });
    every(py, ends)?;
    log(slf, POOL_CLOSED, || (connections.len(),))?;
    Ok(())
}

/// Closes a connection as its pool closes. One that its borrower has forgotten is closed already; what cannot be closed, as no
/// connection at all, is let go.
fn close_last(py: Python<'_>, connection: &Handle) -> PyResult<()> {
    match connection.living(py)? {
        Some(connection) if connection.hasattr(name!(py, close))? => connection::close(&connection),
        _ => Ok(()),
    }
}
