//! Both accounts of a psycopg2 connection's transaction, read inside the object where CPython itself reads them.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::python::imports;

/// libpq's account, `PGTransactionStatusType`: in no transaction.
/// <https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS>
pub(crate) const IDLE: i32 = 0;
/// psycopg2's own account, `connection.status`: in no transaction, as far as it knows.
/// <https://www.psycopg.org/docs/extensions.html#connection-status-constants>
pub(crate) const READY: i32 = 1;

/// A type of connections that can be read inside: psycopg2's own, or a subclass that overrides nothing of what is read.
pub(crate) struct StatusProbe {
    class: Py<PyType>,
    inside: &'static Inside,
    /// Whether `commit()` and `rollback()` are psycopg2's own, for ever: the class itself is. A subclass or one of its objects may get
    /// others at any time.
    ends_as_psycopg2: bool,
}

impl StatusProbe {
    /// Finds out whether the type of a connection is one of these. A type whose metaclass raises is none.
    pub(crate) fn find(connection: &Bound<'_, PyAny>) -> Option<Self> {
        let (py, class) = (connection.py(), connection.get_type());
        let inside = inside(py).filter(|inside| inside.is_of(connection))?;
        let inherits = |name: &&str| {
            let (found, own) = (class.getattr(name), inside.class.bind(py).getattr(name));
            found.is_ok_and(|found| own.is_ok_and(|own| found.is(&own)))
        };
        let read = ["closed", "info", "status", "get_transaction_status", "__getattribute__"];
        let ends_as_psycopg2 = class.is(&inside.class);
        let known = read.iter().all(inherits);
        known.then(|| Self { class: class.unbind(), inside, ends_as_psycopg2 })
    }

    /// Says whether `commit()` and `rollback()` do nothing on a clean connection of this type, as psycopg2's own do: see `pq_commit`
    /// in its `pqpath.c`.
    #[inline]
    pub(crate) fn ends_as_psycopg2(&self) -> bool {
        self.ends_as_psycopg2
    }

    /// Says whether a connection is open, and in no transaction by either account. Gives `None` for another type.
    #[inline]
    pub(crate) fn is_clean(&self, connection: &Bound<'_, PyAny>) -> Option<bool> {
        // SAFETY: the class was found to be psycopg2's, or a subclass of it.
        (self.class.as_ptr() == connection.get_type_ptr().cast()).then(|| unsafe { self.inside.is_clean(connection) })
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.class)
    }
}

/// Says whether psycopg2 has begun a two-phase transaction, which no attribute shows. A proxy's cannot be seen.
pub(crate) fn has_begun_two_phase(connection: &Bound<'_, PyAny>) -> bool {
    // SAFETY: `is_of` says that it is a psycopg2 connection.
    inside(connection.py())
        .is_some_and(|inside| inside.is_of(connection) && unsafe { inside.has_begun_two_phase(connection) })
}

/// Where psycopg2's connections keep their accounts. It is found out once, from the descriptors of their type.
struct Inside {
    class: Py<PyType>,
    /// `get_transaction_status`, libpq's account.
    ask_libpq: ffi::PyCFunction,
    /// What that returns in no transaction: CPython has one object for each small integer.
    idle: Py<PyAny>,
    /// The offset of `status`, psycopg2's own account: an `int`.
    status: usize,
    /// The offset of a pointer between `status` and `async`, which no attribute shows: the two-phase transaction that was
    /// begun, or null.
    two_phase: usize,
}

/// Gives `Inside`, if this psycopg2 is laid out as expected.
fn inside(py: Python<'_>) -> Option<&'static Inside> {
    static INSIDE: PyOnceLock<Option<Inside>> = PyOnceLock::new();
    INSIDE.get_or_init(py, || Inside::find(py).ok().flatten()).as_ref()
}

/// Fills what is found out once, before there are threads.
pub(crate) fn prepare(py: Python<'_>) {
    inside(py);
}

impl Inside {
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        let class = imports()?.connection.bind(py).cast::<PyType>()?.clone();
        let Some(ask_libpq) = function_of(&class, "get_transaction_status")? else { return Ok(None) };
        let Some(status) = offset_of(&class, "status", ffi::Py_T_INT)? else { return Ok(None) };
        let Some(next) = offset_of(&class, "async_", ffi::Py_T_LONG)? else { return Ok(None) };
        let two_phase = (status + size_of::<c_int>()).next_multiple_of(align_of::<usize>());
        let known = two_phase + size_of::<usize>() == next && next < class.getattr("__basicsize__")?.extract()?;
        let idle = IDLE.into_pyobject(py)?.into_any().unbind();
        Ok(known.then(|| Self { class: class.unbind(), ask_libpq, idle, status, two_phase }))
    }

    /// Says whether an object is a connection of psycopg2's, of a subclass perhaps.
    fn is_of(&self, object: &Bound<'_, PyAny>) -> bool {
        // SAFETY: both are type objects that are alive.
        unsafe { ffi::PyType_IsSubtype(object.get_type_ptr(), self.class.as_ptr().cast()) != 0 }
    }

    /// Says whether a connection is open, and in no transaction by either account.
    ///
    /// # Safety
    /// It is a connection of psycopg2's.
    #[inline]
    unsafe fn is_clean(&self, connection: &Bound<'_, PyAny>) -> bool {
        let (py, object) = (connection.py(), connection.as_ptr());
        // SAFETY: so does CPython call a method without arguments, of an object whose type has it. It gives a new reference, or
        // null and an error. At the offset there is an `int` of the object's, as its descriptor says, so it is aligned; another
        // thread may write it now. The rest is the caller's to promise.
        unsafe {
            let libpq = Bound::from_owned_ptr_or_err(py, (self.ask_libpq)(object, std::ptr::null_mut()));
            let status = AtomicI32::from_ptr(object.byte_add(self.status).cast()).load(Ordering::Relaxed);
            libpq.is_ok_and(|libpq| libpq.is(&self.idle)) && status == READY && !self.has_begun_two_phase(connection)
        }
    }

    /// Says whether psycopg2 has begun a two-phase transaction.
    ///
    /// # Safety
    /// It is a connection of psycopg2's.
    #[inline]
    unsafe fn has_begun_two_phase(&self, connection: &Bound<'_, PyAny>) -> bool {
        // SAFETY: the offset is a multiple of a pointer's alignment, and lies with a pointer's size within the object, between
        // two members; another thread may write there now.
        unsafe {
            AtomicUsize::from_ptr(connection.as_ptr().byte_add(self.two_phase).cast()).load(Ordering::Relaxed) != 0
        }
    }
}

/// Gives the C function of a method that takes no arguments, if it is the class's own.
fn function_of(class: &Bound<'_, PyType>, name: &str) -> PyResult<Option<ffi::PyCFunction>> {
    let found = class.getattr(name)?;
    // SAFETY: an object of this very type is such a structure, whose definition lives as long as the class; the flag says which
    // function of the union there is.
    unsafe {
        if found.get_type_ptr() != &raw mut ffi::PyMethodDescr_Type {
            return Ok(None);
        }
        let descriptor = &*found.as_ptr().cast::<ffi::PyMethodDescrObject>();
        let definition = &*descriptor.d_method;
        let own = descriptor.d_common.d_type == class.as_type_ptr() && definition.ml_flags == ffi::METH_NOARGS;
        Ok(if own { Some(definition.ml_meth.PyCFunction) } else { None })
    }
}

/// Gives the offset of a member of this C type, if it is the class's own.
fn offset_of(class: &Bound<'_, PyType>, name: &str, type_code: c_int) -> PyResult<Option<usize>> {
    let found = class.getattr(name)?;
    // SAFETY: an object of this very type is such a structure, whose definition lives as long as the class.
    unsafe {
        if found.get_type_ptr() != &raw mut ffi::PyMemberDescr_Type {
            return Ok(None);
        }
        let descriptor = &*found.as_ptr().cast::<ffi::PyMemberDescrObject>();
        // PyO3 gives the pointer another type for Python 3.10.
        let definition = &*descriptor.d_member.cast::<ffi::PyMemberDef>();
        let own = descriptor.d_common.d_type == class.as_type_ptr() && definition.type_code == type_code;
        Ok(usize::try_from(definition.offset).ok().filter(|_| own))
    }
}
