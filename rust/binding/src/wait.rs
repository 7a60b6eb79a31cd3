//! Waiting on a Python lock, which releases the GIL, answers signals at once, and yields under gevent; and waking.

use std::time::Instant;

use pgpool_core::Wake;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefReference};

use crate::call::{defer_error, defer_interrupt};
use crate::error::is_shortage;
use crate::python::{imports, name};
use crate::system::float;

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

/// Wakes a waiter or the housekeeper, or calls a worker.
pub(crate) enum Waker {
    /// The waiter that sleeps on the lock of this [`Parker`].
    Waiter(Py<PyAny>),
    /// The housekeeper, for the pool behind this weak reference.
    Housekeeper(Py<PyWeakrefReference>),
    /// A worker, for the pool behind this weak reference.
    Workers(Py<PyWeakrefReference>),
}

impl Wake for Waker {
    fn wake(&self) -> bool {
        // At the end of the interpreter there is nothing to wake.
        let woken = Python::try_attach(|py| {
            let (woken, defer): (_, fn(Python<'_>, PyErr)) = match self {
                Self::Waiter(lock) => (release(lock.bind(py)), defer_interrupt),
                Self::Housekeeper(pool) => (pool.bind(py).upgrade().map_or(Ok(true), |pool| poke(&pool)), defer_error),
                Self::Workers(pool) => {
                    (pool.bind(py).upgrade().map_or(Ok(false), |pool| start_worker(&pool)), defer_error)
                }
            };
            woken.unwrap_or_else(|error| {
                defer(py, error);
                false
            })
        });
        woken.unwrap_or(true)
    }
}

/// Wakes the waiter that sleeps on this lock. An earlier wake-up may have come too late for a wait with a deadline: then the lock is
/// free already, and the next wait ends at once.
fn release(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let released = lock.call_method0(name!(lock.py(), release)).map(|_| true);
    released.or_else(|error| if error.is_instance_of::<PyRuntimeError>(lock.py()) { Ok(true) } else { Err(error) })
}

/// Tells the housekeeper that there is something to do for a pool, and starts its thread if there is none. Says whether it has
/// heard: without stack or memory it does not.
pub(crate) fn poke(pool: &Bound<'_, PyAny>) -> PyResult<bool> {
    tell_housekeeper(pool, name!(pool.py(), poke))
}

/// As [`poke`], for a moment at which no thread may start and no lock be waited for.
pub(crate) fn poke_quietly(pool: &Bound<'_, PyAny>) -> PyResult<bool> {
    tell_housekeeper(pool, name!(pool.py(), poke_quietly))
}

/// Tells the housekeeper that a pool is closed, and needs no thread any more.
pub(crate) fn end_visits(pool: &Bound<'_, PyAny>) -> PyResult<bool> {
    tell_housekeeper(pool, name!(pool.py(), end_visits))
}

/// Starts a thread for a worker. Says whether it has begun.
fn start_worker(pool: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = pool.py();
    let started = imports().and_then(|imports| imports.start_worker.bind(py).call1((pool,))?.is_truthy());
    started.or_else(|error| if is_shortage(py, &error) { Ok(false) } else { Err(error) })
}

fn tell_housekeeper(pool: &Bound<'_, PyAny>, poke: &Bound<'_, PyString>) -> PyResult<bool> {
    let py = pool.py();
    let told = imports().and_then(|imports| imports.housekeeper.bind(py).call_method1(poke, (pool,)));
    told.map(|_| true).or_else(|error| if is_shortage(py, &error) { Ok(false) } else { Err(error) })
}
