//! The class that `ThreadedConnectionPool` inherits: the same pool, and the hooks that psycopg2.pool dispatches to.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyTuple};

use crate::borrow::borrow;
use crate::give_back::give_back;
use crate::pool::{AbstractPool, timeout_of};
use crate::python::{by_name, name};
use crate::timeout::Given;

/// getconn, putconn and closeall of a pool for several threads.
#[pyclass(extends = AbstractPool, subclass, frozen, name = "ThreadedConnectionPool", module = "pgpool_rs._core")]
pub(crate) struct ThreadedPool;

/// A flag, to be tested for truth or passed on to a hook as it is; False, if it was not given.
pub(crate) struct Flag<'py>(pub(crate) Option<Bound<'py, PyAny>>);

impl Flag<'_> {
    pub(crate) fn is_truthy(&self) -> PyResult<bool> {
        self.0.as_ref().map_or(Ok(false), PyAnyMethods::is_truthy)
    }
}

impl<'py> FromPyObject<'_, 'py> for Flag<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(given.to_owned())))
    }
}

#[pymethods]
impl ThreadedPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(AbstractPool::new()).add_subclass(Self)
    }

    /// Lend a connection; return it with `putconn`.
    ///
    /// :param key: what to lend it under; the same key gets the same connection until it is returned.
    /// :param timeout: how many seconds to wait where every connection is lent. 0 refuses at once, None waits for ever;
    ///     left out, it is the pool's own.
    /// :raises PoolClosed: the pool is closed, or was closed meanwhile.
    /// :raises PoolExhausted: every connection is lent, and `timeout` is 0.
    /// :raises PoolTimeout: no connection came free in time.
    /// :raises psycopg2.Error: a connection could not be opened.
    #[pyo3(signature = (key=None, *, timeout=Given::Nothing), text_signature = "($self, key=None, *, timeout=...)")]
    fn getconn(slf: &Bound<'_, Self>, key: Option<&Bound<'_, PyAny>>, timeout: Given<'_>) -> PyResult<Py<PyAny>> {
        let pool = slf.as_super();
        if !pool.get().hooks().getconn {
            return borrow(pool, key, timeout_of(pool, &timeout)?);
        }
        let kwargs = match timeout {
            Given::Nothing => None,
            Given::This(_, timeout) => Some(by_name(name!(slf.py(), timeout), timeout)?),
        };
        Ok(slf.call_method(name!(slf.py(), getconn_hook), (key,), kwargs.as_ref())?.unbind())
    }

    /// Take a connection back. One in a transaction is rolled back; one that is broken, or not needed, is closed.
    ///
    /// :param conn: the connection; or None, to return what is lent under `key`.
    /// :param key: what it was lent under; it need not be given.
    /// :param close: close it in any case.
    /// :raises PoolClosed: the pool is closed, and so is the connection.
    /// :raises PoolError: it is not lent, or not under this key. Nothing has changed.
    #[pyo3(
        signature = (conn=None, key=None, close=Flag(None)),
        text_signature = "($self, conn=None, key=None, close=False)"
    )]
    pub(crate) fn putconn(
        slf: &Bound<'_, Self>,
        conn: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        close: Flag<'_>,
    ) -> PyResult<()> {
        let pool = slf.as_super();
        if !pool.get().hooks().putconn {
            return Ok(give_back(pool, conn, key, close.is_truthy()?)?);
        }
        let py = slf.py();
        let close = close.0.unwrap_or_else(|| PyBool::new(py, false).to_owned().into_any());
        slf.call_method1(name!(py, putconn_hook), (conn, key, close)).map(drop)
    }

    /// Close every connection, lent ones too, under their borrowers, and refuse everything from then on.
    ///
    /// :raises PoolClosed: the pool is closed already.
    fn closeall(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.call_method0(name!(slf.py(), closeall_hook)).map(drop)
    }
}
