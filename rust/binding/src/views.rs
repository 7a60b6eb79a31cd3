//! The functions behind the live views `_pool`, `_used` and `_rused`, which programs read and write.

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;

use crate::call::{call, edit};
use crate::handle::{Handle, address};
use crate::keys::{loan_key, resolve_key, want_for};
use crate::pool::AbstractPool;
use crate::system::now;

/// List the idle connections, the next to be lent last.
#[pyfunction]
pub(crate) fn idle<'py>(pool: &Bound<'py, AbstractPool>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let idle = edit(pool.py(), || pool.get().ledger().idle())?;
    idle.iter().map(|connection| connection.object(pool.py())).collect()
}

/// Replace the list of idle connections if it still is `seen`; return whether it was.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "an argument is what it was converted to")]
pub(crate) fn replace_idle(
    pool: &Bound<'_, AbstractPool>,
    seen: Vec<Bound<'_, PyAny>>,
    wanted: Vec<Bound<'_, PyAny>>,
) -> PyResult<bool> {
    let seen: Vec<_> = seen.iter().map(address).collect();
    let wanted = wanted.iter().map(|connection| (address(connection), Handle::of(connection)));
    let wanted = wanted.collect();
    edit(pool.py(), || pool.get().ledger().replace_idle(&seen, wanted, now()))
}

/// List the loans as (key, connection), the oldest first.
#[pyfunction]
pub(crate) fn lent<'py>(pool: &Bound<'py, AbstractPool>) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
    let py = pool.py();
    let mut shown = Vec::new();
    for (key, connection) in edit(py, || pool.get().ledger().lent())? {
        // A connection that its borrower has forgotten is about to be removed.
        if let Some(connection) = connection.living(py) {
            shown.push((loan_key(py, &key)?, connection));
        }
    }
    Ok(shown)
}

/// Count the loans.
#[pyfunction]
pub(crate) fn count_lent(pool: &Bound<'_, AbstractPool>) -> PyResult<usize> {
    edit(pool.py(), || pool.get().ledger().counts().lent)
}

/// Find the connection that is lent under `key`; None if nothing is.
#[pyfunction]
pub(crate) fn loan<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut want = want_for(key)?;
    let found = call(pool.py(), || resolve_key(pool.py(), &mut want, |want| pool.get().ledger().loan(want)))?;
    Ok(found.and_then(|connection| connection.living(pool.py())))
}

/// Find the key under which the connection with this `id()` is lent, as a tuple of one; None if it is not lent.
#[pyfunction]
pub(crate) fn key_of<'py>(
    pool: &Bound<'py, AbstractPool>,
    ident: &Bound<'py, PyAny>,
) -> PyResult<Option<(Bound<'py, PyAny>,)>> {
    let py = pool.py();
    let key = match ident.extract() {
        Ok(ident) => edit(py, || pool.get().ledger().loan_at(ident))?.map(|(_, key)| key),
        // It is no address.
        Err(error) if error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyOverflowError>(py) => None,
        Err(error) => return Err(error),
    };
    key.map(|key| Ok((loan_key(py, &key)?,))).transpose()
}

/// Enter a loan that a program made elsewhere. It replaces one under the same key.
#[pyfunction]
pub(crate) fn enter_loan(
    pool: &Bound<'_, AbstractPool>,
    key: &Bound<'_, PyAny>,
    connection: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let handle = Handle::of(connection);
    let place = address(connection);
    let mut want = want_for(key)?;
    let enter = |want: &_| pool.get().ledger().insert_loan(want, place, &handle, now());
    call(pool.py(), || resolve_key(pool.py(), &mut want, enter))
}

/// Remove a loan; return its connection, or None if nothing is lent under `key`.
#[pyfunction]
pub(crate) fn strike_loan<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut want = want_for(key)?;
    let struck = call(pool.py(), || resolve_key(pool.py(), &mut want, |want| pool.get().ledger().remove_loan(want)))?;
    Ok(struck.and_then(|connection| connection.living(pool.py())))
}
