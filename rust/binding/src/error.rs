//! Errors, on their way to Python.

use std::cell::RefCell;

use pgpool_core::Refusal;
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::{filing, front, maintain, watch};

/// An error that ends a call of ours.
pub(crate) enum Error {
    /// The ledger refused.
    Refused(Refusal),
    /// A lent connection came back with this key, and it is lent under another.
    WrongKey(String),
    /// What is lent under this key was to come back, and nothing is.
    NotLent(String),
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
                    Refusal::Unkeyed | Refusal::WrongKey | Refusal::Reentrant => &POOL_ERROR,
                };
                class.error(refusal.to_string())
            }
            Error::WrongKey(key) => {
                POOL_ERROR.error(format!("trying to put connection with key {key}, but it is lent under another key"))
            }
            Error::NotLent(key) => POOL_ERROR.error(format!("{}: nothing is lent under key {key}", Refusal::Unkeyed)),
            Error::Crowded(text) => TOO_MANY_REQUESTS.error(text),
            Error::TimedOut(text) => POOL_TIMEOUT.error(text),
            Error::Raised(error) => error,
        }
    }
}

/// One of the exceptions of `pgpool_rs.errors`.
struct Class {
    name: &'static str,
    object: PyOnceLock<Py<PyType>>,
}

static POOL_ERROR: Class = Class::named("PoolError");
static POOL_CLOSED: Class = Class::named("PoolClosed");
static POOL_EXHAUSTED: Class = Class::named("PoolExhausted");
static POOL_TIMEOUT: Class = Class::named("PoolTimeout");
static TOO_MANY_REQUESTS: Class = Class::named("TooManyRequests");

impl Class {
    const fn named(name: &'static str) -> Self {
        Self { name, object: PyOnceLock::new() }
    }

    fn error(&self, text: String) -> PyErr {
        Python::attach(|py| {
            let class = self.object.import(py, "pgpool_rs.errors", self.name);
            class.map_or_else(|error| error, |class| PyErr::from_type(class.clone(), text))
        })
    }
}

/// Look up all that is looked up once: the package calls it when it has been imported. At the end of the interpreter nothing
/// can be looked up any more; and what one thread is just looking up, the child of a fork would wait for for ever.
#[pyfunction]
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    for class in [&POOL_ERROR, &POOL_CLOSED, &POOL_EXHAUSTED, &POOL_TIMEOUT, &TOO_MANY_REQUESTS] {
        class.object.import(py, "pgpool_rs.errors", class.name)?;
    }
    for module in ["pgpool_rs._log", "pgpool_rs._secrets", "pgpool_rs._loans"] {
        py.import(module)?;
    }
    // PyO3 keeps these names in the same way, each from the first use on.
    let class = py.get_type::<PyException>();
    drop((class.name()?, class.qualname()?, class.module()?));
    says(py)?;
    front::prepare(py);
    filing::prepare(py)?;
    maintain::prepare(py)?;
    watch::prepare(py)
}

/// Makes one of psycopg2's exceptions.
pub(crate) fn psycopg2_error(py: Python<'_>, class: &str, text: &str) -> PyErr {
    let class = py.import("psycopg2").and_then(|psycopg2| psycopg2.getattr(class));
    let class = class.and_then(|class| Ok(class.cast_into::<PyType>()?));
    class.map_or_else(|error| error, |class| PyErr::from_type(class, text.to_owned()))
}

/// What a database says, and what of it is none of its own words.
fn says(py: Python<'_>) -> PyResult<&(Py<PyAny>, Py<PyAny>)> {
    static CLASSES: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    CLASSES.get_or_try_init(py, || {
        let extensions = py.import("psycopg2.extensions")?;
        let error = py.import("psycopg2")?.getattr("Error")?;
        Ok((error.unbind(), extensions.getattr("QueryCanceledError")?.unbind()))
    })
}

/// Says whether an error is what a database says, or the network to it: `psycopg2.Error` or `OSError`. Only these are logged;
/// all others, a job's time limit say, are raised by the call that they came in. A statement that was cancelled is one of the
/// others: psycopg2's `wait_select` makes that of Ctrl-C.
pub(crate) fn is_said(py: Python<'_>, error: &PyErr) -> bool {
    let said = |(error_class, canceled): &(Py<PyAny>, Py<PyAny>)| {
        error.is_instance(py, error_class.bind(py)) && !error.is_instance(py, canceled.bind(py))
    };
    error.is_instance_of::<PyOSError>(py) || says(py).is_ok_and(said)
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

thread_local! {
    /// See [`keep_back`].
    static KEPT_BACK: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Keeps an error that comes where none can be raised: a `KeyboardInterrupt` while somebody else is woken, say. It is
/// raised by [`raise_kept_back`]. An `Exception` there is nobody's, and printed.
pub(crate) fn keep_back(py: Python<'_>, error: PyErr) {
    if is_plain(py, &error) {
        error.write_unraisable(py, None);
    } else {
        KEPT_BACK.with_borrow_mut(|kept| {
            kept.get_or_insert(error);
        });
    }
}

/// Takes an answer to a question that may fail without harm. What is stronger than an `Exception` is kept back.
pub(crate) fn answered<T>(py: Python<'_>, answer: PyResult<T>) -> Option<T> {
    let ignore = |error| {
        if !is_plain(py, &error) {
            keep_back(py, error);
        }
    };
    answer.map_err(ignore).ok()
}

/// Ends a call: what this thread has kept back is raised first, so that no other call meets it.
pub(crate) fn ended<T>(done: PyResult<T>) -> PyResult<T> {
    raise_kept_back().and(done)
}

/// Raises what this thread has kept back, now that the books are straight.
pub(crate) fn raise_kept_back() -> PyResult<()> {
    KEPT_BACK.take().map_or(Ok(()), Err)
}
