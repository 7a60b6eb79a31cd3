//! `with pool.connection() as conn`. It is written in Rust: in Python, a `KeyboardInterrupt` can strike between the call that
//! lends a connection and the line that guards it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pgpool_core::{Rank, Refusal, SlotId};
use pyo3::exceptions::{PyAttributeError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::arguments::TimeoutArg;
use crate::caller::caller;
use crate::check::learn;
use crate::connection::{self, ReturningConnection};
use crate::error::{Error, both, is_database_error, is_exception};
use crate::fast_path::flags;
use crate::give_back::give_back_loan;
use crate::handle::address;
use crate::keys::{resolve_key_if_any, want_for};
use crate::log::{BLOCK_OVER, RETURN_FAILED, report};
use crate::notes::with_notes;
use crate::pool::AbstractPool;
use crate::python::{getconn_kwargs, imports, name};
use crate::system::{self, now, thread_ident};

/// A connection that is lent for one block. It comes from the pool's `getconn` and goes back through its `putconn`. It goes back,
/// too, if the block never ends: since CPython 3.14 an interrupt can strike between `__enter__` and the body.
#[pyclass(frozen, module = "pgpool_rs._core")]
pub(crate) struct Loan(Mutex<State>);

struct State {
    pool: Option<Py<AbstractPool>>,
    key: Option<Py<PyAny>>,
    timeout: Option<Py<PyAny>>,
    rank: Rank,
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
}

impl Loan {
    pub(crate) fn new(pool: Py<AbstractPool>, key: Option<Py<PyAny>>, timeout: TimeoutArg<'_>, rank: Rank) -> Self {
        let timeout = match timeout {
            TimeoutArg::Missing => None,
            TimeoutArg::Given(_, timeout) => Some(timeout.unbind()),
        };
        Self(Mutex::new(State { pool: Some(pool), key, timeout, rank, entered: false, lent: None }))
    }

    /// Locks the state. No Python code runs meanwhile.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `__enter__`, on the fast path: an idle connection, without a key. `None`: it decides nothing.
    #[inline]
    pub(crate) fn enter_fast(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let mut state = self.state();
        let pool = state.pool.as_ref()?.bind(py).get();
        if state.entered || state.key.is_some() || !pool.has_weak(py) {
            return None;
        }
        let ledger = pool.ledger_unless(flags::GETKEY_HOOK | flags::GETCONN_HOOK | flags::LOANS | flags::BLOCKS)?;
        let (slot, connection) = ledger.lend_idle(thread_ident(), now())?;
        let lent = Lent { connection: connection.held().clone_ref(py), slot: Some(slot), process: system::process() };
        state.entered = true;
        state.lent = Some(lent);
        Some(connection.held().clone_ref(py))
    }

    /// As `__exit__`, on the fast path: the connection is clean, and there is nothing to commit. Gives the connection, which is not
    /// lent any more. `None`: it decides nothing.
    #[inline]
    pub(crate) fn exit_fast(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let mut state = self.state();
        let (lent, pool) = (state.lent.as_ref()?, state.pool.as_ref()?.bind(py).get());
        let ledger = pool.ledger_unless(flags::PUTCONN_HOOK | flags::RETURNS | flags::BLOCKS)?;
        let ends = !lent.is_inherited()
            && pool.has_nothing_to_end(lent.connection.bind(py))
            && ledger.take_back_clean_loan(lent.slot?, now());
        if !ends {
            return None;
        }
        state.entered = false;
        state.lent.take().map(|lent| lent.connection)
    }

    /// Calls the pool's `getconn` with the arguments of `connection()`, and makes sure that the loan is new and this block's alone.
    fn borrow(&self, py: Python<'_>) -> Result<Lent, Error> {
        let (pool, key, timeout, rank) = {
            let state = self.state();
            let given = |object: &Option<Py<PyAny>>| object.as_ref().map(|object| object.bind(py).clone());
            (state.pool(py)?, given(&state.key), given(&state.timeout), state.rank)
        };
        // `__clear__` needs it.
        AbstractPool::weak(&pool)?;
        let (borrower, before) = (caller(py)?, system::process());
        let since = with_notes(&pool, look(&pool, key.as_ref()))?;
        let args = PyTuple::new(py, key)?;
        let kwargs = getconn_kwargs(py, timeout, rank)?;
        let connection = pool.call_method(name!(py, getconn), args, kwargs.as_ref())?;
        let slot = with_notes(&pool, pool.get().ledger().own_loan(address(&connection), borrower, since))?;
        // If a fork came during `getconn`, the connection is the parent's, and the child's ledger does not know it.
        let process = if slot.is_some() { system::process() } else { before };
        Ok(Lent::new(&pool, connection, slot, process))
    }
}

impl State {
    fn pool<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, AbstractPool>> {
        let gone = || PyRuntimeError::new_err("this loan has been taken apart by the garbage collector");
        Ok(self.pool.as_ref().ok_or_else(gone)?.bind(py).clone())
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
    fn new(pool: &Bound<'_, AbstractPool>, connection: Bound<'_, PyAny>, slot: Option<SlotId>, process: u64) -> Self {
        if let Some(slot) = slot.filter(|_| connection.is_instance_of::<ReturningConnection>()) {
            pool.get().blocks().enter(slot);
        }
        Self { connection: connection.unbind(), slot, process }
    }

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
        if let Some(slot) = self.slot.filter(|_| !pool.get().has(flags::GETCONN_OR_PUTCONN | flags::PUTCONN_HOOK)) {
            return give_back_loan(pool, slot, false);
        }
        self.check(pool)?;
        pool.call_method1(name!(pool.py(), putconn), (&self.connection,))?;
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
    fn abandon(self, pool: &Py<AbstractPool>) {
        // At the end of the interpreter there is nothing to return.
        Python::try_attach(|py| {
            let raised = PyErr::take(py);
            let pool = pool.bind(py);
            if !pool.get().is_being_cleared(py) {
                self.leave(pool);
                if !self.is_inherited()
                    && !self.is_over(pool)
                    && let Err(error) = self.give_back(pool)
                {
                    PyErr::from(error).write_unraisable(py, None);
                }
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

fn no_attribute(py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<PyErr> {
    let connections = imports()?.connection.bind(py).hasattr(name)?;
    let hint = if connections { "; use `with pool.connection() as conn:`" } else { "" };
    Ok(PyAttributeError::new_err(format!("'Loan' object has no attribute '{name}'{hint}")))
}

#[pymethods]
impl Loan {
    /// Borrow the connection.
    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if std::mem::replace(&mut self.state().entered, true) {
            return Err(PyRuntimeError::new_err("this loan has been entered already; ask the pool for another one"));
        }
        let lent = self.borrow(py);
        let mut state = self.state();
        state.entered = lent.is_ok();
        let lent = lent?;
        let connection = lent.connection.clone_ref(py);
        state.lent = Some(lent);
        Ok(connection)
    }

    /// Commit, or roll back if the block raised, and return the connection whatever happens. Nothing is done for a loan that
    /// has ended before.
    ///
    /// :raises PoolError: the connection has been returned meanwhile; if the block raised, that is logged.
    #[pyo3(signature = (exc_type, exc_value, _traceback))]
    pub(crate) fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: Option<&Bound<'_, PyAny>>,
        exc_value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (pool, lent) = {
            let mut state = self.state();
            (state.pool(py)?, state.lent.take())
        };
        let lent = lent.ok_or_else(|| PyRuntimeError::new_err("this loan was never entered"))?;
        let ended = lent.end(&pool, exc_value.or(exc_type));
        self.state().entered = false;
        ended
    }

    /// Says how to use a loan, where a program takes it for its connection.
    fn __getattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
        Err(no_attribute(slf.py(), name)?)
    }

    fn __setattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>, _value: Bound<'_, PyAny>) -> PyResult<()> {
        Err(no_attribute(slf.py(), name)?)
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        Err(no_attribute(slf.py(), name)?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(state) = self.0.try_lock() else { return Ok(()) };
        visit.call(&state.pool)?;
        let lent = state.lent.as_ref().map(|lent| &lent.connection);
        [lent, state.key.as_ref(), state.timeout.as_ref()].into_iter().flatten().try_for_each(|held| visit.call(held))
    }

    fn __clear__(&self) {
        // Take them out before dropping them: code that a drop runs must find this loan empty.
        let (lent, pool, rest) = {
            let mut state = self.state();
            (state.lent.take(), state.pool.take(), (state.key.take(), state.timeout.take()))
        };
        if let (Some(lent), Some(pool)) = (lent, &pool) {
            lent.abandon(pool);
        }
        drop((pool, rest));
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.0.get_mut().is_ok_and(|state| state.lent.is_some()) {
            self.__clear__();
        }
    }
}
