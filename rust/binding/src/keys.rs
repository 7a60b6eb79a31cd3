//! The keys of loans. Hashing and comparing run Python code, so they happen here, with no lock held.

use pgpool_core::{Ask, Candidates, LoanKey, Unanswered, UserKey, Want};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

use crate::caller::caller;
use crate::error::Error;
use crate::handle::{Handle, address};
use crate::python::imports;

/// The type of automatic keys: a subclass of int, so that it differs from a user's equal integer.
fn automatic_key(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    Ok(imports()?.AutomaticKey.bind(py))
}

/// Shows an automatic number to Python.
pub(crate) fn number_to_key(py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyAny>> {
    automatic_key(py)?.call1((number,))
}

/// Hashes a key for a question to the ledger. An unhashable key raises a `TypeError`.
pub(crate) fn want_for(key: &Bound<'_, PyAny>) -> PyResult<Want<Handle>> {
    let py = key.py();
    if key.get_type().is(automatic_key(py)?) {
        return Ok(Want::Number(key.extract()?, caller(py)?));
    }
    Ok(Want::Key(Ask::new(user_key(key)?, caller(py)?)))
}

fn user_key(key: &Bound<'_, PyAny>) -> PyResult<UserKey<Handle>> {
    Ok(UserKey { hash: key.hash()?, address: address(key), handle: Handle::of(key) })
}

/// Says whether hashing and comparing a key runs no Python code.
fn is_plain(key: &Bound<'_, PyAny>) -> bool {
    key.is_exact_instance_of::<PyString>() || key.is_exact_instance_of::<PyInt>()
}

/// Makes a key for the fast path, if hashing it runs no Python code.
pub(crate) fn plain_key(key: &Bound<'_, PyAny>) -> Option<UserKey<Handle>> {
    is_plain(key).then(|| user_key(key).ok()).flatten()
}

/// Says whether a loan has this key, as far as that is known without Python code.
pub(crate) fn is_plainly(filed: &LoanKey<Handle>, key: &Bound<'_, PyAny>) -> bool {
    let LoanKey::User(handle) = filed else { return false };
    let Handle::Object(_, filed) = &**handle else { return false };
    let filed = filed.bind(key.py());
    filed.is(key) || is_plain(key) && filed.get_type().is(key.get_type()) && filed.eq(key).is_ok_and(|equal| equal)
}

/// Gives the key as Python code sees it.
pub(crate) fn key_of<'py>(py: Python<'py>, want: &Want<Handle>) -> PyResult<Bound<'py, PyAny>> {
    match want {
        Want::Any(number, _) | Want::Number(number, _) => number_to_key(py, *number),
        Want::Key(ask) => ask.key().handle.object(py),
    }
}

/// Gives the key of a loan as Python code sees it.
pub(crate) fn loan_key<'py>(py: Python<'py>, key: &LoanKey<Handle>) -> PyResult<Bound<'py, PyAny>> {
    match key {
        LoanKey::Automatic(number) => number_to_key(py, *number),
        LoanKey::User(handle) => handle.object(py),
    }
}

/// Asks the ledger until it answers. Between two questions it compares the keys that the ledger gives out.
pub(crate) fn resolve_key<T>(
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

/// As [`resolve_key`], for a question that may have no key.
pub(crate) fn resolve_key_if_any<T>(
    py: Python<'_>,
    want: &mut Option<Want<Handle>>,
    mut ask: impl FnMut(Option<&Want<Handle>>) -> Result<T, Unanswered<Handle>>,
) -> Result<T, Error> {
    match want {
        Some(want) => resolve_key(py, want, |want| ask(Some(want))),
        // Without a key the ledger gives out nothing to compare.
        None => resolve_key(py, &mut Want::Any(0, 0), |_| ask(None)),
    }
}

/// Compares the candidates with the key, as a dict does, and notes the outcome.
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
