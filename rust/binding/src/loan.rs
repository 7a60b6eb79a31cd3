//! `with pool.connection() as conn`. Written here rather than in Python, where a `KeyboardInterrupt` can strike between
//! the call that lends a connection and the line that guards it.

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};

use crate::check::learn;
use crate::connection;
use crate::error::{both, is_said};
use crate::log::{NOT_RETURNED, report};
use crate::names::name;
use crate::system;
use crate::timeout::Given;

/// A connection that is lent for one block. It comes from the pool's `getconn` and goes back through its `putconn`.
#[pyclass(module = "pgpool_rs._core")]
pub(crate) struct Loan {
    pool: Option<Py<PyAny>>,
    key: Option<Py<PyAny>>,
    timeout: Option<Py<PyAny>>,
    /// Set before the pool is asked, so that nobody enters a second time meanwhile.
    entered: bool,
    /// The process that the connection was lent in.
    process: u64,
    connection: Option<Py<PyAny>>,
}

impl Loan {
    pub(crate) fn new(pool: Py<PyAny>, key: Option<Py<PyAny>>, timeout: Given<'_>) -> Self {
        let timeout = match timeout {
            Given::Nothing => None,
            Given::This(_, timeout) => Some(timeout.unbind()),
        };
        Self { pool: Some(pool), key, timeout, entered: false, process: 0, connection: None }
    }

    fn pool<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let gone = || PyRuntimeError::new_err("this loan has been taken apart by the garbage collector");
        Ok(self.pool.as_ref().ok_or_else(gone)?.bind(py).clone())
    }

    /// Calls the pool's `getconn` with what was given to `connection`, and nothing else.
    fn get<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        // No borrow of `slf` is held while Python code runs.
        let (pool, key, timeout) = {
            let loan = slf.try_borrow()?;
            let given = |object: &Option<Py<PyAny>>| object.as_ref().map(|object| object.clone_ref(py));
            (loan.pool(py)?, given(&loan.key), given(&loan.timeout))
        };
        let args = PyTuple::new(py, key)?;
        let kwargs = timeout.map(|timeout| [("timeout", timeout)].into_py_dict(py)).transpose()?;
        pool.call_method(name!(py, getconn), args, kwargs.as_ref())
    }
}

#[pymethods]
impl Loan {
    /// Borrow the connection.
    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        if std::mem::replace(&mut slf.try_borrow_mut()?.entered, true) {
            return Err(PyRuntimeError::new_err("this loan has been entered already; ask the pool for another one"));
        }
        let lent = Self::get(slf);
        let mut loan = slf.try_borrow_mut()?;
        loan.entered = lent.is_ok();
        let connection = lent?.unbind();
        loan.process = system::process();
        loan.connection = Some(connection.clone_ref(slf.py()));
        Ok(connection)
    }

    /// Commit, or roll back if the block raised, and return the connection whatever happens.
    #[pyo3(signature = (exc_type, exc_value, _traceback))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        exc_type: Option<&Bound<'_, PyAny>>,
        exc_value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let pool = slf.try_borrow()?.pool(py)?;
        let lent = slf.try_borrow_mut()?.connection.take();
        let connection = lent.ok_or_else(|| PyRuntimeError::new_err("this loan was never entered"))?.into_bound(py);
        let mut loan = slf.try_borrow_mut()?;
        if loan.process != system::process() {
            // A fork since then: the connection is the parent's, who goes on using it.
            loan.entered = false;
            return Ok(false);
        }
        drop(loan);
        let failed = exc_type.is_some();
        let learnt = exc_value.map_or(Ok(()), |error| learn(&pool, &connection, error));
        let ended = connection::is_async(&connection).and_then(|is_async| match failed {
            _ if is_async => Ok(()),
            false => connection::commit(&connection),
            true => connection::rollback(&connection),
        });
        let returned = pool.call_method1(name!(py, putconn), (connection,)).map(drop);
        slf.try_borrow_mut()?.entered = false;
        if failed {
            // The block's own exception is the one to be heard; a failed rollback has been dealt with by putconn.
            let unsaid =
                |outcome: PyResult<()>| outcome.or_else(|error| if is_said(py, &error) { Ok(()) } else { Err(error) });
            let returned = returned.or_else(|error| report(pool.cast()?, NOT_RETURNED, error));
            both(py, both(py, unsaid(ended), unsaid(learnt)), returned)?;
        } else {
            both(py, ended, returned)?;
        }
        Ok(false)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for handle in [&self.pool, &self.key, &self.timeout, &self.connection].into_iter().flatten() {
            visit.call(handle)?;
        }
        Ok(())
    }

    fn __clear__(&mut self) {
        // Taken out before they are dropped: what a drop runs must find this loan empty and not borrowed.
        drop((self.pool.take(), self.key.take(), self.timeout.take(), self.connection.take()));
    }
}
