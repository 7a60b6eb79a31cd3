//! Timeouts, and waiting on a Python lock: it releases the GIL, answers signals at once, and yields under gevent.

use std::time::{Duration, Instant};

use pgpool_core::Wake;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyEllipsis;

/// How long a borrower waits for room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Patience {
    /// Not at all: it is refused at once.
    Zero,
    /// So long.
    Limited(Duration),
    /// For ever.
    Endless,
}

impl<'py> FromPyObject<'_, 'py> for Patience {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if given.is_none() {
            return Ok(Self::Endless);
        }
        let seconds: f64 = match given.extract() {
            Ok(seconds) => seconds,
            // An integer beyond all floats.
            Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) && given.gt(0)? => f64::INFINITY,
            Err(error) if error.is_instance_of::<PyTypeError>(given.py()) => {
                let text = format!("timeout must be a number of seconds or None, not {}", given.repr()?);
                return Err(PyTypeError::new_err(text));
            }
            Err(error) => return Err(error),
        };
        if seconds.is_nan() || seconds < 0.0 {
            let text = format!("timeout must be 0 or more seconds, or None to wait for ever, not {}", given.repr()?);
            return Err(PyValueError::new_err(text));
        }
        Ok(Self::from_seconds(seconds))
    }
}

impl Patience {
    /// Waits so many seconds, which are 0 or more.
    pub(crate) fn from_seconds(seconds: f64) -> Self {
        match Duration::try_from_secs_f64(seconds) {
            Ok(Duration::ZERO) => Self::Zero,
            Ok(limit) => Self::Limited(limit),
            // A time that no Duration holds is longer than anybody will wait.
            Err(_) => Self::Endless,
        }
    }

    /// Gives the seconds.
    pub(crate) fn seconds(self) -> f64 {
        match self {
            Self::Zero => 0.0,
            Self::Limited(limit) => limit.as_secs_f64(),
            Self::Endless => f64::INFINITY,
        }
    }
}

/// A `timeout=` argument: `...`, the default, means the pool's own.
pub(crate) enum Timeout<'py> {
    Unset,
    /// What it means, and the object itself, to be passed on to a hook that is overridden.
    Given(Patience, Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Timeout<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if given.is_instance_of::<PyEllipsis>() {
            return Ok(Self::Unset);
        }
        Ok(Self::Given(given.extract()?, given.to_owned()))
    }
}

/// A Python lock that a waiter sleeps on until somebody releases it.
pub(crate) struct Bell<'py>(Bound<'py, PyAny>);

impl<'py> Bell<'py> {
    /// Makes a bell from `threading.Lock`, looked up now, so that it is green under gevent.
    pub(crate) fn new(py: Python<'py>) -> PyResult<Self> {
        let lock = py.import(intern!(py, "threading"))?.call_method0(intern!(py, "Lock"))?;
        lock.call_method0(intern!(py, "acquire"))?;
        Ok(Self(lock))
    }

    /// Makes the waker that the ledger keeps.
    pub(crate) fn waker(&self) -> Waker {
        Waker(self.0.clone().unbind())
    }

    /// Waits for the bell until `deadline`; `false` if it did not ring. Signal handlers run meanwhile.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> PyResult<bool> {
        let py = self.0.py();
        let acquire = intern!(py, "acquire");
        let Some(deadline) = deadline else { return self.0.call_method0(acquire)?.is_truthy() };
        let longest: f64 = py.import(intern!(py, "threading"))?.getattr(intern!(py, "TIMEOUT_MAX"))?.extract()?;
        let seconds = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
        self.0.call_method1(acquire, (true, seconds.min(longest)))?.is_truthy()
    }
}

/// Rings a [`Bell`].
pub(crate) struct Waker(Py<PyAny>);

impl Wake for Waker {
    fn wake(&self) {
        // Nobody is left to wake where the interpreter is gone.
        Python::try_attach(|py| {
            if let Err(error) = self.0.call_method0(py, intern!(py, "release")) {
                error.write_unraisable(py, Some(self.0.bind(py)));
            }
        });
    }
}
