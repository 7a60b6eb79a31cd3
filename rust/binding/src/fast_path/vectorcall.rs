//! A call by CPython's vectorcall protocol, and the methods that it goes on to.

use std::sync::Arc;

use pgpool_core::{Rank, SharedLedger};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString, PyTuple};

use crate::arguments::{Flag, Priority, TimeoutArg, Truth};
use crate::give_back::give_back_without_python;
use crate::handle::{Handle, address};
use crate::keys::plain_key;
use crate::loan::Loan;
use crate::pool::{AbstractPool, ThreadedPool};
use crate::system::{now, thread_ident};
use crate::wait::Waker;

/// The methods that a call falls back to.
pub(super) static METHODS: [PyOnceLock<Py<PyAny>>; 7] = [const { PyOnceLock::new() }; 7];
pub(super) const GETCONN: usize = 0;
pub(super) const PUTCONN: usize = 1;
pub(super) const ABSTRACT_GETCONN: usize = 2;
pub(super) const ABSTRACT_PUTCONN: usize = 3;
pub(super) const CONNECTION: usize = 4;
pub(super) const ENTER: usize = 5;
pub(super) const EXIT: usize = 6;

/// Takes `None` for a connection or a key as not given.
fn given<'a, 'py>(argument: Option<Borrowed<'a, 'py, PyAny>>) -> Option<Borrowed<'a, 'py, PyAny>> {
    argument.filter(|argument| !argument.is_none())
}

/// Says whether this is a time that `getconn` may wait, as far as that is known without Python code.
fn is_plain_timeout(timeout: &Bound<'_, PyAny>) -> bool {
    let number = timeout.is_exact_instance_of::<PyFloat>() || timeout.is_exact_instance_of::<PyInt>();
    timeout.is_none() || number && timeout.extract().is_ok_and(|seconds: f64| seconds >= 0.0)
}

/// A call, as the interpreter makes it: the arguments by position, and behind them those by name.
pub(super) struct Call<'py> {
    pub(super) py: Python<'py>,
    method: usize,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    /// Null, or a tuple of strings.
    names: *mut ffi::PyObject,
}

impl<'py> Call<'py> {
    /// # Safety
    /// The thread is attached. `slf` is a [`Loan`] where `method` is `ENTER` or `EXIT`, a [`ThreadedPool`] where it is `GETCONN` or
    /// `PUTCONN`, and else an [`AbstractPool`]. `names` is null or a tuple of strings. `args` has `count` objects, and behind them one
    /// for each name. All of these live as long as the call.
    #[inline]
    pub(super) unsafe fn new(
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
    pub(super) fn pool(&self) -> Borrowed<'_, 'py, AbstractPool> {
        // SAFETY: as `new` was promised.
        unsafe { Borrowed::from_ptr(self.py, self.slf).cast_unchecked() }
    }

    #[inline]
    pub(super) fn loan(&self) -> Borrowed<'_, 'py, Loan> {
        // SAFETY: as `new` was promised.
        unsafe { Borrowed::from_ptr(self.py, self.slf).cast_unchecked() }
    }

    /// Says whether the interpreter's stack has room for one more call. If it has none, an error is set.
    #[inline]
    pub(super) fn has_a_level_left(_attached: Python<'_>) -> bool {
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
    pub(super) fn has_no_arguments(&self) -> bool {
        self.count == 0 && self.names.is_null()
    }

    /// Gives the argument of a call that has one, by position.
    #[inline]
    pub(super) fn only_argument(&self) -> Option<Borrowed<'_, 'py, PyAny>> {
        // SAFETY: as `new` was promised, there is one.
        (self.count == 1 && self.names.is_null()).then(|| unsafe { Borrowed::from_ptr(self.py, *self.args) })
    }

    /// Says whether the arguments are those of a block that has ended without an exception: three, the first of them None.
    #[inline]
    pub(super) fn ended_without_exception(&self) -> bool {
        // SAFETY: as `new` was promised.
        self.count == 3 && self.names.is_null() && unsafe { *self.args == ffi::Py_None() }
    }

    /// As `getconn()`, under a plain key perhaps, and with a timeout, which an idle connection does not need.
    #[inline(never)]
    pub(super) fn answer_getconn(&self, ledger: &SharedLedger<Handle, Waker>) -> Option<Arc<Handle>> {
        let [key, timeout] = self.fit(["key", "timeout"])?;
        // Only `getconn` takes a timeout, and only by name.
        if timeout.is_some_and(|timeout| self.method != GETCONN || self.count > 1 || !is_plain_timeout(&timeout)) {
            return None;
        }
        let Some(key) = given(key) else { return Some(ledger.lend_idle(thread_ident(), now())?.1) };
        Self::attached(self.py, |_| {
            Some(ledger.lend_idle_as(Rank::Normal, Some(plain_key(&key)?), thread_ident(), now())?.1)
        })
    }

    /// As `putconn(conn)`, with a plain key perhaps.
    #[inline(never)]
    pub(super) fn answer_putconn(&self, ledger: &SharedLedger<Handle, Waker>) -> bool {
        let Some([connection, key, close]) = self.fit(["conn", "key", "close"]) else { return false };
        let may_keep = close.is_none_or(|close| close.is(PyBool::new(self.py, false)));
        let pool = self.pool();
        let clean = given(connection).filter(|connection| may_keep && pool.get().is_clean(connection));
        clean.is_some_and(|connection| {
            let unkeyed = key.is_none_or(|key| key.is_none());
            unkeyed && ledger.take_back_clean(address(&connection), now())
                || Self::attached(self.py, |_| give_back_without_python(&pool, &connection, given(key).as_deref()))
        })
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

    /// Puts the arguments into the order of the parameters.
    fn fit<const N: usize>(&self, parameters: [&str; N]) -> Option<[Option<Borrowed<'_, 'py, PyAny>>; N]> {
        let mut fitted = [None; N];
        for (nth, &argument) in self.arguments().iter().enumerate() {
            let place = match nth.checked_sub(self.count.unsigned_abs()) {
                None => nth,
                Some(nth) => {
                    let name = self.names()?.get_item(nth).ok()?;
                    let name = name.cast::<PyString>().ok()?.to_str().ok()?;
                    parameters.iter().position(|&parameter| parameter == name)?
                }
            };
            let place = fitted.get_mut(place).filter(|place| place.is_none())?;
            // SAFETY: it is one of the arguments.
            *place = Some(unsafe { Borrowed::from_ptr(self.py, argument) });
        }
        Some(fitted)
    }

    /// Does what the method getconn does. Arguments that do not fit its parameters fall back to it, which refuses them.
    #[cold]
    pub(super) fn call_getconn(&self) -> *mut ffi::PyObject {
        let fitted = self.fit(["key", "timeout", "priority"]).filter(|_| self.count <= 1);
        let Some([key, timeout, priority]) = fitted else { return self.fall_back() };
        let key = given(key);
        self.run(|pool| {
            let timeout = timeout.map_or(Ok(TimeoutArg::Missing), Borrowed::extract)?;
            let priority = priority.map_or(Ok(Priority::MISSING), Borrowed::extract)?;
            if self.method == GETCONN {
                // SAFETY: as `new` was promised.
                return ThreadedPool::getconn(unsafe { pool.cast_unchecked() }, key.as_deref(), timeout, priority);
            }
            AbstractPool::_getconn(pool, key.as_deref(), timeout, priority)
        })
    }

    /// Does what the method putconn does, without a call in between: a stack that had room for getconn has room for putconn.
    #[cold]
    pub(super) fn call_putconn(&self) -> *mut ffi::PyObject {
        let Some([connection, key, close]) = self.fit(["conn", "key", "close"]) else { return self.fall_back() };
        // `_putconn` needs the argument, which may be None.
        if self.method == ABSTRACT_PUTCONN && connection.is_none() {
            return self.fall_back();
        }
        let [connection, key] = [connection, key].map(given);
        let (connection, key) = (connection.as_deref(), key.as_deref());
        let close = Flag(close.map(Borrowed::to_owned));
        self.run(|pool| {
            if self.method == PUTCONN {
                // SAFETY: as `new` was promised.
                ThreadedPool::putconn(unsafe { pool.cast_unchecked() }, connection, key, close)?;
            } else {
                AbstractPool::_putconn(pool, connection, key, Truth(close.is_truthy()?))?;
            }
            Ok(pool.py().None())
        })
    }

    /// Does what the method `__exit__` does, without a call in between, as [`Call::call_putconn`].
    #[cold]
    pub(super) fn call_exit(&self) -> *mut ffi::PyObject {
        let fitted = self.fit(["exc_type", "exc_value", "_traceback"]);
        let Some(raised @ [Some(_), Some(_), Some(_)]) = fitted else { return self.fall_back() };
        let raised = raised.map(given);
        let [class, value, traceback] = raised.each_ref().map(Option::as_deref);
        let exit = |py: Python<'_>| self.loan().get().__exit__(py, class, value, traceback).map(|()| py.None());
        self.give(Self::attached(self.py, exit))
    }

    fn run(&self, body: impl FnOnce(&Bound<'_, AbstractPool>) -> PyResult<Py<PyAny>>) -> *mut ffi::PyObject {
        let done = Self::attached(self.py, |_| body(&self.pool()));
        self.give(done)
    }

    /// Runs what drops references, or calls Python: `PyO3` must know that the thread is attached.
    fn attached<T>(_attached: Python<'py>, body: impl FnOnce(Python<'_>) -> T) -> T {
        // SAFETY: the interpreter runs, since it has called us, and the thread is attached. This only tells PyO3 so; the check that
        // it leaves out would refuse an interpreter that is ending.
        unsafe { Python::attach_unchecked(body) }
    }

    pub(super) fn give(&self, done: PyResult<Py<PyAny>>) -> *mut ffi::PyObject {
        done.map_or_else(
            |error| {
                error.restore(self.py);
                std::ptr::null_mut()
            },
            Py::into_ptr,
        )
    }

    /// Calls the method with the arguments as they came.
    #[cold]
    pub(super) fn fall_back(&self) -> *mut ffi::PyObject {
        let Some(method) = METHODS[self.method].get(self.py) else { return std::ptr::null_mut() };
        let vector: Vec<_> = std::iter::once(self.slf).chain(self.arguments().iter().copied()).collect();
        // SAFETY: the vector holds `slf`, then what `new` was promised.
        unsafe { ffi::PyObject_Vectorcall(method.as_ptr(), vector.as_ptr(), self.count.unsigned_abs() + 1, self.names) }
    }
}
