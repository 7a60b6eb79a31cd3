//! `close_returns=True`: a lent connection's `close()` gives it back to its pool.
//!
//! It is written in Rust: in Python, `close()` would need more of the stack than `getconn`, and would fail after a recursion that
//! went too deep.

use pgpool_core::Refusal;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use crate::call::call;
use crate::connection::{ReturningConnection, close_for_good};
use crate::error::is_pool_closed;
use crate::fast_path::flags;
use crate::give_back::finish_or_defer;
use crate::handle::address;
use crate::pool::AbstractPool;
use crate::python::name;
use crate::system::{now, process};

/// The pool that a connection returns to.
#[pyclass(frozen, module = "pgpool_rs._core")]
pub(crate) struct Home {
    pool: Py<PyWeakrefReference>,
    /// The process that the connection was opened in.
    process: u64,
}

#[pymethods]
impl Home {
    #[new]
    fn new(pool: Bound<'_, PyWeakrefReference>) -> Self {
        Self { pool: pool.unbind(), process: process() }
    }
}

#[pymethods]
impl ReturningConnection {
    /// No pool has opened this connection.
    #[classattr]
    fn _pgpool_home() -> Option<()> {
        None
    }

    /// Return the connection to its pool if it is lent, do nothing if it is idle there; else close it.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let home = slf.getattr(name!(py, pgpool_home))?;
        let Ok(home) = home.cast::<Home>() else { return close_for_good(slf) };
        if home.get().process != process() {
            // The connection is the parent's.
            return Ok(());
        }
        let pool = home.get().pool.bind(py).upgrade().and_then(|pool| pool.cast_into::<AbstractPool>().ok());
        let Some(pool) = pool else { return close_for_good(slf) };
        call(py, || return_to(&pool, slf))
    }
}

fn return_to(pool: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    let ledger = pool.get().ledger();
    let Some((loan, _)) = ledger.loan_at(address(connection)) else {
        return if ledger.is_idle(address(connection)) { Ok(()) } else { close_for_good(connection) };
    };
    pool.get().blocks().close(loan);
    if !pool.get().has(flags::GETCONN_OR_PUTCONN | flags::PUTCONN_HOOK) {
        return match ledger.begin_return_of(loan, false, now()) {
            Ok(returning) => Ok(finish_or_defer(pool, returning)?),
            Err(Refusal::Closed) => close_for_good(connection),
            // Another thread has ended the loan.
            Err(_) => Ok(()),
        };
    }
    let putconn = || pool.call_method1(name!(pool.py(), putconn), (connection,));
    match pool.get().blocks().return_once(loan, putconn) {
        // The override itself closes the connection before it returns it.
        None => close_for_good(connection),
        Some(Err(error)) if is_pool_closed(pool.py(), &error) => close_for_good(connection),
        Some(returned) => returned.map(drop),
    }
}
