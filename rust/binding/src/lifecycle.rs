//! The beginning and the end of a pool.

use std::sync::Arc;

use pgpool_core::Policy;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use crate::call::call;
use crate::caller::is_thread_ident_native;
use crate::connection;
use crate::error::{Error, both, every, is_database_error, weightier};
use crate::fast_path::flags::{self, HOOKS, is_original};
use crate::handle::Handle;
use crate::leaks::log_forgotten;
use crate::log::{POOL_CLOSED, log};
use crate::notes::with_notes;
use crate::options::Checked;
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::wait::{Waker, poke};

/// Empties the ledger, sets options and limits, and opens minconn connections; closes them again if one fails.
pub(crate) fn start(pool: &Bound<'_, AbstractPool>, minconn: usize, maxconn: usize, options: Checked) -> PyResult<()> {
    let py = pool.py();
    let this = pool.get();
    let ledger = this.ledger();
    let (policy, open_workers) = (options.policy(), options.open_workers);
    this.set_timeout(options.timeout);
    this.set_options(options.into_options(py)?);
    let started = call(py, || {
        ledger.reset();
        ledger.set_policy(Policy { has_housekeeper: false, grow: None, ..policy });
        drop(ledger.resize(minconn, maxconn));
        this.set_flags(find_flags(pool)?);
        if open_workers > 1 {
            imports()?.open_in_parallel.bind(py).call1((pool, minconn, open_workers))?;
        } else {
            (0..minconn).try_for_each(|_| pool.call_method0(name!(py, connect_hook)).map(drop))?;
        }
        ledger.set_workers(Waker::Workers(AbstractPool::weak(pool)?));
        ledger.set_policy(policy);
        ledger.set_housekeeper(Waker::Housekeeper(AbstractPool::weak(pool)?));
        if policy.has_housekeeper && !poke(pool)? {
            ledger.housekeeper_missed();
        }
        PyResult::Ok(())
    });
    started.map_err(|error| {
        let closed = call(py, || {
            // Close the pool first, so that no other call opens a connection meanwhile.
            let connections = ledger.close().unwrap_or_default();
            let close = |connection: &Arc<Handle>| connection::close(&connection.object(py)?);
            let closed = every(py, connections.iter().map(close));
            ledger.reset();
            closed
        });
        weightier(py, error, closed.err())
    })
}

/// Finds the flags that keep the calls of a pool from the fast path.
pub(crate) fn find_flags(pool: &Bound<'_, AbstractPool>) -> PyResult<u64> {
    let class = pool.get_type();
    let attributes = pool.getattr("__dict__")?;
    let mut bits = 0;
    for (bit, name) in HOOKS.into_iter().enumerate() {
        if attributes.contains(name)? || !is_original(bit, &class.getattr(name)?) {
            bits |= 1 << bit;
        }
    }
    for name in [name!(pool.py(), getconn), name!(pool.py(), putconn)] {
        // A pool that is not made for use may have none. Another pool's is as good as overridden.
        let own = match pool.getattr_opt(name)? {
            Some(method) => method.is_instance_of::<PyCFunction>() && method.getattr("__self__")?.is(pool),
            None => false,
        };
        if !own {
            bits |= flags::GETCONN_OR_PUTCONN;
        }
    }
    let options = pool.get().options();
    if options.close_returns {
        bits |= flags::CLOSE_RETURNS;
    }
    if options.record || options.reclaim || !is_thread_ident_native(pool.py())? {
        bits |= flags::LOANS;
    }
    if options.record || options.reclaim || options.reset.is_some() {
        bits |= flags::RETURNS;
    }
    Ok(bits)
}

/// Closes every connection, and the pool.
pub(crate) fn close(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    call(pool.py(), || close_all(pool))
}

fn close_all(pool: &Bound<'_, AbstractPool>) -> Result<(), Error> {
    let py = pool.py();
    let connections = with_notes(pool, pool.get().ledger().close())?;
    // Close all of them, even if some `close()` raises. Ignore a database's errors, as psycopg2.pool does.
    let ends = connections.iter().map(|connection| match close_last(py, connection) {
        Err(error) if is_database_error(py, &error) => Ok(()),
        closed => closed,
    });
    let closed = every(py, ends);
    let logged = both(py, log_forgotten(pool), log(pool, POOL_CLOSED, || (connections.len(),)));
    Ok(both(py, closed, logged)?)
}

/// Closes a connection when its pool closes. A connection that its borrower has forgotten is closed already. An object without
/// `close()` is dropped.
fn close_last(py: Python<'_>, connection: &Handle) -> PyResult<()> {
    match connection.living(py) {
        Some(connection) if connection.hasattr(name!(py, close))? => connection::close(&connection),
        _ => Ok(()),
    }
}
