//! The class that `ThreadedConnectionPool` inherits: the same pool, and the hooks that psycopg2.pool dispatches to.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyTuple};

use crate::borrow::borrow;
use crate::give_back::give_back;
use crate::patience::Timeout;
use crate::pool::{AbstractPool, Truth, patience};

/// getconn, putconn and closeall of a pool for several threads.
#[pyclass(extends = AbstractPool, subclass, frozen, name = "ThreadedConnectionPool", module = "pgpool_rs._core")]
pub(crate) struct ThreadedPool;

#[pymethods]
impl ThreadedPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(AbstractPool::new()).add_subclass(Self)
    }

    /// Get a free connection and assign it to 'key' if not None.
    #[pyo3(signature = (key=None, *, timeout=Timeout::Unset), text_signature = "($self, key=None, *, timeout=...)")]
    fn getconn(slf: &Bound<'_, Self>, key: Option<&Bound<'_, PyAny>>, timeout: Timeout<'_>) -> PyResult<Py<PyAny>> {
        let pool = slf.as_super();
        if !pool.get().hooks().getconn {
            return Ok(borrow(pool, key, patience(pool, &timeout)?)?);
        }
        let kwargs = match timeout {
            Timeout::Unset => None,
            Timeout::Given(_, timeout) => Some([("timeout", timeout)].into_py_dict(slf.py())?),
        };
        Ok(slf.call_method(intern!(slf.py(), "_getconn"), (key,), kwargs.as_ref())?.unbind())
    }

    /// Put away an unused connection.
    #[pyo3(
        signature = (conn=None, key=None, close=Truth(false)),
        text_signature = "($self, conn=None, key=None, close=False)"
    )]
    fn putconn(
        slf: &Bound<'_, Self>,
        conn: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        close: Truth,
    ) -> PyResult<()> {
        let pool = slf.as_super();
        if !pool.get().hooks().putconn {
            return Ok(give_back(pool, conn, key, close.0)?);
        }
        slf.call_method1(intern!(slf.py(), "_putconn"), (conn, key, close.0)).map(drop)
    }

    /// Close all connections (even the one currently in use.)
    fn closeall(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.call_method0(intern!(slf.py(), "_closeall")).map(drop)
    }
}
