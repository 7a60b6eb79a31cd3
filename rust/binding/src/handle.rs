//! Python objects, as the ledger keeps them.

use std::sync::{Arc, Mutex};

use pgpool_core::SlotId;
use pyo3::exceptions::PyReferenceError;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

/// A connection, a key or a note, as the ledger keeps it.
pub(crate) enum Handle {
    /// The object itself. A connection that was lent weakly comes with that handle, for its next loan: it is dropped first, so that
    /// its weak reference does not outlive the connection.
    Object(Option<Arc<Self>>, Py<PyAny>),
    /// A weak reference to a lent connection, which lives only as long as its borrower holds it; and the loan that ends then.
    Weak(Py<PyWeakrefReference>, Arc<Mutex<Option<SlotId>>>),
}

impl Handle {
    /// Makes the handle of an object.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> Arc<Self> {
        Arc::new(Self::Object(None, object.clone().unbind()))
    }

    /// Makes the handle of a connection that comes back, if it was lent weakly.
    pub(crate) fn strong(self: &Arc<Self>, connection: &Bound<'_, PyAny>) -> Option<Arc<Self>> {
        let strong = || Arc::new(Self::Object(Some(Arc::clone(self)), connection.clone().unbind()));
        matches!(**self, Self::Weak(..)).then(strong)
    }

    /// Gives the object.
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let gone = || PyReferenceError::new_err("the connection is gone: its borrower forgot it");
        self.living(py).ok_or_else(gone)
    }

    /// Gives the object if it still lives.
    pub(crate) fn living<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self {
            Self::Object(_, object) => Some(object.bind(py).clone()),
            Self::Weak(reference, _) => reference.bind(py).upgrade(),
        }
    }

    /// The object that a garbage collector must visit.
    pub(crate) fn held(&self) -> &Py<PyAny> {
        match self {
            Self::Object(_, object) => object,
            Self::Weak(reference, _) => reference.as_any(),
        }
    }
}

/// The address of an object, which is its `id()`.
pub(crate) fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr().addr()
}
