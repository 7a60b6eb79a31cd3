//! Keeping an eye on loans: where each was made, what is out now, and what its borrower has forgotten.

use std::sync::Arc;

use pgpool_core::{LoanReport, SlotId};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyFrame, PyFrameMethods, PyTuple, PyWeakrefReference};

use crate::call::edit;
use crate::handle::Handle;
use crate::keys::loan_key;
use crate::log::{LATE, RECLAIMED, log, masked};
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::system::{float, int, now};
use crate::text::text_of;
use crate::wait::poke_quietly;

/// How many frames of a borrower's stack are recorded, from the innermost out.
const FRAMES: usize = 10;

/// Does to a new loan what the options ask for.
pub(crate) fn begin(pool: &Bound<'_, AbstractPool>, loan: SlotId, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    let options = pool.get().options();
    if options.record {
        let note = record(pool.py())?.into_any().unbind();
        pool.get().ledger().annotate(loan, Arc::new(Handle::Object(note)));
    }
    if options.reclaim && is_whole(connection)? && pool.get().ledger().is_unkeyed(loan) {
        let forgotten = Forgotten { pool: PyWeakrefReference::new(pool)?.unbind(), slot: loan };
        match PyWeakrefReference::new_with(connection, Bound::new(pool.py(), forgotten)?) {
            Ok(weak) => pool.get().ledger().replace_handle(loan, Arc::new(Handle::Weak(weak.into_any().unbind()))),
            // What cannot be referred to weakly stays with the pool.
            Err(error) if error.is_instance_of::<PyTypeError>(pool.py()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says whether whatever uses the connection, a cursor too, holds this very object. That is so of psycopg2's own connections.
/// A proxy may be forgotten while the connection in it is in use.
fn is_whole(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = connection.py();
    let class = connection.get_type();
    let psycopg2s = imports()?.connection.bind(py);
    Ok(class.is_subclass(psycopg2s)? || class.hasattr(name!(py, pgpool_whole))?)
}

/// Makes now what is made once.
pub(crate) fn prepare(py: Python<'_>) {
    py.get_type::<Forgotten>();
}

/// Records the stack: each frame's code and where it stands in it. Its lines are looked up when somebody asks, and its
/// variables are not kept alive.
fn record(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    let innermost = imports()?.get_frame.bind(py).call0()?.cast_into::<PyFrame>().ok();
    let mut frames = Vec::with_capacity(2 * FRAMES);
    for frame in std::iter::successors(innermost, PyFrameMethods::outer).take(FRAMES) {
        frames.push(frame.code().into_any());
        frames.push(frame.getattr(name!(py, f_lasti))?);
    }
    // Where there is no memory for a frame, CPython gives none, and sets an error.
    PyErr::take(py).map_or_else(|| PyTuple::new(py, frames), Err)
}

/// Describes a loan in a line of a log, and the lines of its stack.
pub(crate) fn describe_loan(pool: &Bound<'_, AbstractPool>, loan: &LoanReport<Handle>) -> PyResult<String> {
    let py = pool.py();
    let text = text_of(&imports()?.describe_loan.bind(py).call1((loan_info(py, loan)?,))?)?;
    // A key, or a line of source, may show one of the pool's secrets.
    Ok(masked(pool, text).unwrap_or_default())
}

/// Shows a loan to Python.
fn loan_info<'py>(py: Python<'py>, loan: &LoanReport<Handle>) -> PyResult<Bound<'py, PyAny>> {
    let note = loan.note.as_ref().map(|note| note.object(py)).transpose()?;
    let fields = (loan_key(py, &loan.key)?, float(py, loan.age.as_secs_f64())?, int(py, loan.borrower)?, note);
    imports()?.make_loan.bind(py).call1(fields)
}

/// Lists what is lent now, the oldest first.
pub(crate) fn loans<'py>(pool: &Bound<'py, AbstractPool>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let loans = edit(pool.py(), || pool.get().ledger().loans(now()))?;
    loans.iter().map(|(loan, _)| loan_info(pool.py(), loan)).collect()
}

/// Says in the log that a loan which had been reported has come back.
pub(crate) fn log_late(pool: &Bound<'_, AbstractPool>, seconds: f64) -> PyResult<()> {
    log(pool, LATE, || (seconds,))
}

/// Says in the log which loans were forgotten.
pub(crate) fn log_forgotten(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    if !pool.get().options().reclaim {
        return Ok(());
    }
    pool.get().ledger().take_forgotten().into_iter().try_for_each(|known| log(pool, RECLAIMED, || (known,)))
}

/// What is called when a lent connection is gone, and nobody has returned it.
#[pyclass(frozen, module = "pgpool_rs._core")]
struct Forgotten {
    pool: Py<PyWeakrefReference>,
    slot: SlotId,
}

#[pymethods]
impl Forgotten {
    fn __call__(&self, reference: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = reference.py();
        let pool = self.pool.bind(py).upgrade();
        let Some(pool) = pool.and_then(|pool| pool.cast_into::<AbstractPool>().ok()) else { return Ok(()) };
        let ledger = pool.get().ledger();
        let Some(loan) = ledger.loan_report(self.slot, now()) else { return Ok(()) };
        let (known, failed) =
            describe_loan(&pool, &loan).map_or_else(|error| (None, Err(error)), |text| (Some(text), Ok(())));
        // The connection is closed only after this, so a log that takes its time is for another call.
        let freed = edit(py, || ledger.reclaim(self.slot, known, now()));
        // No thread is started in the midst of anything.
        let poked = if let Ok(false) = freed { Ok(()) } else { poke_quietly(&pool) };
        failed.and(freed).map(drop).and(poked)
    }
}
