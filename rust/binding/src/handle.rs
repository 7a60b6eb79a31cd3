//! Python objects, as the ledger keeps them.

use pyo3::exceptions::PyReferenceError;
use pyo3::prelude::*;

/// A connection, a key or a note, as the ledger keeps it.
pub(crate) enum Handle {
    /// The object itself.
    Object(Py<PyAny>),
    /// A weak reference to a lent connection, which lives only as long as its borrower holds it.
    Weak(Py<PyAny>),
}

impl Handle {
    /// Gives the object.
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let gone = || PyReferenceError::new_err("the connection is gone: its borrower forgot it");
        self.living(py)?.ok_or_else(gone)
    }

    /// Gives the object if it still lives.
    pub(crate) fn living<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self {
            Self::Object(object) => Ok(Some(object.bind(py).clone())),
            Self::Weak(reference) => Ok(Some(reference.bind(py).call0()?).filter(|object| !object.is_none())),
        }
    }

    /// The object that a garbage collector must visit.
    pub(crate) fn held(&self) -> &Py<PyAny> {
        match self {
            Self::Object(object) | Self::Weak(object) => object,
        }
    }
}

/// The address of an object, which is its `id()`.
pub(crate) fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr().addr()
}
