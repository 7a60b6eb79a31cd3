//! Keys: what a loan is filed under. Hashing and comparing run Python code, so they happen here, with no lock held.

use std::sync::Arc;

use pgpool_core::{Ask, Candidates, LoanKey, UserKey, Want};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::connection::{Handle, address};

/// What a caller wants a connection for.
pub(crate) enum Filing {
    /// A fresh automatic number.
    Any(u64),
    /// An automatic number that was given out before.
    Number(u64),
    /// A user's key.
    Key(Ask<Handle>),
}

/// The type of automatic keys: a subclass of int, so that a user's equal integer is told apart.
fn automatic_key(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    TYPE.import(py, "pgpool_rs._books", "AutomaticKey")
}

/// Shows an automatic number to Python.
pub(crate) fn number_to_key(py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyAny>> {
    automatic_key(py)?.call1((number,))
}

impl Filing {
    /// Files under `key`, hashing it. An unhashable key is a `TypeError`.
    pub(crate) fn under(key: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = key.py();
        if key.get_type().is(automatic_key(py)?) {
            return Ok(Self::Number(key.extract()?));
        }
        // Looked up now: gevent puts another one in its place, by which greenlets are told apart.
        let caller = py.import(intern!(py, "threading"))?.call_method0(intern!(py, "get_ident"))?.extract()?;
        let handle = Arc::new(key.clone().unbind());
        Ok(Self::Key(Ask::new(UserKey { hash: key.hash()?, address: address(key), handle }, caller)))
    }

    pub(crate) fn want(&self) -> Want<'_, Handle> {
        match self {
            Self::Any(number) => Want::Any(*number),
            Self::Number(number) => Want::Number(*number),
            Self::Key(ask) => Want::Key(ask),
        }
    }

    /// Gives the key as Python code is to see it.
    pub(crate) fn to_key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Any(number) | Self::Number(number) => number_to_key(py, *number),
            Self::Key(ask) => Ok(ask.key().handle.bind(py).clone()),
        }
    }

    /// Compares the candidates with our key, as a dict would, and notes the outcome.
    pub(crate) fn compare(&mut self, py: Python<'_>, candidates: &Candidates<Handle>) -> PyResult<()> {
        let Self::Key(ask) = self else { return Ok(()) };
        let ours = Arc::clone(&ask.key().handle);
        for candidate in &candidates.list {
            if candidate.key.bind(py).eq(ours.bind(py))? {
                ask.matched(candidate);
                return Ok(());
            }
        }
        ask.none_matched(candidates);
        Ok(())
    }
}

/// Gives the key of a loan as Python code is to see it.
pub(crate) fn loan_key<'py>(py: Python<'py>, key: &LoanKey<Handle>) -> PyResult<Bound<'py, PyAny>> {
    match key {
        LoanKey::Automatic(number) => number_to_key(py, *number),
        LoanKey::User(handle) => Ok(handle.bind(py).clone()),
    }
}
