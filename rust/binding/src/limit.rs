//! The limit that a pool shares with others: the grantor of its ledger, and the end of a session that has a place in it.

use pgpool_core::Grantor;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::call::{answered_by_ours, defer_error, while_seeking};
use crate::caller::caller;
use crate::connection;
use crate::error::both;
use crate::pool::AbstractPool;
use crate::python::{imports, name};

/// The limit of the pool behind this weak reference. Once the pool is gone, the limit itself frees its places.
struct Limit(Py<PyWeakrefReference>);

impl Limit {
    /// Says whether the limit has heard. An error is raised by the call that it struck.
    fn tell(&self, say: impl FnOnce(&Bound<'_, AbstractPool>, &Bound<'_, PyAny>) -> PyResult<()>) -> bool {
        let told = Python::try_attach(|py| {
            let Some(pool) = self.0.bind(py).upgrade() else { return true };
            let Ok(pool) = pool.cast_into::<AbstractPool>() else { return true };
            let Some(limit) = limit_of(&pool) else { return true };
            say(&pool, &limit).map_err(|error| defer_error(py, error)).is_ok()
        });
        told.unwrap_or(true)
    }
}

impl Grantor for Limit {
    fn release(&self, count: usize) -> bool {
        self.tell(|pool, limit| limit.call_method1(name!(pool.py(), give), (pool, count)).map(drop))
    }

    fn wants(&self) -> bool {
        self.tell(|pool, limit| limit.call_method1(name!(pool.py(), wait), (pool,)).map(drop))
    }
}

/// Gives the limit that a pool shares, if it shares one.
pub(crate) fn limit_of<'py>(pool: &Bound<'py, AbstractPool>) -> Option<Bound<'py, PyAny>> {
    pool.get().options().limit.as_ref().map(|limit| limit.bind(pool.py()).clone())
}

/// Lets the pool, which is empty, fill its slots only as its limit grants.
pub(crate) fn attach(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let (ledger, limit) = (pool.get().ledger(), limit_of(pool));
    ledger.set_limited(limit.is_some());
    let Some(limit) = limit else { return Ok(()) };
    ledger.set_grantor(Box::new(Limit(AbstractPool::weak(pool)?)));
    limit.call_method1(name!(pool.py(), attach), (pool,)).map(drop)
}

/// Takes a place of the limit, if one is free.
pub(crate) fn take(pool: &Bound<'_, AbstractPool>) -> PyResult<bool> {
    match limit_of(pool) {
        Some(limit) => {
            let ask = || limit.call_method1(name!(pool.py(), take), (pool,));
            while_seeking(caller(pool.py())?, ask)?.is_truthy()
        }
        // The pool was made anew meanwhile, without a limit.
        None => Ok(false),
    }
}

/// Lets no child of a fork keep the session of a new connection open. Without a limit, this does nothing.
pub(crate) fn leave_in_parent(pool: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    match limit_of(pool) {
        Some(_) => imports()?.leave_in_parent.bind(pool.py()).call1((connection,)).map(drop),
        None => Ok(()),
    }
}

/// Closes a connection. With a limit, waits until the server has ended the session, so that its place is free then.
pub(crate) fn close(pool: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    if limit_of(pool).is_none() {
        return connection::close(connection);
    }
    let py = pool.py();
    let begun = imports().and_then(|imports| imports.session_of.bind(py).call1((connection,)));
    let session = answered_by_ours(py, begun).filter(|session| !session.is_none());
    let closed = connection::close(connection);
    let ended = match session {
        Some(session) => imports().and_then(|imports| imports.await_end.bind(py).call1((session,)).map(drop)),
        None => Ok(()),
    };
    both(py, closed, ended)
}
