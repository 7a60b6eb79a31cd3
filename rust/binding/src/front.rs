//! The front door: what a web worker does ten thousand times a second, and nothing else.
//!
//! `pool.getconn()` with an idle connection and `pool.putconn(conn)` with a clean one are answered here, on the C API
//! itself, for the pair in little more than half the time that it takes through generated wrappers, which unpack
//! arguments that they were not given. Whatever else is asked goes through to the methods in `pool` and `threaded`, which know everything and would also answer this.

use std::ffi::CString;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

use crate::connection::address;
use crate::detours::{self, HOOKS};
use crate::error::is_plain;
use crate::give_back::give_back;
use crate::pool::{AbstractPool, Truth};
use crate::system::{now, thread_ident};
use crate::threaded::{Flag, ThreadedPool};

/// The methods behind the door.
static METHODS: [PyOnceLock<Py<PyAny>>; 4] = [const { PyOnceLock::new() }; 4];
const GETCONN: usize = 0;
const PUTCONN: usize = 1;
const ABSTRACT_GETCONN: usize = 2;
const ABSTRACT_PUTCONN: usize = 3;

/// The hooks as they were before anybody could override or patch one.
static ORIGINALS: [PyOnceLock<Py<PyAny>>; 3] = [const { PyOnceLock::new() }; 3];

/// Says whether what a class has under the name of a hook is the hook itself.
pub(crate) fn is_original(hook: usize, found: &Bound<'_, PyAny>) -> bool {
    ORIGINALS[hook].get(found.py()).is_some_and(|original| original.is(found))
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
        for (original, name) in ORIGINALS.iter().zip(HOOKS) {
            let _ = original.set(pool_class.py(), pool_class.getattr(name)?.unbind());
        }
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
        take_back(METHOD, slf, args, count, names)
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
            return take_back(method, slf, args, 1, std::ptr::null_mut());
        }
        let (pool, connection) = (Borrowed::from_ptr(py, slf), Borrowed::from_ptr(py, *args));
        let pool = pool.cast_unchecked::<AbstractPool>();
        // What is raised by the return has no say any more.
        Python::attach_unchecked(|_| drop(give_back(&pool, Some(&connection), None, true)));
        error.restore(py);
        std::ptr::null_mut()
    }
}

/// Does what the method behind the door does, without a call in between: where the stack was deep enough for getconn, it is
/// for putconn. What does not fit the parameters goes through, to be refused.
#[cold]
unsafe fn take_back(
    method: usize,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as for the caller. `fit` reads as many arguments as there are. The classes are those that the door was put
    // in front of. The interpreter is attached already, so it may end meanwhile: `attach_unchecked` only notes that.
    unsafe {
        Python::attach_unchecked(|py| {
            let Some([connection, key, close]) = fit(py, args, count, names) else {
                return go_through(method, slf, args, count, names);
            };
            let (connection, key) = (connection.as_deref(), key.as_deref());
            let close = Flag(close.map(Borrowed::to_owned));
            let pool = Borrowed::from_ptr(py, slf);
            let taken = match method {
                PUTCONN => ThreadedPool::putconn(&pool.cast_unchecked(), connection, key, close),
                // This one cannot do without.
                _ if count == 0 && connection.is_none() => return go_through(method, slf, args, count, names),
                _ => close
                    .is_truthy()
                    .and_then(|close| AbstractPool::_putconn(&pool.cast_unchecked(), connection, key, Truth(close))),
            };
            match taken {
                Ok(()) => py.None().into_ptr(),
                Err(error) => {
                    error.restore(py);
                    std::ptr::null_mut()
                }
            }
        })
    }
}

/// Lays the arguments of putconn out in the order of its parameters. `None` for a connection or a key is as good as nothing.
unsafe fn fit<'a>(
    py: Python<'a>,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<[Option<Borrowed<'a, 'a, PyAny>>; 3]> {
    // SAFETY: as for the caller: behind `count` arguments there are as many as `names`, a tuple of strings, has.
    unsafe {
        let mut fitted = [None; 3];
        let by_name = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) };
        for nth in 0..count + by_name {
            let at = if nth < count {
                nth.unsigned_abs()
            } else {
                let name = Borrowed::from_ptr(py, ffi::PyTuple_GET_ITEM(names, nth - count));
                let name = name.cast::<PyString>().ok()?;
                let name = name.to_str().ok()?;
                ["conn", "key", "close"].iter().position(|&parameter| parameter == name)?
            };
            let place = fitted.get_mut(at).filter(|place| place.is_none())?;
            *place = Some(Borrowed::from_ptr(py, *args.add(nth.unsigned_abs())));
        }
        let given = |argument: Option<Borrowed<'a, 'a, PyAny>>| argument.filter(|argument| !argument.is_none());
        let [connection, key, close] = fitted;
        Some([given(connection), given(key), close])
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
