//! Errors, on their way to Python.

use pgpool_core::Refusal;
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::names::{class, module, name};

/// An error that ends a call of ours.
pub(crate) enum Error {
    /// The ledger refused.
    Refused(Refusal),
    /// What is lent under a key was to come back, and nothing is.
    NotLent,
    /// As many wait as may.
    Crowded(String),
    /// A waiter's time is over; the text says how long it waited and what it saw.
    TimedOut(String),
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
                    Refusal::Closed => &POOL_CLOSED,
                    Refusal::Exhausted => &POOL_EXHAUSTED,
                    Refusal::Unkeyed | Refusal::WrongKey | Refusal::Taken | Refusal::LoanEnded | Refusal::Reentrant => {
                        &POOL_ERROR
                    }
                };
                class.error(&refusal.to_string())
            }
            Error::NotLent => POOL_ERROR.error(&format!("{}: nothing is lent under this key", Refusal::Unkeyed)),
            Error::Crowded(text) => TOO_MANY_REQUESTS.error(&text),
            Error::TimedOut(text) => POOL_TIMEOUT.error(&text),
            Error::Raised(error) => error,
        }
    }
}

/// One of the exceptions of `pgpool_rs.errors`.
struct Class(&'static str);

const POOL_ERROR: Class = Class("pgpool_rs.errors.PoolError");
const POOL_CLOSED: Class = Class("pgpool_rs.errors.PoolClosed");
const POOL_EXHAUSTED: Class = Class("pgpool_rs.errors.PoolExhausted");
const POOL_TIMEOUT: Class = Class("pgpool_rs.errors.PoolTimeout");
const TOO_MANY_REQUESTS: Class = Class("pgpool_rs.errors.TooManyRequests");

impl Class {
    fn error(&self, text: &str) -> PyErr {
        // Made here and now: PyO3 would make the text later, and panic where there is no memory for it.
        Python::attach(|py| {
            let class = PyString::from_bytes(py, self.0.as_bytes()).and_then(|name| class(&name));
            class.and_then(|class| instance(&class, text)).map_or_else(|error| error, PyErr::from_value)
        })
    }
}

fn instance<'py>(class: &Bound<'py, PyAny>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    class.call1((PyString::from_bytes(class.py(), text.as_bytes())?,))
}

/// Makes one of psycopg2's exceptions.
pub(crate) fn psycopg2_error(py: Python<'_>, class: &str, text: &str) -> PyErr {
    let class = module(name!(py, psycopg2_module)).and_then(|psycopg2| psycopg2.getattr(class));
    class.and_then(|class| instance(&class, text)).map_or_else(|error| error, PyErr::from_value)
}

/// Says whether an error is what a database says, or the network to it: `psycopg2.Error` or `OSError`. Only these are logged;
/// all others, a job's time limit say, are raised by the call that they came in. A statement that was cancelled is one of the
/// others: psycopg2's `wait_select` makes that of Ctrl-C.
pub(crate) fn is_said(py: Python<'_>, error: &PyErr) -> bool {
    let is_a =
        |module_name, class_name| module(module_name)?.getattr(class_name).map(|class| error.is_instance(py, &class));
    let said = is_a(name!(py, psycopg2_module), name!(py, error_class));
    let canceled = is_a(name!(py, extensions_module), name!(py, canceled_class));
    error.is_instance_of::<PyOSError>(py) || matches!((said, canceled), (Ok(true), Ok(false)))
}

/// Gives the one of two errors that is to be raised, if there are two: what a database says gives way to all others, an
/// `Exception` to what is none, and the second to the first.
pub(crate) fn weightier(py: Python<'_>, first: PyErr, second: Option<PyErr>) -> PyErr {
    let weight = |error: &PyErr| if is_said(py, error) { 0 } else { 1 + u8::from(!is_plain(py, error)) };
    match second {
        Some(second) if weight(&second) > weight(&first) => second,
        _ => first,
    }
}

/// Gives the error of two outcomes; where both are errors, the [`weightier`].
pub(crate) fn both(py: Python<'_>, first: PyResult<()>, second: PyResult<()>) -> PyResult<()> {
    match (first, second) {
        (Err(first), second) => Err(weightier(py, first, second.err())),
        (Ok(()), second) => second,
    }
}

/// Waits for all of these outcomes, and gives the error of any, as [`both`] does.
pub(crate) fn every(py: Python<'_>, outcomes: impl Iterator<Item = PyResult<()>>) -> PyResult<()> {
    let mut done = Ok(());
    for outcome in outcomes {
        done = both(py, done, outcome);
    }
    done
}

/// Says whether `error` is an `Exception`, and not a `KeyboardInterrupt`, a `GreenletExit` or the like.
pub(crate) fn is_plain(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyException>(py)
}
