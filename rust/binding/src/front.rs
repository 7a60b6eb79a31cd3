//! The front door: what a web worker does ten thousand times a second, and nothing else.
//!
//! `pool.getconn()` with an idle connection and `pool.putconn(conn)` with a clean one are answered here, on the C API
//! itself, for the pair in little more than half the time that it takes through generated wrappers, which unpack
//! arguments that they were not given. Whatever else is asked goes through to the methods in `pool` and `threaded`, which know everything and would also answer this.

use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::connection::address;
use crate::detours::{self, HOOKS};
use crate::error::is_plain;
use crate::pool::AbstractPool;
use crate::system::{now, thread_ident};
use crate::threaded::ThreadedPool;

/// The methods behind the door.
static METHODS: [PyOnceLock<Py<PyAny>>; 4] = [const { PyOnceLock::new() }; 4];
const GETCONN: usize = 0;
const PUTCONN: usize = 1;
const ABSTRACT_GETCONN: usize = 2;
const ABSTRACT_PUTCONN: usize = 3;

/// The hooks as they were before anybody could override or patch one; more than once, where the package was imported anew.
static ORIGINALS: Mutex<Vec<[Py<PyAny>; 3]>> = Mutex::new(Vec::new());

/// Says whether what a class has under the name of a hook is the hook itself.
pub(crate) fn is_original(hook: usize, found: &Bound<'_, PyAny>) -> bool {
    let originals = ORIGINALS.lock().unwrap_or_else(PoisonError::into_inner);
    originals.iter().any(|hooks| hooks[hook].is(found))
}

/// Put the door in front of a pool class's own methods; a decorator.
///
/// The class is the one that users have, not the one it inherits: the interpreter calls a method fastest on an
/// instance of the very class that the method stands in.
#[pyfunction]
pub(crate) fn front_door(pool_class: Bound<'_, PyType>) -> PyResult<Bound<'_, PyType>> {
    if pool_class.is_subclass_of::<ThreadedPool>()? {
        door(&pool_class, GETCONN, "getconn", getconn::<GETCONN>)?;
        door(&pool_class, PUTCONN, "putconn", putconn::<PUTCONN>)?;
    } else if pool_class.is_subclass_of::<AbstractPool>()? {
        door(&pool_class, ABSTRACT_GETCONN, "_getconn", getconn::<ABSTRACT_GETCONN>)?;
        door(&pool_class, ABSTRACT_PUTCONN, "_putconn", putconn::<ABSTRACT_PUTCONN>)?;
        let [getkey, getconn, putconn] = HOOKS.map(|name| pool_class.getattr(name).map(Bound::unbind));
        let hooks = [getkey?, getconn?, putconn?];
        ORIGINALS.lock().unwrap_or_else(PoisonError::into_inner).push(hooks);
    } else {
        return Err(PyTypeError::new_err(format!("{pool_class} is no pool")));
    }
    Ok(pool_class)
}

fn door(class: &Bound<'_, PyType>, method: usize, name: &str, entry: ffi::PyCFunctionFastWithKeywords) -> PyResult<()> {
    let py = class.py();
    let behind = class.getattr(name)?;
    let signature: String = behind.getattr("__text_signature__")?.extract()?;
    let text: String = behind.getattr("__doc__")?.extract()?;
    // CPython's form of a signature in a docstring. It keeps pointers to all of this for as long as it runs.
    let doc = CString::new(format!("{name}{signature}\n--\n\n{text}"))?;
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: CString::new(name)?.into_raw(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: entry },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.into_raw(),
    }));
    // Where the module is made again, the same method stands behind another door.
    let _ = METHODS[method].set(py, behind.unbind());
    // SAFETY: `definition` and what it points to are leaked and outlive the descriptor; `entry` has the type that its
    // flags announce; the class is a type object. The descriptor checks that `self` is an instance of the class.
    let descriptor = unsafe {
        let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(py, descriptor)?
    };
    class.setattr(name, descriptor)
}

/// What keeps `getconn()` from being answered here.
const fn getconn_detours(method: usize) -> u64 {
    let hook = if method == GETCONN { detours::GETCONN } else { 0 };
    hook | detours::GETKEY | detours::LOANS
}

/// What keeps `putconn(conn)` from being answered here.
const fn putconn_detours(method: usize) -> u64 {
    let hook = if method == PUTCONN { detours::PUTCONN } else { 0 };
    hook | detours::RETURNS
}

/// `getconn()`: lends what came back last.
unsafe extern "C" fn getconn<const METHOD: usize>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls us attached, with an instance of the descriptor's class and a vector of `count`
    // arguments, followed by as many as `names` has.
    unsafe {
        if count == 0 && names.is_null() {
            let py = Python::assume_attached();
            let pool = Borrowed::from_ptr(py, slf).cast_unchecked::<AbstractPool>();
            if let Some(ledger) = pool.get().ledger_unless(const { getconn_detours(METHOD) })
                && let Some(connection) = ledger.lend_idle(thread_ident(), now())
            {
                // An idle connection is held as itself.
                return connection.held().clone_ref(py).into_ptr();
            }
        }
        go_through(METHOD, slf, args, count, names)
    }
}

/// `putconn(conn)`: takes a clean connection back.
unsafe extern "C" fn putconn<const METHOD: usize>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        if count == 1 && names.is_null() {
            let py = Python::assume_attached();
            let pool = Borrowed::from_ptr(py, slf).cast_unchecked::<AbstractPool>();
            let connection = Borrowed::from_ptr(py, *args);
            if let Some(ledger) = pool.get().ledger_unless(const { putconn_detours(METHOD) }) {
                match pool.get().is_clean(&connection) {
                    Ok(true) if ledger.keep_clean(address(&connection), now()) => return py.None().into_ptr(),
                    Ok(_) => {}
                    Err(error) => return interrupted(METHOD, slf, args, error),
                }
            }
        }
        go_through(METHOD, slf, args, count, names)
    }
}

/// Deals with an error of the one question. Most often it says that the object is no psycopg2 connection, and the
/// method behind the door asks it something else. A `KeyboardInterrupt` passes on; the connection is let go.
#[cold]
unsafe fn interrupted(
    method: usize,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    error: PyErr,
) -> *mut ffi::PyObject {
    // SAFETY: as for the caller, which was given one argument and no names. Not `Python::attach`, which would refuse
    // while the interpreter ends.
    unsafe {
        let py = Python::assume_attached();
        if is_plain(py, &error) {
            drop(error);
            return go_through(method, slf, args, 1, std::ptr::null_mut());
        }
        let (pool, connection) = (Borrowed::from_ptr(py, slf), Borrowed::from_ptr(py, *args));
        if let Some(behind) = METHODS[method].get(py) {
            // That of the return has no say any more.
            drop(behind.call1(py, (pool, connection, py.None(), true)));
        }
        error.restore(py);
        std::ptr::null_mut()
    }
}

/// Calls the method behind the door with the arguments as they came.
#[cold]
unsafe fn go_through(
    method: usize,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as for the callers; `args` is read only where it has something; the new vector holds borrowed pointers that
    // live as long as the call. Every method was found before the door was put in front of it.
    unsafe {
        let py = Python::assume_attached();
        let Some(behind) = METHODS[method].get(py) else { return std::ptr::null_mut() };
        let by_name = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) };
        let all = (count + by_name).unsigned_abs();
        // There may be no vector at all where there is nothing in it.
        let given = if all == 0 { &[] } else { std::slice::from_raw_parts(args, all) };
        let vector: Vec<_> = std::iter::once(slf).chain(given.iter().copied()).collect();
        ffi::PyObject_Vectorcall(behind.as_ptr(), vector.as_ptr(), count.unsigned_abs() + 1, names)
    }
}
