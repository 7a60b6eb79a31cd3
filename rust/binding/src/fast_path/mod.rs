//! The fast path: `pool.getconn()` with an idle connection, and `pool.putconn(conn)` with a clean one.
//!
//! It answers these two calls on the C API itself. The pair takes little more than half the time that it takes through generated
//! wrappers, which unpack arguments that the caller did not give. All other calls fall back to `methods`, which would answer these
//! two as well.
//!
//! No Python runs here: `probe` calls psycopg2's C function, and reads a connection's members where CPython reads them.

pub(crate) mod flags;
pub(crate) mod probe;

use std::ffi::CString;
use std::sync::PoisonError;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::arguments::{Flag, Truth};
use crate::fast_path::flags::{HOOKS, ORIGINALS};
use crate::handle::address;
use crate::pool::{AbstractPool, ThreadedPool};
use crate::system::{now, thread_ident};

/// The methods that a call falls back to.
static METHODS: [PyOnceLock<Py<PyAny>>; 4] = [const { PyOnceLock::new() }; 4];
const GETCONN: usize = 0;
const PUTCONN: usize = 1;
const ABSTRACT_GETCONN: usize = 2;
const ABSTRACT_PUTCONN: usize = 3;

/// Put the fast path before a pool class's own methods; a decorator.
///
/// The class is the one that users have, not the one it inherits: the interpreter calls a method fastest on an
/// instance of the very class that the method stands in.
#[pyfunction]
pub(crate) fn fast_path(pool_class: Bound<'_, PyType>) -> PyResult<Bound<'_, PyType>> {
    if pool_class.is_subclass_of::<ThreadedPool>()? {
        put_before(&pool_class, GETCONN, "getconn", getconn::<GETCONN>)?;
        put_before(&pool_class, PUTCONN, "putconn", putconn::<PUTCONN>)?;
    } else if pool_class.is_subclass_of::<AbstractPool>()? {
        put_before(&pool_class, ABSTRACT_GETCONN, "_getconn", getconn::<ABSTRACT_GETCONN>)?;
        put_before(&pool_class, ABSTRACT_PUTCONN, "_putconn", putconn::<ABSTRACT_PUTCONN>)?;
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
    let hook = if method == GETCONN { flags::GETCONN } else { 0 };
    hook | flags::GETKEY | flags::LOANS
}

/// The flags that keep `putconn(conn)` from being answered here.
const fn putconn_flags(method: usize) -> u64 {
    let hook = if method == PUTCONN { flags::PUTCONN } else { 0 };
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
    let pool = call.pool();
    if call.has_no_arguments()
        && let Some(ledger) = pool.get().ledger_unless(const { getconn_flags(METHOD) })
        && let Some(connection) = ledger.lend_idle(thread_ident(), now())
    {
        // The handle of an idle connection is the object itself.
        return connection.held().clone_ref(call.py).into_ptr();
    }
    call.fall_back()
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
    if let Some(connection) = call.only_argument()
        && let Some(ledger) = pool.get().ledger_unless(const { putconn_flags(METHOD) })
        && pool.get().is_clean(&connection)
        && ledger.take_back_clean(address(&connection), now())
    {
        return call.py.None().into_ptr();
    }
    call.call_putconn()
}

/// A call, as the interpreter makes it: the arguments by position, and behind them those by name.
struct Call<'py> {
    py: Python<'py>,
    method: usize,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    /// Null, or a tuple of strings.
    names: *mut ffi::PyObject,
}

impl<'py> Call<'py> {
    /// # Safety
    /// The thread is attached. `slf` is an instance of the class that `method` was put before, which is a subclass of
    /// [`AbstractPool`]; of [`ThreadedPool`], for `GETCONN` and `PUTCONN`. `args` has `count` objects, and behind them as many as
    /// `names` has, which is null or a tuple of strings. All of these live as long as the call.
    #[inline]
    unsafe fn new(
        method: usize,
        slf: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Self {
        // SAFETY: the caller promises it.
        Self { py: unsafe { Python::assume_attached() }, method, slf, args, count, names }
    }

    #[inline]
    fn pool(&self) -> Borrowed<'_, 'py, AbstractPool> {
        // SAFETY: as `new` was promised.
        unsafe { Borrowed::from_ptr(self.py, self.slf).cast_unchecked() }
    }

    /// Says whether the interpreter's stack has room for one more call. If it has none, an error is set.
    #[inline]
    fn has_a_level_left(_attached: Python<'_>) -> bool {
        // SAFETY: the thread is attached. A level that was entered is left.
        unsafe {
            let entered = ffi::Py_EnterRecursiveCall(c" while lending a connection".as_ptr()) == 0;
            if entered {
                ffi::Py_LeaveRecursiveCall();
            }
            entered
        }
    }

    #[inline]
    fn has_no_arguments(&self) -> bool {
        self.count == 0 && self.names.is_null()
    }

    /// Gives the argument of a call that has one, by position.
    #[inline]
    fn only_argument(&self) -> Option<Borrowed<'_, 'py, PyAny>> {
        // SAFETY: as `new` was promised, there is one.
        (self.count == 1 && self.names.is_null()).then(|| unsafe { Borrowed::from_ptr(self.py, *self.args) })
    }

    fn names(&self) -> Option<Borrowed<'_, 'py, PyTuple>> {
        // SAFETY: as `new` was promised.
        (!self.names.is_null()).then(|| unsafe { Borrowed::from_ptr(self.py, self.names).cast_unchecked() })
    }

    /// Gives all arguments, those by name last.
    fn arguments(&self) -> &[*mut ffi::PyObject] {
        let all = self.count.unsigned_abs() + self.names().map_or(0, |names| names.len());
        // Without arguments the vector may be null.
        // SAFETY: as `new` was promised, there are so many.
        if all == 0 { &[] } else { unsafe { std::slice::from_raw_parts(self.args, all) } }
    }

    /// Puts the arguments of putconn into the order of its parameters. `None` for a connection or a key counts as not given.
    fn fit(&self) -> Option<[Option<Borrowed<'_, 'py, PyAny>>; 3]> {
        let mut fitted = [None; 3];
        for (nth, &argument) in self.arguments().iter().enumerate() {
            let place = match nth.checked_sub(self.count.unsigned_abs()) {
                None => nth,
                Some(nth) => {
                    let name = self.names()?.get_item(nth).ok()?;
                    let name = name.cast::<PyString>().ok()?.to_str().ok()?;
                    ["conn", "key", "close"].iter().position(|&parameter| parameter == name)?
                }
            };
            let place = fitted.get_mut(place).filter(|place| place.is_none())?;
            // SAFETY: it is one of the arguments.
            *place = Some(unsafe { Borrowed::from_ptr(self.py, argument) });
        }
        let [connection, key, close] = fitted;
        let [connection, key] = [connection, key].map(|given| given.filter(|given| !given.is_none()));
        Some([connection, key, close])
    }

    /// Does what the method does, without a call in between: a stack that had room for getconn has room for putconn. Arguments that
    /// do not fit the parameters fall back to the method, which refuses them.
    #[cold]
    fn call_putconn(&self) -> *mut ffi::PyObject {
        let Some([connection, key, close]) = self.fit() else { return self.fall_back() };
        // `_putconn` needs the argument, which may be None.
        if self.method == ABSTRACT_PUTCONN && self.arguments().is_empty() {
            return self.fall_back();
        }
        let (connection, key) = (connection.as_deref(), key.as_deref());
        let close = Flag(close.map(Borrowed::to_owned));
        // SAFETY: the thread is attached already, so the interpreter may end meanwhile: this only notes that. The classes are
        // those that `new` was promised.
        let taken = unsafe {
            Python::attach_unchecked(|py| {
                let pool = Borrowed::from_ptr(py, self.slf);
                if self.method == PUTCONN {
                    return ThreadedPool::putconn(&pool.cast_unchecked(), connection, key, close);
                }
                AbstractPool::_putconn(&pool.cast_unchecked(), connection, key, Truth(close.is_truthy()?))
            })
        };
        match taken {
            Ok(()) => self.py.None().into_ptr(),
            Err(error) => {
                error.restore(self.py);
                std::ptr::null_mut()
            }
        }
    }

    /// Calls the method with the arguments as they came.
    #[cold]
    fn fall_back(&self) -> *mut ffi::PyObject {
        let Some(method) = METHODS[self.method].get(self.py) else { return std::ptr::null_mut() };
        let vector: Vec<_> = std::iter::once(self.slf).chain(self.arguments().iter().copied()).collect();
        // SAFETY: the vector holds `slf`, then what `new` was promised.
        unsafe { ffi::PyObject_Vectorcall(method.as_ptr(), vector.as_ptr(), self.count.unsigned_abs() + 1, self.names) }
    }
}
