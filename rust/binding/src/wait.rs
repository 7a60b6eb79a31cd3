//! Timeouts, and waiting on a Python lock: it releases the GIL, answers signals at once, and yields under gevent.

use std::time::{Duration, Instant};

use pgpool_core::Wake;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyEllipsis, PyString, PyWeakrefReference};

use crate::arguments::shown;
use crate::call::{defer_error, defer_interrupt};
use crate::error::is_shortage;
use crate::python::{imports, name};
use crate::system::float;

/// How many seconds a caller waits for room. With 0 it does not wait; infinity means for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timeout(pub(crate) f64);

impl Timeout {
    /// The pool refuses at once.
    pub(crate) const ZERO: Self = Self(0.0);

    /// Gives the end of a wait that begins at `start`. `None` if it has no end.
    pub(crate) fn deadline(self, start: Instant) -> Option<Instant> {
        // A time beyond Duration or Instant has no end, in practice.
        start.checked_add(Duration::try_from_secs_f64(self.0).ok()?)
    }
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if given.is_none() {
            return Ok(Self(f64::INFINITY));
        }
        let no_number = || {
            let text = |shown| format!("timeout must be a number of seconds or None, not {shown}");
            shown(&given).map_or_else(|error| error, |shown| PyTypeError::new_err(text(shown)))
        };
        if given.is_instance_of::<PyBool>() {
            return Err(no_number());
        }
        let seconds: f64 = match given.extract() {
            Ok(seconds) => seconds,
            // An integer that no float can hold.
            Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) => {
                if given.gt(0)? {
                    f64::INFINITY
                } else {
                    f64::NEG_INFINITY
                }
            }
            Err(error) if error.is_instance_of::<PyTypeError>(given.py()) => return Err(no_number()),
            Err(error) => return Err(error),
        };
        if seconds.is_nan() || seconds < 0.0 {
            let text = format!("timeout must be 0 or more seconds, or None to wait for ever, not {}", shown(&given)?);
            return Err(PyValueError::new_err(text));
        }
        Ok(Self(seconds))
    }
}

/// A `timeout=` argument.
pub(crate) enum TimeoutArg<'py> {
    /// `...`, the default: the pool's own.
    Missing,
    /// Its meaning, and the object itself, for a hook that is overridden.
    Given(Timeout, Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for TimeoutArg<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if given.is_instance_of::<PyEllipsis>() {
            return Ok(Self::Missing);
        }
        Ok(Self::Given(given.extract()?, given.to_owned()))
    }
}

/// A Python lock on which a waiter sleeps until another caller releases it.
pub(crate) struct Parker<'py>(Bound<'py, PyAny>);

impl<'py> Parker<'py> {
    /// Makes a parker from `threading.Lock`, which is looked up now: gevent replaces it with a green one.
    pub(crate) fn new(py: Python<'py>) -> PyResult<Self> {
        let lock = imports()?.threading.bind(py).call_method0(name!(py, lock_class))?;
        lock.call_method0(name!(py, acquire))?;
        Ok(Self(lock))
    }

    /// Makes the waker that the ledger keeps.
    pub(crate) fn waker(&self) -> Waker {
        Waker::Waiter(self.0.clone().unbind())
    }

    /// Sleeps until the waker wakes it, or until `deadline`: then gives `false`. Signal handlers run meanwhile.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> PyResult<bool> {
        let py = self.0.py();
        let acquire = name!(py, acquire);
        let Some(deadline) = deadline else { return self.0.call_method0(acquire)?.is_truthy() };
        let longest: f64 = imports()?.threading.bind(py).getattr(name!(py, timeout_max))?.extract()?;
        let seconds = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
        self.0.call_method1(acquire, (true, float(py, seconds.min(longest))?))?.is_truthy()
    }
}

/// Wakes a waiter or the housekeeper.
pub(crate) enum Waker {
    /// The waiter that sleeps on the lock of this [`Parker`].
    Waiter(Py<PyAny>),
    /// The housekeeper, for the pool behind this weak reference.
    Housekeeper(Py<PyWeakrefReference>),
}

impl Wake for Waker {
    fn wake(&self) {
        // At the end of the interpreter there is nothing to wake.
        Python::try_attach(|py| {
            let (woken, keep): (_, fn(Python<'_>, PyErr)) = match self {
                Self::Waiter(lock) => (lock.call_method0(py, name!(py, release)).map(drop), defer_interrupt),
                Self::Housekeeper(pool) => (pool.bind(py).upgrade().map_or(Ok(()), |pool| poke(&pool)), defer_error),
            };
            if let Err(error) = woken {
                keep(py, error);
            }
        });
    }
}

/// Tells the housekeeper that there is something to do for a pool, and starts its thread if there is none. Without stack or memory
/// for that it does nothing: the next poke tells.
pub(crate) fn poke(pool: &Bound<'_, PyAny>) -> PyResult<()> {
    told_or_later(pool, name!(pool.py(), poke))
}

/// As [`poke`], for a moment at which no thread may start and no lock be waited for.
pub(crate) fn poke_quietly(pool: &Bound<'_, PyAny>) -> PyResult<()> {
    told_or_later(pool, name!(pool.py(), poke_quietly))
}

fn told_or_later(pool: &Bound<'_, PyAny>, poke: &Bound<'_, PyString>) -> PyResult<()> {
    let py = pool.py();
    let told = imports().and_then(|imports| imports.housekeeper.bind(py).call_method1(poke, (pool,)));
    told.map(drop).or_else(|error| if is_shortage(py, &error) { Ok(()) } else { Err(error) })
}
