//! Errors, on their way to Python.

use pgpool_core::Refusal;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// An error that ends a call of ours.
pub(crate) enum Error {
    /// The ledger refused.
    Refused(Refusal),
    /// A lent connection came back with this key, and it is lent under another.
    WrongKey(String),
    /// What is lent under this key was to come back, and nothing is.
    NotLent(String),
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
                    Refusal::Closed => "PoolClosed",
                    Refusal::Exhausted => "PoolExhausted",
                    Refusal::Unkeyed | Refusal::WrongKey | Refusal::Reentrant => "PoolError",
                };
                ours(class, refusal.to_string())
            }
            Error::WrongKey(key) => {
                ours("PoolError", format!("trying to put connection with key {key}, but it is lent under another key"))
            }
            Error::NotLent(key) => ours("PoolError", format!("{}: nothing is lent under key {key}", Refusal::Unkeyed)),
            Error::TimedOut(text) => ours("PoolTimeout", text),
            Error::Raised(error) => error,
        }
    }
}

/// Makes one of the exceptions of `pgpool_rs.errors`.
fn ours(class: &str, text: String) -> PyErr {
    Python::attach(|py| {
        let class = || py.import("pgpool_rs.errors")?.getattr(class)?.cast_into::<PyType>().map_err(PyErr::from);
        class().map_or_else(|error| error, |class| PyErr::from_type(class, text))
    })
}

/// Says whether `error` is an `Exception`, and not a `KeyboardInterrupt`, a `GreenletExit` or the like.
pub(crate) fn is_plain(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyException>(py)
}

/// Names an error's class.
pub(crate) fn class_name(py: Python<'_>, error: &PyErr) -> String {
    error.get_type(py).name().map_or_else(|_| "an exception".to_owned(), |name| name.to_string())
}

/// Describes an error in a line of a log.
pub(crate) fn describe(py: Python<'_>, error: &PyErr) -> String {
    format!(
        "{}: {}",
        class_name(py, error),
        error.value(py).str().map_or_else(|_| String::new(), |text| text.to_string()).trim()
    )
}

/// Logs a warning on the logger `pgpool_rs`.
pub(crate) fn warn(py: Python<'_>, text: &str) -> PyResult<()> {
    static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let logger = LOGGER.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("logging")?.call_method1("getLogger", ("pgpool_rs",))?.unbind())
    })?;
    logger.call_method1(py, "warning", ("%s", text)).map(drop)
}
