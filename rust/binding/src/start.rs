//! The beginning and the end of a pool.

use pgpool_core::Policy;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use crate::connection;
use crate::detours;
use crate::error::{Error, is_plain};
use crate::log::{Level, log};
use crate::maintain::poke;
use crate::names::name;
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
    let mut interrupted = None;
    let connections = told(slf, slf.get().ledger().close())?;
    for connection in &connections {
        // One that its borrower has forgotten is closed already.
        let closed = connection.living(py).and_then(|living| living.as_ref().map_or(Ok(()), connection::close));
        if let Err(error) = closed
            && !is_plain(py, &error)
            && interrupted.is_none()
        {
            interrupted = Some(error);
        }
    }
    interrupted.map_or(Ok(()), Err)?;
    log(slf, Level::Info, || format!("pool closed, with {} connections", connections.len()))?;
    Ok(())
}
