//! Keys: what a loan is filed under. Hashing and comparing run Python code, so they happen here, with no lock held.

use std::sync::Arc;

use pgpool_core::{Ask, Caller, Candidates, LoanKey, Unanswered, UserKey, Want};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyType};

use crate::connection::{Handle, address};
use crate::error::Error;
use crate::names::{class, module, name};
use crate::system::thread_ident;

/// The type of automatic keys: a subclass of int, so that a user's equal integer is told apart.
fn automatic_key(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    class(name!(py, automatic_key))
}

/// Shows an automatic number to Python.
pub(crate) fn number_to_key(py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyAny>> {
    automatic_key(py)?.call1((number,))
}

/// Tells who is calling. Looked up now: gevent puts another function in its place, which tells greenlets apart.
pub(crate) fn caller(py: Python<'_>) -> PyResult<Caller> {
    let get_ident = module(name!(py, threading_module))?.getattr(name!(py, get_ident))?;
    // Not called where the answer is known: an integer takes memory, and a way back must not fail for want of it.
    if is_native(&get_ident)? { Ok(thread_ident()) } else { get_ident.call0()?.extract() }
}

/// Says whether this is CPython's own `threading.get_ident`. gevent and eventlet put theirs in its place.
pub(crate) fn is_native(get_ident: &Bound<'_, PyAny>) -> PyResult<bool> {
    static NATIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = get_ident.py();
    if NATIVE.get(py).is_some_and(|native| native.is(get_ident)) {
        return Ok(true);
    }
    let native = get_ident.is_instance_of::<PyCFunction>() && get_ident.getattr("__module__")?.eq("_thread")?;
    if native {
        let _ = NATIVE.set(py, get_ident.clone().unbind());
    }
    Ok(native)
}

/// Files under `key`, hashing it. An unhashable key is a `TypeError`.
pub(crate) fn under(key: &Bound<'_, PyAny>) -> PyResult<Want<Handle>> {
    let py = key.py();
    if key.get_type().is(&automatic_key(py)?) {
        return Ok(Want::Number(key.extract()?, caller(py)?));
    }
    let handle = Arc::new(Handle::Object(key.clone().unbind()));
    Ok(Want::Key(Ask::new(UserKey { hash: key.hash()?, address: address(key), handle }, caller(py)?)))
}

/// Gives the key as Python code is to see it.
pub(crate) fn to_key<'py>(py: Python<'py>, want: &Want<Handle>) -> PyResult<Bound<'py, PyAny>> {
    match want {
        Want::Any(number, _) | Want::Number(number, _) => number_to_key(py, *number),
        Want::Key(ask) => ask.key().handle.object(py),
    }
}

/// Gives the key of a loan as Python code is to see it.
pub(crate) fn loan_key<'py>(py: Python<'py>, key: &LoanKey<Handle>) -> PyResult<Bound<'py, PyAny>> {
    match key {
        LoanKey::Automatic(number) => number_to_key(py, *number),
        LoanKey::User(handle) => handle.object(py),
    }
}

/// Asks the ledger until it has an answer, comparing keys in between as it wants them compared.
pub(crate) fn settle<T>(
    py: Python<'_>,
    want: &mut Want<Handle>,
    mut ask: impl FnMut(&Want<Handle>) -> Result<T, Unanswered<Handle>>,
) -> Result<T, Error> {
    loop {
        match ask(want) {
            Ok(answer) => return Ok(answer),
            Err(Unanswered::Refused(refusal)) => return Err(refusal.into()),
            Err(Unanswered::Compare(candidates)) => compare(py, want, &candidates)?,
        }
    }
}

/// As [`settle`], for a question in which there may be no key.
pub(crate) fn settle_maybe<T>(
    py: Python<'_>,
    want: &mut Option<Want<Handle>>,
    mut ask: impl FnMut(Option<&Want<Handle>>) -> Result<T, Unanswered<Handle>>,
) -> Result<T, Error> {
    match want {
        Some(want) => settle(py, want, |want| ask(Some(want))),
        // Without a key there is nothing to compare, so any will do.
        None => settle(py, &mut Want::Any(0, 0), |_| ask(None)),
    }
}

/// Compares the candidates with our key, as a dict would, and notes the outcome.
fn compare(py: Python<'_>, want: &mut Want<Handle>, candidates: &Candidates<Handle>) -> PyResult<()> {
    let Want::Key(ask) = want else { return Ok(()) };
    let ours = ask.key().handle.object(py)?;
    for candidate in &candidates.list {
        if candidate.key.object(py)?.eq(&ours)? {
            ask.matched(candidate);
            return Ok(());
        }
    }
    ask.none_matched(candidates);
    Ok(())
}
