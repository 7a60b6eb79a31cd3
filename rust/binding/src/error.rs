//! Errors, on their way to Python.

use pgpool_core::Refusal;
use pyo3::exceptions::{PyException, PyMemoryError, PyOSError, PyRecursionError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::python::{Imports, imports};

/// An error that ends a call of ours.
pub(crate) enum Error {
    /// The ledger refused.
    Refused(Refusal),
    /// The pool is not yet open. The text names it.
    Unopened(String),
    /// `putconn` got only a key, under which nothing is lent.
    NotLent,
    /// `max_waiting` callers are already waiting.
    Crowded(String),
    /// A waiter's timeout is over. The text says how long it waited and what it saw.
    TimedOut(String),
    /// As `TimedOut`, since the limit is reached that the pool shares with others.
    Limited(String),
    /// Python code that we called raised.
    Raised(PyErr),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<PyErr> for Error {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => {
                let class = match refusal {
                    Refusal::Closed | Refusal::Unopened => |imports: &'static Imports| &imports.PoolClosed,
                    Refusal::Exhausted | Refusal::Limited => |imports: &'static Imports| &imports.PoolExhausted,
                    Refusal::Unkeyed | Refusal::WrongKey | Refusal::Taken | Refusal::LoanEnded | Refusal::Reentrant => {
                        |imports: &'static Imports| &imports.PoolError
                    }
                };
                new_error(class, &refusal.to_string())
            }
            Error::Unopened(text) => new_error(|imports| &imports.PoolClosed, &text),
            Error::NotLent => {
                let text = format!("{}: nothing is lent under this key", Refusal::Unkeyed);
                new_error(|imports| &imports.PoolError, &text)
            }
            Error::Crowded(text) => new_error(|imports| &imports.TooManyRequests, &text),
            Error::TimedOut(text) | Error::Limited(text) => new_error(|imports| &imports.PoolTimeout, &text),
            Error::Raised(error) => error,
        }
    }
}

/// Makes an exception of one of the imported classes.
///
/// `PyO3`'s own way makes the text later, and panics if there is no memory for it.
pub(crate) fn new_error(class: impl FnOnce(&'static Imports) -> &'static Py<PyAny>, text: &str) -> PyErr {
    Python::attach(|py| {
        let made = imports().and_then(|imports| {
            let text = PyString::from_bytes(py, text.as_bytes())?;
            class(imports).bind(py).call1((text,))
        });
        made.map_or_else(|error| error, PyErr::from_value)
    })
}

/// Says whether an error comes from the database, or from the network to it: `psycopg2.Error` or `OSError`. The pool logs only
/// these. The call raises all others, for instance a job's time limit. A cancelled statement is one of the others: psycopg2's
/// `wait_select` makes one of Ctrl-C.
pub(crate) fn is_database_error(py: Python<'_>, error: &PyErr) -> bool {
    let is_a = |class: &Py<PyAny>| error.is_instance(py, class.bind(py));
    error.is_instance_of::<PyOSError>(py)
        || imports().is_ok_and(|imports| is_a(&imports.Error) && !is_a(&imports.QueryCanceledError))
}

/// Says whether a pool has refused because it is closed.
pub(crate) fn is_pool_closed(py: Python<'_>, error: &PyErr) -> bool {
    imports().is_ok_and(|imports| error.is_instance(py, imports.PoolClosed.bind(py)))
}

/// Says whether a pool has refused because all its connections are in use.
pub(crate) fn is_pool_exhausted(py: Python<'_>, error: &PyErr) -> bool {
    imports().is_ok_and(|imports| error.is_instance(py, imports.PoolExhausted.bind(py)))
}

/// Chooses the one of two errors to raise. Any other error outweighs a database's, an interrupt outweighs an `Exception`, and of
/// equals the first is chosen. The other one becomes its `__context__`, if it has none.
pub(crate) fn weightier(py: Python<'_>, first: PyErr, second: Option<PyErr>) -> PyErr {
    let Some(second) = second else { return first };
    let weight = |error: &PyErr| if is_database_error(py, error) { 0 } else { 1 + u8::from(!is_exception(py, error)) };
    let (raised, other) = if weight(&second) > weight(&first) { (second, first) } else { (first, second) };
    // Make no circle of contexts: not all of Python expects one.
    let mut chain = std::iter::successors(Some(other.clone_ref(py)), |error| error.context(py)).take(LONGEST_CHAIN);
    if raised.context(py).is_none() && chain.all(|error| !error.value(py).is(raised.value(py))) {
        raised.set_context(py, Some(other));
    }
    raised
}

/// How many contexts are looked through at most.
const LONGEST_CHAIN: usize = 100;

/// Gives the error of two outcomes; where both are errors, the [`weightier`].
pub(crate) fn both(py: Python<'_>, first: PyResult<()>, second: PyResult<()>) -> PyResult<()> {
    match (first, second) {
        (Err(first), second) => Err(weightier(py, first, second.err())),
        (Ok(()), second) => second,
    }
}

/// Takes all of these outcomes, and gives the weightiest error.
pub(crate) fn every(py: Python<'_>, outcomes: impl Iterator<Item = PyResult<()>>) -> PyResult<()> {
    let mut done = Ok(());
    for outcome in outcomes {
        done = both(py, done, outcome);
    }
    done
}

/// Says whether the interpreter had no stack or no memory left.
pub(crate) fn is_shortage(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyRecursionError>(py) || error.is_instance_of::<PyMemoryError>(py)
}

/// Says whether `error` is an `Exception`, and not a `KeyboardInterrupt`, a `GreenletExit` or the like.
pub(crate) fn is_exception(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyException>(py)
}
