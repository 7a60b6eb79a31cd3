//! Which thread or greenlet calls the pool.

use pgpool_core::Caller;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyModule};

use crate::python::{imports, name};
use crate::system::thread_ident;

/// Gives the ident of the caller. Looks `threading.get_ident` up now: gevent replaces it by one that tells greenlets apart.
pub(crate) fn caller(py: Python<'_>) -> PyResult<Caller> {
    let get_ident = get_ident(py)?;
    // CPython's own is not called: it makes an integer, and a return must not fail for want of memory.
    if is_native(&get_ident)? { Ok(thread_ident()) } else { get_ident.call0()?.extract() }
}

/// Says whether `threading.get_ident` is CPython's own. gevent and eventlet replace it.
pub(crate) fn is_thread_ident_native(py: Python<'_>) -> PyResult<bool> {
    is_native(&get_ident(py)?)
}

fn get_ident(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let threading = imports()?.threading.bind(py);
    // `getattr` of a module looks at its class first, which takes five times as long.
    let found = threading.cast::<PyModule>()?.dict().get_item(name!(py, get_ident))?;
    found.map_or_else(|| threading.getattr(name!(py, get_ident)), Ok)
}

fn is_native(get_ident: &Bound<'_, PyAny>) -> PyResult<bool> {
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
