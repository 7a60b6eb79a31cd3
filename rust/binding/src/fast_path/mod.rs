//! The fast path: an idle connection is lent, and a clean one comes back, by `getconn` and `putconn`, with a plain key or keywords
//! perhaps, or by a block of `connection()`.
//!
//! It is written on the C API itself, since `PyO3`'s generated wrappers cost nearly as much as all the rest. A call that it cannot
//! answer goes on to `methods` or `loan`, which would answer every call.
//!
//! Until then no Python runs here: `probe` calls psycopg2's C function, and reads a connection's members where CPython reads them.

pub(crate) mod flags;
pub(crate) mod probe;
mod vectorcall;

use std::ffi::CString;
use std::sync::PoisonError;

use pgpool_core::Rank;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::arguments::TimeoutArg;
use crate::fast_path::flags::{HOOKS, ORIGINALS};
use crate::fast_path::vectorcall::{
    ABSTRACT_GETCONN, ABSTRACT_PUTCONN, CONNECTION, Call, ENTER, EXIT, GETCONN, METHODS, PUTCONN,
};
use crate::handle::address;
use crate::loan::Loan;
use crate::pool::{AbstractPool, ThreadedPool};
use crate::system::{now, thread_ident};

/// Put the fast path before a pool class's own methods; a decorator.
///
/// The class is the one that users have, not the one it inherits: the interpreter calls a method fastest on an
/// instance of the very class that the method stands in.
#[pyfunction]
pub(crate) fn fast_path(pool_class: Bound<'_, PyType>) -> PyResult<Bound<'_, PyType>> {
    let py = pool_class.py();
    if pool_class.is_subclass_of::<ThreadedPool>()? {
        put_before(&pool_class, GETCONN, "getconn", getconn::<GETCONN>)?;
        put_before(&pool_class, PUTCONN, "putconn", putconn::<PUTCONN>)?;
    } else if pool_class.is_subclass_of::<AbstractPool>()? {
        put_before(&pool_class, ABSTRACT_GETCONN, "_getconn", getconn::<ABSTRACT_GETCONN>)?;
        put_before(&pool_class, ABSTRACT_PUTCONN, "_putconn", putconn::<ABSTRACT_PUTCONN>)?;
        put_before(&pool_class, CONNECTION, "connection", connection)?;
        if METHODS[ENTER].get(py).is_none() {
            put_before(&py.get_type::<Loan>(), ENTER, "__enter__", enter)?;
            put_before(&py.get_type::<Loan>(), EXIT, "__exit__", exit)?;
        }
        let [getkey, getconn, putconn] = HOOKS.map(|name| pool_class.getattr(name).map(Bound::unbind));
        let hooks = [getkey?, getconn?, putconn?];
        ORIGINALS.lock().unwrap_or_else(PoisonError::into_inner).push(hooks);
    } else {
        return Err(PyTypeError::new_err(format!("{pool_class} is no pool")));
    }
    Ok(pool_class)
}

fn put_before(
    class: &Bound<'_, PyType>,
    method: usize,
    name: &str,
    entry: ffi::PyCFunctionFastWithKeywords,
) -> PyResult<()> {
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
    // If a program imports the package anew, the new class falls back to the same method.
    let _ = METHODS[method].set(py, behind.unbind());
    // SAFETY: `definition` and what it points to are leaked and outlive the descriptor; `entry` has the type that its
    // flags announce; the class is a type object. The descriptor checks that `self` is an instance of the class.
    let descriptor = unsafe {
        let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(py, descriptor)?
    };
    class.setattr(name, descriptor)
}

/// The flags that keep `getconn()` from being answered here.
const fn getconn_flags(method: usize) -> u64 {
    let hook = if method == GETCONN { flags::GETCONN_HOOK } else { 0 };
    hook | flags::GETKEY_HOOK | flags::LOANS
}

/// The flags that keep `putconn(conn)` from being answered here.
const fn putconn_flags(method: usize) -> u64 {
    let hook = if method == PUTCONN { flags::PUTCONN_HOOK } else { 0 };
    hook | flags::RETURNS
}

/// `getconn()`: lends what came back last.
unsafe extern "C" fn getconn<const METHOD: usize>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it for `METHOD`, attached, with what `Call::new` asks for.
    let call = unsafe { Call::new(METHOD, slf, args, count, names) };
    // CPython needs one more level of its stack to call putconn by keyword than to call getconn. So getconn refuses a stack on
    // which putconn would not fit.
    if !Call::has_a_level_left(call.py) {
        return std::ptr::null_mut();
    }
    let Some(ledger) = call.pool().get().ledger_unless(const { getconn_flags(METHOD) }) else {
        return call.call_getconn();
    };
    let lent = if call.has_no_arguments() {
        ledger.lend_idle(thread_ident(), now()).map(|(_, lent)| lent)
    } else {
        call.answer_getconn(ledger)
    };
    // The handle of an idle connection is the object itself.
    lent.map_or_else(|| call.call_getconn(), |connection| connection.held().clone_ref(call.py).into_ptr())
}

/// `putconn(conn)`: takes a clean connection back.
unsafe extern "C" fn putconn<const METHOD: usize>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as for `getconn`.
    let call = unsafe { Call::new(METHOD, slf, args, count, names) };
    let pool = call.pool();
    let Some(ledger) = pool.get().ledger_unless(const { putconn_flags(METHOD) }) else { return call.call_putconn() };
    let taken = match call.only_argument() {
        Some(connection) => pool.get().is_clean(&connection) && ledger.take_back_clean(address(&connection), now()),
        None => call.answer_putconn(ledger),
    };
    if taken { call.py.None().into_ptr() } else { call.call_putconn() }
}

/// `connection()`: makes a loan for a `with` block.
unsafe extern "C" fn connection(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as for `getconn`.
    let call = unsafe { Call::new(CONNECTION, slf, args, count, names) };
    if !call.has_no_arguments() {
        return call.fall_back();
    }
    let loan = Loan::new(call.pool().to_owned().unbind(), None, TimeoutArg::Missing, Rank::Normal);
    call.give(Py::new(call.py, loan).map(Py::into_any))
}

/// `__enter__()` of a loan: lends what came back last.
unsafe extern "C" fn enter(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it for `ENTER`, attached, with what `Call::new` asks for.
    let call = unsafe { Call::new(ENTER, slf, args, count, names) };
    // The end of the block needs a level to commit.
    if !Call::has_a_level_left(call.py) {
        return std::ptr::null_mut();
    }
    let connection = if call.has_no_arguments() { call.loan().get().enter_fast(call.py) } else { None };
    connection.map_or_else(|| call.fall_back(), Py::into_ptr)
}

/// `__exit__(None, None, None)` of a loan: takes a clean connection back.
unsafe extern "C" fn exit(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as for `enter`.
    let call = unsafe { Call::new(EXIT, slf, args, count, names) };
    let ended = if call.ended_without_exception() { call.loan().get().exit_fast(call.py) } else { None };
    let Some(connection) = ended else { return call.call_exit() };
    // SAFETY: the thread is attached, and the reference is ours. `drop` would put it off, since PyO3 does not know that the thread
    // is attached.
    unsafe { ffi::Py_DECREF(connection.into_ptr()) };
    call.py.None().into_ptr()
}
