//! What the live views `_pool`, `_used` and `_rused` are made of. Other people's code reads them and writes into them.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::connection::{Handle, address};
use crate::filing::{Filing, loan_key};
use crate::pool::AbstractPool;

/// List the idle connections, the next to be lent last.
#[pyfunction]
pub(crate) fn idle(pool: &Bound<'_, AbstractPool>) -> Vec<Handle> {
    pool.get().pool.idle().iter().map(|connection| connection.clone_ref(pool.py())).collect()
}

/// Replace the list of idle connections if it still is `seen`; return whether it was.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "an argument is what it was converted to")]
pub(crate) fn replace_idle(
    pool: &Bound<'_, AbstractPool>,
    seen: Vec<Bound<'_, PyAny>>,
    wanted: Vec<Bound<'_, PyAny>>,
) -> bool {
    let seen: Vec<_> = seen.iter().map(address).collect();
    let wanted = wanted.iter().map(|connection| (address(connection), Arc::new(connection.clone().unbind())));
    pool.get().pool.replace_idle(&seen, wanted.collect())
}

/// List the loans as (key, connection), the oldest first.
#[pyfunction]
pub(crate) fn lent<'py>(pool: &Bound<'py, AbstractPool>) -> PyResult<Vec<(Bound<'py, PyAny>, Handle)>> {
    let py = pool.py();
    let lent = pool.get().pool.lent();
    lent.iter().map(|(key, connection)| Ok((loan_key(py, key)?, connection.clone_ref(py)))).collect()
}

/// Enter a loan that was made elsewhere, in the place of one under the same key.
#[pyfunction]
pub(crate) fn enter_loan(
    pool: &Bound<'_, AbstractPool>,
    key: &Bound<'_, PyAny>,
    connection: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let mut filing = Filing::under(key)?;
    let handle = Arc::new(connection.clone().unbind());
    let place = address(connection);
    while let Err(candidates) = pool.get().pool.enter_loan(&filing.want(), place, Arc::clone(&handle)) {
        filing.compare(pool.py(), &candidates)?;
    }
    Ok(())
}

/// Strike a loan out of the books; return its connection, or None if nothing is lent under `key`.
#[pyfunction]
pub(crate) fn strike_loan(pool: &Bound<'_, AbstractPool>, key: &Bound<'_, PyAny>) -> PyResult<Option<Handle>> {
    let mut filing = Filing::under(key)?;
    loop {
        match pool.get().pool.strike_loan(&filing.want()) {
            Ok(connection) => return Ok(connection.map(|connection| connection.clone_ref(pool.py()))),
            Err(candidates) => filing.compare(pool.py(), &candidates)?,
        }
    }
}
