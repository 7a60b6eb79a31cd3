//! Loans that leak: where each loan was made, which are out now, and which connections their borrowers have forgotten.

use std::sync::{Arc, Mutex, PoisonError};

use pgpool_core::{CloseReason, LoanReport, SlotId};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyFrame, PyFrameMethods, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::call::{edit, is_logging};
use crate::caller::caller;
use crate::error::every;
use crate::handle::Handle;
use crate::keys::loan_key;
use crate::log::{RECLAIMED, log, masked};
use crate::news::{News, tell};
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::system::{float, int, now};
use crate::text::text_of;
use crate::wait::poke_quietly;

/// How many frames of a borrower's stack are recorded, from the innermost out.
const FRAMES: usize = 10;

/// Records the stack of a new loan, and holds its connection weakly, if the options ask for it.
pub(crate) fn begin(pool: &Bound<'_, AbstractPool>, loan: SlotId, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    let options = pool.get().options();
    if options.record {
        let note = record(pool.py())?.into_any();
        pool.get().ledger().annotate(loan, Handle::of(&note));
    }
    if options.reclaim
        && let Some(handle) = pool.get().ledger().unkeyed(loan)
        && let Some(weak) = weak_handle(pool, &handle, connection, loan)?
    {
        pool.get().ledger().replace_handle(loan, weak);
    }
    Ok(())
}

/// Gives the weak handle for a loan of a connection. It is made for the first loan of the connection and used again for the others,
/// unless it is dead: the garbage collector kills the references to all that it takes apart, before a `__del__` there may lend again.
fn weak_handle(
    pool: &Bound<'_, AbstractPool>,
    handle: &Handle,
    connection: &Bound<'_, PyAny>,
    loan: SlotId,
) -> PyResult<Option<Arc<Handle>>> {
    if let Handle::Object(Some(weak), _) = handle
        && let Handle::Weak(reference, ends) = &**weak
        && reference.bind(pool.py()).upgrade().is_some()
    {
        *ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(loan);
        return Ok(Some(Arc::clone(weak)));
    }
    if !is_whole(connection)? {
        return Ok(None);
    }
    let ends = Arc::new(Mutex::new(Some(loan)));
    let forgotten = Forgotten { pool: AbstractPool::weak(pool)?, ends: Arc::clone(&ends) };
    match PyWeakrefReference::new_with(connection, Bound::new(pool.py(), forgotten)?) {
        Ok(weak) => Ok(Some(Arc::new(Handle::Weak(weak.unbind(), ends)))),
        // The pool keeps an object that takes no weak reference.
        Err(error) if error.is_instance_of::<PyTypeError>(pool.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says whether all that uses the connection, a cursor too, holds this very object, as with psycopg2's own connections. A borrower
/// may forget a proxy while its cursor uses the connection in it.
fn is_whole(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = connection.py();
    let class = connection.get_type();
    let psycopg2s = imports()?.connection.bind(py);
    Ok(class.is_subclass(psycopg2s)? || class.hasattr(name!(py, pgpool_whole))?)
}

/// Makes what is made once, before there are threads.
pub(crate) fn prepare(py: Python<'_>) {
    py.get_type::<Forgotten>();
}

/// Records the stack: each frame's code and its offset there. `_loans` looks the lines up when a program reads them. The record keeps
/// no variable alive.
fn record(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    let innermost = imports()?.get_frame.bind(py).call0()?.cast_into::<PyFrame>().ok();
    let mut frames = Vec::with_capacity(2 * FRAMES);
    for frame in std::iter::successors(innermost, PyFrameMethods::outer).take(FRAMES) {
        frames.push(frame.code().into_any());
        frames.push(frame.getattr(name!(py, f_lasti))?);
    }
    // If there is no memory for a frame, CPython gives none and sets an error.
    PyErr::take(py).map_or_else(|| PyTuple::new(py, frames), Err)
}

/// Describes a loan and its stack, for the log.
pub(crate) fn describe_loan(pool: &Bound<'_, AbstractPool>, loan: &LoanReport<Handle>) -> PyResult<String> {
    let py = pool.py();
    let text = text_of(&imports()?.describe_loan.bind(py).call1((loan_info(py, loan)?,))?)?;
    // A key or a line of source may show a secret of the pool.
    Ok(masked(pool, text).unwrap_or_default())
}

/// Makes the `LoanInfo` of a loan.
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

/// Logs the loans that their borrowers forgot.
pub(crate) fn log_forgotten(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let this = pool.get();
    // The ledger gives them once, and a handler's own calls log nothing.
    if !this.options().reclaim || !this.ledger().has_forgotten() || is_logging(caller(pool.py())?) {
        return Ok(());
    }
    let forgotten = this.ledger().take_forgotten();
    every(
        pool.py(),
        forgotten.into_iter().map(|known| {
            tell(pool, News::Closed(CloseReason::Reclaimed));
            log(pool, RECLAIMED, || (known,))
        }),
    )
}

/// The callback of the weak reference to a lent connection: its borrower has forgotten it.
#[pyclass(frozen, module = "pgpool_rs._core")]
struct Forgotten {
    pool: Py<PyWeakrefReference>,
    /// The last loan of the connection.
    ends: Arc<Mutex<Option<SlotId>>>,
}

#[pymethods]
impl Forgotten {
    fn __call__(&self, reference: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = reference.py();
        let pool = self.pool.bind(py).upgrade();
        let Some(pool) = pool.and_then(|pool| pool.cast_into::<AbstractPool>().ok()) else { return Ok(()) };
        let ledger = pool.get().ledger();
        let Some(slot) = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let Some(loan) = ledger.loan_report(slot, now()) else { return Ok(()) };
        let (known, failed) =
            describe_loan(&pool, &loan).map_or_else(|error| (None, Err(error)), |text| (Some(text), Ok(())));
        // The connection closes only after this callback, so another call writes the line: a log handler may be slow.
        let freed = edit(py, || ledger.reclaim(slot, known, now()));
        // The collector may call this anywhere, so it starts no thread.
        let poked = if let Ok(false) = freed { Ok(()) } else { poke_quietly(&pool).map(drop) };
        failed.and(freed).map(drop).and(poked)
    }
}
