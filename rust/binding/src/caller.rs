//! The caller of the pool: a thread, or a greenlet.

use pgpool_core::Caller;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCFunction;

use crate::python::{imports, name};
use crate::system::thread_ident;

/// Tells who is calling. Looked up now: gevent puts another function in its place, which tells greenlets apart.
pub(crate) fn caller(py: Python<'_>) -> PyResult<Caller> {
    let get_ident = imports()?.threading.bind(py).getattr(name!(py, get_ident))?;
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
