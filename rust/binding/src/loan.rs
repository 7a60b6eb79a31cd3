//! `with pool.connection() as conn`. It is written in Rust: in Python, a `KeyboardInterrupt` can strike between the call that
//! lends a connection and the line that guards it.

use pgpool_core::{Refusal, SlotId};
use pyo3::exceptions::{PyAttributeError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyWeakrefReference};

use crate::arguments::TimeoutArg;
use crate::caller::caller;
use crate::check::learn;
use crate::connection::{self, ReturningConnection};
use crate::error::{Error, both, is_database_error, is_exception};
use crate::give_back::{give_back_loan, putconn_of};
use crate::handle::address;
use crate::keys::{resolve_key_if_any, want_for};
use crate::log::{BLOCK_OVER, RETURN_FAILED, report};
use crate::notes::with_notes;
use crate::pool::AbstractPool;
use crate::python::{by_name, imports, name};
use crate::system;

/// A connection that is lent for one block. It comes from the pool's `getconn` and goes back through its `putconn`. It goes back,
/// too, if the block never ends: since CPython 3.14 an interrupt can strike between `__enter__` and the body.
#[pyclass(module = "pgpool_rs._core")]
pub(crate) struct Loan {
    pool: Option<Py<AbstractPool>>,
    key: Option<Py<PyAny>>,
    timeout: Option<Py<PyAny>>,
    /// Set before `getconn` is called, so that a second `__enter__` is refused meanwhile.
    entered: bool,
    lent: Option<Lent>,
}

/// What a block has borrowed.
struct Lent {
    connection: Py<PyAny>,
    /// The loan. `None` for an object that the ledger does not know: a subclass may lend a proxy.
    slot: Option<SlotId>,
    /// The process that it was lent in.
    process: u64,
    /// Weak, so that it is dead once the garbage collector takes the pool apart.
    pool: Py<PyWeakrefReference>,
}

impl Loan {
    pub(crate) fn new(pool: Py<AbstractPool>, key: Option<Py<PyAny>>, timeout: TimeoutArg<'_>) -> Self {
        let timeout = match timeout {
            TimeoutArg::Missing => None,
            TimeoutArg::Given(_, timeout) => Some(timeout.unbind()),
        };
        Self { pool: Some(pool), key, timeout, entered: false, lent: None }
    }

    fn pool<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, AbstractPool>> {
        let gone = || PyRuntimeError::new_err("this loan has been taken apart by the garbage collector");
        Ok(self.pool.as_ref().ok_or_else(gone)?.bind(py).clone())
    }

    /// Calls the pool's `getconn` with the arguments of `connection()`, and makes sure that the loan is new and this block's alone.
    fn borrow(slf: &Bound<'_, Self>) -> Result<Lent, Error> {
        let py = slf.py();
        // No borrow of `slf` is held while Python code runs.
        let (pool, key, timeout) = {
            let loan = slf.try_borrow().map_err(PyErr::from)?;
            let given = |object: &Option<Py<PyAny>>| object.as_ref().map(|object| object.bind(py).clone());
            (loan.pool(py)?, given(&loan.key), given(&loan.timeout))
        };
        let (borrower, before) = (caller(py)?, system::process());
        let weak = PyWeakrefReference::new(&pool)?.unbind();
        let since = look(&pool, key.as_ref())?;
        let args = PyTuple::new(py, key)?;
        let kwargs = timeout.map(|timeout| by_name(name!(py, timeout), timeout)).transpose()?;
        let connection = pool.call_method(name!(py, getconn), args, kwargs.as_ref())?;
        let slot = pool.get().ledger().own_loan(address(&connection), borrower, since)?;
        if let Some(slot) = slot.filter(|_| connection.is_instance_of::<ReturningConnection>()) {
            pool.get().blocks().enter(slot);
        }
        // If a fork came during `getconn`, the connection is the parent's, and the child's ledger does not know it.
        let process = if slot.is_some() { system::process() } else { before };
        Ok(Lent { connection: connection.unbind(), slot, process, pool: weak })
    }
}

/// Refuses a key that is lent. If the key cannot be hashed or compared, leaves the error to `getconn`.
fn look(pool: &Bound<'_, AbstractPool>, key: Option<&Bound<'_, PyAny>>) -> Result<u64, Error> {
    let (py, ledger) = (pool.py(), pool.get().ledger());
    let looked = key.map(want_for).transpose().map_err(Error::from);
    let looked = looked.and_then(|mut want| resolve_key_if_any(py, &mut want, |want| ledger.begin_block(want)));
    match looked {
        Err(Error::Raised(error)) if is_exception(py, &error) => {
            resolve_key_if_any(py, &mut None, |_| ledger.begin_block(None))
        }
        looked => looked,
    }
}

impl Lent {
    /// Says whether a fork has come since: then the connection is the parent's, which goes on using it.
    fn is_inherited(&self) -> bool {
        self.process != system::process()
    }

    /// Says whether the loan has ended.
    fn is_over(&self, pool: &Bound<'_, AbstractPool>) -> bool {
        self.slot.is_some_and(|slot| !pool.get().ledger().is_lent(slot))
    }

    /// Refuses if the loan has ended.
    fn check(&self, pool: &Bound<'_, AbstractPool>) -> Result<(), Error> {
        if self.is_over(pool) { with_notes(pool, Err(Refusal::LoanEnded)) } else { Ok(()) }
    }

    /// Removes the block from the pool's list. Says whether its body called `close()`, if that returns the connection.
    fn leave(&self, pool: &Bound<'_, AbstractPool>) -> bool {
        self.slot.is_some_and(|slot| pool.get().blocks().leave(slot))
    }

    /// Forgets the loan in the child of a fork: the parent returns the connection.
    fn forget(&self, pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
        let (py, place) = (pool.py(), address(self.connection.bind(pool.py())));
        resolve_key_if_any(py, &mut None, |_| pool.get().ledger().forget_inherited(Some(place), None))?;
        Ok(())
    }

    /// Returns the connection through the pool's `putconn`.
    fn give_back(&self, pool: &Bound<'_, AbstractPool>) -> Result<(), Error> {
        let (putconn, native) = putconn_of(pool);
        if let Some(slot) = self.slot.filter(|_| native) {
            return give_back_loan(pool, slot, false);
        }
        self.check(pool)?;
        putconn?.call1((&self.connection,))?;
        Ok(())
    }

    /// Ends a block: commits, or rolls back if it has `failed`, and returns the connection whatever happens.
    fn end(&self, pool: &Bound<'_, AbstractPool>, failed: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let closed = self.leave(pool);
        if self.is_inherited() {
            return self.forget(pool);
        }
        if closed && self.is_over(pool) {
            return Ok(());
        }
        let py = pool.py();
        if let Err(error) = self.check(pool) {
            // Python raises the block's own exception.
            let error = PyErr::from(error);
            return if failed.is_some() { report(pool, BLOCK_OVER, error) } else { Err(error) };
        }
        let learnt = match (self.slot, failed) {
            (Some(slot), Some(error)) => learn(pool, slot, self.connection.bind(py), error),
            _ => Ok(()),
        };
        let ended = end_transaction(self.connection.bind(py), failed.is_some());
        if self.is_inherited() {
            return self.forget(pool);
        }
        let returned = self.give_back(pool).map_err(PyErr::from);
        if failed.is_none() {
            return both(py, ended, returned);
        }
        // Python raises the block's own exception; putconn has dealt with a failed rollback.
        let unsaid = |outcome: PyResult<()>| {
            outcome.or_else(|error| if is_database_error(py, &error) { Ok(()) } else { Err(error) })
        };
        let returned = returned.or_else(|error| report(pool, RETURN_FAILED, error));
        both(py, both(py, unsaid(ended), unsaid(learnt)), returned)
    }

    /// Returns the connection of a block that was entered and never ends. The garbage collector may call it anywhere, so it raises
    /// nothing.
    fn abandon(self) {
        // At the end of the interpreter there is nothing to return.
        Python::try_attach(|py| {
            let raised = PyErr::take(py);
            let pool = self.pool.bind(py).upgrade().and_then(|pool| pool.cast_into::<AbstractPool>().ok());
            pool.as_ref().map(|pool| self.leave(pool));
            let pool = pool.filter(|pool| !self.is_inherited() && !self.is_over(pool));
            let returned = pool.map_or(Ok(()), |pool| self.give_back(&pool).map_err(PyErr::from));
            if let Err(error) = returned {
                error.write_unraisable(py, None);
            }
            if let Some(raised) = raised {
                raised.restore(py);
            }
        });
    }
}

/// Ends the transaction of a block, unless the block has closed the connection.
fn end_transaction(connection: &Bound<'_, PyAny>, failed: bool) -> PyResult<()> {
    if connection::is_async(connection)? || connection::is_closed_properly(connection)? {
        return Ok(());
    }
    if failed { connection::rollback(connection) } else { connection::commit(connection) }
}

#[pymethods]
impl Loan {
    /// Borrow the connection.
    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        if std::mem::replace(&mut slf.try_borrow_mut()?.entered, true) {
            return Err(PyRuntimeError::new_err("this loan has been entered already; ask the pool for another one"));
        }
        let lent = Self::borrow(slf);
        let mut loan = slf.try_borrow_mut()?;
        loan.entered = lent.is_ok();
        let lent = lent?;
        let connection = lent.connection.clone_ref(slf.py());
        loan.lent = Some(lent);
        Ok(connection)
    }

    /// Commit, or roll back if the block raised, and return the connection whatever happens. Nothing is done for a loan that
    /// has ended before.
    ///
    /// :raises PoolError: the connection has been returned meanwhile; if the block raised, that is logged.
    #[pyo3(signature = (exc_type, exc_value, _traceback))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        exc_type: Option<&Bound<'_, PyAny>>,
        exc_value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let pool = slf.try_borrow()?.pool(slf.py())?;
        let lent = slf.try_borrow_mut()?.lent.take();
        let lent = lent.ok_or_else(|| PyRuntimeError::new_err("this loan was never entered"))?;
        let ended = lent.end(&pool, exc_value.or(exc_type));
        slf.try_borrow_mut()?.entered = false;
        ended
    }

    /// Says how to use a loan, where a program takes it for its connection.
    fn __getattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let connection = imports()?.connection.bind(py);
        let hint = if connection.hasattr(name)? { "; use `with pool.connection() as conn:`" } else { "" };
        Err(PyAttributeError::new_err(format!("'Loan' object has no attribute '{name}'{hint}")))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)?;
        let lent = self.lent.as_ref();
        lent.map_or(Ok(()), |lent| visit.call(&lent.connection).and_then(|()| visit.call(&lent.pool)))?;
        [&self.key, &self.timeout].into_iter().flatten().try_for_each(|handle| visit.call(handle))
    }

    fn __clear__(&mut self) {
        // Take them out before dropping them: code that a drop runs must find this loan empty.
        if let Some(lent) = self.lent.take() {
            lent.abandon();
        }
        drop((self.pool.take(), self.key.take(), self.timeout.take()));
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take() {
            lent.abandon();
        }
    }
}
