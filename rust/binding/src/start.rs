//! The beginning and the end of a pool.

use pgpool_core::Policy;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use crate::connection::{self, Handle};
use crate::detours;
use crate::error::{Error, every, is_said};
use crate::log::{Level, log};
use crate::maintain::poke;
use crate::names::name;
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
    pool.reset();
    pool.set_policy(Policy { kept: false, ..policy });
    drop(pool.resize(minconn, maxconn));
    this.set_detours(detours::find(slf)?);
    let opened = if open_workers > 1 {
        py.import("pgpool_rs._opening")?.call_method1("in_parallel", (slf, minconn, open_workers)).map(drop)
    } else {
        (0..minconn).try_for_each(|_| slf.call_method0(name!(py, connect_hook)).map(drop))
    };
    opened.inspect_err(|_| {
        // Closed first, so that no call that comes in meanwhile opens another one.
        for connection in pool.close().unwrap_or_default() {
            // The error that stopped us is the one to be heard.
            let _ = connection.object(py).and_then(|connection| connection::close(&connection));
        }
        pool.reset();
    })?;
    pool.set_policy(policy);
    pool.set_keeper(Waker::Keeper(PyWeakrefReference::new(slf)?.unbind()));
    if policy.kept { poke(slf) } else { Ok(()) }
}

/// Closes every connection, and the pool.
pub(crate) fn close(slf: &Bound<'_, AbstractPool>) -> Result<(), Error> {
    let py = slf.py();
    let connections = slf.get().ledger().close()?;
    // All of them, whatever is raised. psycopg2.pool, too, is silent about what the database says of it.
    let ends = connections.iter().map(|connection| match close_last(py, connection) {
        Err(error) if is_said(py, &error) => Ok(()),
        closed => closed,
    });
    every(py, ends)?;
    log(slf, Level::Info, || format!("pool closed, with {} connections", connections.len()))?;
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
