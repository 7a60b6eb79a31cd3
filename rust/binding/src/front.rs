//! The front door: what a web worker does ten thousand times a second, and nothing else.
//!
//! `pool.getconn()` with an idle connection and `pool.putconn(conn)` with a clean one are answered here, on the C API
//! itself, for the pair in little more than half the time that it takes through generated wrappers, which unpack
//! arguments that they were not given. Whatever else is asked goes through to the methods in `pool` and `threaded`, which know everything and would also answer this.
//!
//! No Python runs here: psycopg2's connections are asked by the C function, and read where CPython itself reads them.

use std::ffi::{CString, c_int};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

use crate::connection::{IDLE, READY, address};
use crate::detours::{self, HOOKS};
use crate::names::name;
use crate::pool::{AbstractPool, Truth};
use crate::system::{now, thread_ident};
use crate::threaded::{Flag, ThreadedPool};

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
        // CPython takes one level of its stack more to call putconn by keyword than to call getconn. So a stack that putconn
        // would not fit on is too deep already.
        if ffi::Py_EnterRecursiveCall(c" while lending a connection".as_ptr()) != 0 {
            return std::ptr::null_mut();
        }
        ffi::Py_LeaveRecursiveCall();
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
            if let Some(ledger) = pool.get().ledger_unless(const { putconn_detours(METHOD) })
                && pool.get().is_clean(&connection)
                && ledger.take_back_clean(address(&connection), now())
            {
                return py.None().into_ptr();
            }
        }
        take_back(METHOD, slf, args, count, names)
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

// --- psycopg2's connections, from within ---------------------------------------------------------------------------------

/// A type of connections that are asked here: psycopg2's own, or a subclass that has no other idea of when a connection is
/// closed or clean.
pub(crate) struct Plain {
    class: Py<PyType>,
    inside: &'static Inside,
}

impl Plain {
    /// Finds out whether the type of a connection is one of these. Where a metaclass raises, it is none.
    pub(crate) fn find(connection: &Bound<'_, PyAny>) -> Option<Self> {
        let (py, class) = (connection.py(), connection.get_type());
        let inside = inside(py).filter(|inside| inside.is_of(connection))?;
        for name in ["closed", "info", "status", "get_transaction_status", "__getattribute__"] {
            if !class.getattr(name).ok()?.is(&inside.class.bind(py).getattr(name).ok()?) {
                return None;
            }
        }
        Some(Self { class: class.unbind(), inside })
    }

    /// Says whether a connection is open, and in no transaction by either account; nothing, if it is of another type.
    #[inline]
    pub(crate) fn is_clean(&self, connection: &Bound<'_, PyAny>) -> Option<bool> {
        // SAFETY: the class was found to be psycopg2's, or a subclass of it.
        (self.class.as_ptr() == connection.get_type_ptr().cast()).then(|| unsafe { self.inside.is_clean(connection) })
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.class)
    }
}

/// Says whether psycopg2 has begun a two-phase transaction, which no attribute of a connection tells. What is no connection of
/// psycopg2's has none that could be seen.
pub(crate) fn has_begun_two_phase(connection: &Bound<'_, PyAny>) -> bool {
    // SAFETY: it is asked of psycopg2's connections only.
    inside(connection.py())
        .is_some_and(|inside| inside.is_of(connection) && unsafe { inside.has_begun_two_phase(connection) })
}

/// Where psycopg2's connections keep what they know of a transaction, found out once from the descriptors of their type.
struct Inside {
    class: Py<PyType>,
    /// `get_transaction_status`, libpq's account.
    ask_libpq: ffi::PyCFunction,
    /// What that gives where there is no transaction: CPython has one object for each small integer.
    idle: Py<PyAny>,
    /// The offset of `status`, psycopg2's own account: an `int`.
    status: usize,
    /// The offset of a pointer between `status` and `async`, which no attribute shows: the two-phase transaction that was
    /// begun, or null.
    two_phase: usize,
}

/// Gives it, unless psycopg2 is made otherwise than it is known to be.
fn inside(py: Python<'_>) -> Option<&'static Inside> {
    static INSIDE: PyOnceLock<Option<Inside>> = PyOnceLock::new();
    INSIDE.get_or_init(py, || Inside::find(py).ok().flatten()).as_ref()
}

/// See [`crate::error::prepare`].
pub(crate) fn prepare(py: Python<'_>) {
    inside(py);
}

impl Inside {
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        let class = py.import(name!(py, extensions_module))?.getattr(name!(py, connection))?.cast_into::<PyType>()?;
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
