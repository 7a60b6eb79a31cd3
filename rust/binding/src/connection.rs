//! Everything that is ever asked of a connection, each in one place.
//!
//! Items need not be psycopg2 connections: proxies of tracing libraries, wrappers and mocks are lent too. Nothing
//! but what stands here is needed of one.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyTuple, PyType};

use crate::error::{describe, is_plain, warn};

/// A connection or a key, as the ledger keeps it.
pub(crate) type Handle = Py<PyAny>;

/// Where an object lives: what `id()` gives.
pub(crate) fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr().addr()
}

/// libpq's `PGTransactionStatusType`: open, and in no transaction.
/// <https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS>
const IDLE: u8 = 0;
/// The connection is bad.
const UNKNOWN: u8 = 4;

/// Opens a connection as psycopg2.pool does: `psycopg2.connect`, looked up now, with the pool's live arguments.
pub(crate) fn connect<'py>(pool: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = pool.py();
    let connect = py.import(intern!(py, "psycopg2"))?.getattr(intern!(py, "connect"))?;
    let args = pool.getattr(intern!(py, "_args"))?;
    let args = PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
    let kwargs = PyDict::new(py);
    kwargs.update(pool.getattr(intern!(py, "_kwargs"))?.cast()?)?;
    connect.call(args, Some(&kwargs))
}

/// Says whether the type's `get_transaction_status` speaks for its connections: the type has the method by itself, and,
/// being one of psycopg2's, has no other idea of when a connection is closed or clean.
pub(crate) fn is_plain_type(class: &Bound<'_, PyType>) -> PyResult<bool> {
    let py = class.py();
    if !class.hasattr(intern!(py, "get_transaction_status"))? {
        return Ok(false);
    }
    let psycopg2s = py.import(intern!(py, "psycopg2.extensions"))?.getattr(intern!(py, "connection"))?;
    if !class.is_subclass(&psycopg2s)? {
        return Ok(true);
    }
    for name in ["closed", "info", "get_transaction_status"] {
        if !class.getattr(name)?.is(&psycopg2s.getattr(name)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Asks the one question of the fast path. Only an open connection in no transaction answers with the integer 0;
/// anything else, and any error, says that a closer look is needed.
#[inline]
pub(crate) fn is_clean(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    static ZERO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = connection.py();
    let status = connection.call_method0(intern!(py, "get_transaction_status"))?;
    // CPython has one object for each small integer. An equal one of another make gets the closer look.
    let zero = ZERO.get_or_try_init(py, || Ok::<_, PyErr>(IDLE.into_pyobject(py)?.into_any().unbind()))?;
    Ok(status.is(zero))
}

/// What a closer look at a returned connection shows.
pub(crate) enum Look {
    /// Open, and in no transaction.
    Clean,
    /// Open, and in a transaction, failed or not; a statement may still be running.
    InTransaction,
    /// Not of any use.
    Broken,
    /// Closed.
    Closed,
}

/// Looks at a returned connection, asking what psycopg2.pool asks, in its order.
pub(crate) fn look_at(connection: &Bound<'_, PyAny>) -> PyResult<Look> {
    let py = connection.py();
    if connection.getattr(intern!(py, "closed"))?.is_truthy()? {
        return Ok(Look::Closed);
    }
    let status = connection.getattr(intern!(py, "info"))?.getattr(intern!(py, "transaction_status"))?;
    Ok(if status.eq(UNKNOWN)? {
        Look::Broken
    } else if status.eq(IDLE)? {
        Look::Clean
    } else {
        Look::InTransaction
    })
}

pub(crate) fn rollback(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(intern!(connection.py(), "rollback")).map(drop)
}

pub(crate) fn commit(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(intern!(connection.py(), "commit")).map(drop)
}

pub(crate) fn close(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(intern!(connection.py(), "close")).map(drop)
}

/// Says whether this is one of psycopg2's asynchronous connections, which neither commit nor roll back.
pub(crate) fn is_async(connection: &Bound<'_, PyAny>) -> bool {
    let flag = connection.getattr(intern!(connection.py(), "async_"));
    // Exactly an integer: a mock's attribute is as true as it is meaningless.
    flag.is_ok_and(|flag| flag.cast_exact::<PyInt>().is_ok_and(|flag| flag.extract::<i32>().is_ok_and(|on| on != 0)))
}

/// Reports what went wrong with a connection that the pool has let go: a line in the log for an `Exception`, and the
/// error itself for anything stronger.
pub(crate) fn report(py: Python<'_>, what: &str, error: PyErr) -> PyResult<()> {
    if !is_plain(py, &error) {
        return Err(error);
    }
    warn(py, &format!("{what} failed; the connection was dropped and its slot is free: {}", describe(py, &error)))
}
