//! The class that `AbstractConnectionPool` inherits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use pgpool_core::{Pool, Refusal};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::borrow::{borrow, connect};
use crate::connection::{self, Handle};
use crate::error::{Error, is_plain, prepare};
use crate::filing::number_to_key;
use crate::front::is_original;
use crate::give_back::{discard, give_back};
use crate::loan::Loan;
use crate::threaded::ThreadedPool;
use crate::timeout::{Given, Timeout, Waker};

/// What both public classes have in common: the ledger, and the methods that psycopg2.pool's base class has.
#[pyclass(subclass, frozen, name = "AbstractConnectionPool", module = "pgpool_rs._core")]
pub(crate) struct AbstractPool {
    pub(crate) pool: Pool<Handle, Waker>,
    /// Which hooks a subclass or an instance has overridden, found out when that may change.
    hooks: AtomicU8,
    /// How long a borrower waits unless it says otherwise, as the bits of its seconds.
    timeout: AtomicU64,
    /// The type of this pool's connections, once it has been found to be a plain one.
    plain: OnceLock<Py<PyType>>,
}

/// The hooks that psycopg2.pool calls on every loan, and that we call only where they are overridden.
pub(crate) const HOOKS: [&str; 3] = ["_getkey", "_getconn", "_putconn"];

/// Which of them are.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    pub(crate) getkey: bool,
    pub(crate) getconn: bool,
    pub(crate) putconn: bool,
}

/// A flag that is tested for truth, as psycopg2.pool does.
#[derive(Clone, Copy)]
pub(crate) struct Truth(pub(crate) bool);

impl<'py> FromPyObject<'_, 'py> for Truth {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        given.is_truthy().map(Self)
    }
}

impl AbstractPool {
    pub(crate) fn new() -> Self {
        // Until `_find_hooks` has looked, any of them may be overridden.
        Self {
            pool: Pool::default(),
            hooks: AtomicU8::new(u8::MAX),
            timeout: AtomicU64::new(0),
            plain: OnceLock::new(),
        }
    }

    #[inline]
    pub(crate) fn hooks(&self) -> Hooks {
        let bits = self.hooks.load(Ordering::Relaxed);
        Hooks { getkey: bits & 1 != 0, getconn: bits & 2 != 0, putconn: bits & 4 != 0 }
    }

    /// Says whether `get_transaction_status` speaks for a connection. It does if its type has the method by itself, and,
    /// being one of psycopg2's, has no other idea of when it is closed or clean.
    #[inline]
    pub(crate) fn is_plain(&self, connection: &Bound<'_, PyAny>) -> PyResult<bool> {
        let known = self.plain.get();
        if known.is_some_and(|plain| plain.as_ptr().cast() == connection.get_type_ptr()) {
            return Ok(true);
        }
        self.find_out(connection)
    }

    #[cold]
    fn find_out(&self, connection: &Bound<'_, PyAny>) -> PyResult<bool> {
        let class = connection.get_type();
        let plain = connection::is_plain_type(&class)?;
        if plain {
            // A pool with connections of several types has one that is faster than the others.
            let _ = self.plain.set(class.unbind());
        }
        Ok(plain)
    }

    pub(crate) fn ensure_open(&self) -> Result<(), Refusal> {
        if self.pool.counts().closed { Err(Refusal::Closed) } else { Ok(()) }
    }
}

/// Says how long this call waits. Only a threaded pool waits at all.
pub(crate) fn timeout_of(slf: &Bound<'_, AbstractPool>, given: &Given<'_>) -> PyResult<Timeout> {
    let &Given::This(timeout, _) = given else {
        return Ok(Timeout(f64::from_bits(slf.get().timeout.load(Ordering::Relaxed))));
    };
    if slf.is_instance_of::<ThreadedPool>() {
        return Ok(timeout);
    }
    let class = slf.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "{class} takes no timeout: it serves one thread, which would wait for itself; use ThreadedConnectionPool"
    )))
}

#[pymethods]
impl AbstractPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::new()
    }

    /// Empties the ledger, sets the limits and opens minconn connections; closes them again if one fails.
    fn _start(slf: &Bound<'_, Self>, minconn: &Bound<'_, PyAny>, maxconn: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let pool = &slf.get().pool;
        let (minconn, maxconn) = (size("minconn", minconn)?, size("maxconn", maxconn)?);
        prepare(py)?;
        pool.reset();
        pool.set_minconn(minconn);
        drop(pool.set_maxconn(maxconn));
        Self::_find_hooks(slf)?;
        let opened = (0..minconn).try_for_each(|_| slf.call_method0(intern!(py, "_connect")).map(drop));
        opened.inspect_err(|_| {
            let idle = pool.idle();
            for connection in &idle {
                // The error that stopped us is the one to be heard.
                let _ = connection::close(connection.bind(py));
            }
            pool.reset();
        })
    }

    /// Sets how long a borrower waits unless it says otherwise.
    fn _set_timeout(&self, timeout: Timeout) {
        self.timeout.store(timeout.0.to_bits(), Ordering::Relaxed);
    }

    /// Finds out which of the hooks that stand on the fast path are overridden.
    fn _find_hooks(slf: &Bound<'_, Self>) -> PyResult<()> {
        let class = slf.get_type();
        let attributes = slf.getattr("__dict__")?;
        let mut bits = 0;
        for (bit, name) in HOOKS.into_iter().enumerate() {
            if attributes.contains(name)? || !is_original(bit, &class.getattr(name)?) {
                bits |= 1 << bit;
            }
        }
        slf.get().hooks.store(bits, Ordering::Relaxed);
        Ok(())
    }

    // --- psycopg2.pool's own methods -------------------------------------------------------------------------

    /// Open a connection and file it under `key`, or lay it into the pool where there is none. A hook: override it to
    /// open connections in another way.
    #[pyo3(signature = (key=None))]
    fn _connect<'py>(slf: &Bound<'py, Self>, key: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        Ok(connect(slf, key)?)
    }

    /// Make up a key. A hook: override it to lend by a key of your own where none is given.
    fn _getkey<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        number_to_key(py, self.pool.next_number())
    }

    /// Lend a connection, as `getconn` does.
    #[expect(clippy::needless_pass_by_value, reason = "an argument is what it was converted to")]
    #[pyo3(signature = (key=None, *, timeout=Given::Nothing), text_signature = "($self, key=None, *, timeout=...)")]
    fn _getconn(slf: &Bound<'_, Self>, key: Option<&Bound<'_, PyAny>>, timeout: Given<'_>) -> PyResult<Py<PyAny>> {
        Ok(borrow(slf, key, timeout_of(slf, &timeout)?)?)
    }

    /// Take a connection back, as `putconn` does.
    #[pyo3(signature = (conn, key=None, close=Truth(false)), text_signature = "($self, conn, key=None, close=False)")]
    fn _putconn(
        slf: &Bound<'_, Self>,
        conn: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        close: Truth,
    ) -> PyResult<()> {
        Ok(give_back(slf, conn, key, close.0)?)
    }

    /// Close every connection, as `closeall` does.
    fn _closeall(&self, py: Python<'_>) -> PyResult<()> {
        let mut interrupted = None;
        for connection in self.pool.close().map_err(Error::from)? {
            if let Err(error) = connection::close(connection.bind(py))
                && !is_plain(py, &error)
                && interrupted.is_none()
            {
                interrupted = Some(error);
            }
        }
        interrupted.map_or(Ok(()), Err)
    }

    // --- ours ------------------------------------------------------------------------------------------------

    /// Lend a connection for a `with` block, which commits at its end, or rolls back if it raises, and returns the
    /// connection in any case. Key, timeout and errors are those of `getconn`.
    #[pyo3(signature = (key=None, *, timeout=Given::Nothing), text_signature = "($self, key=None, *, timeout=...)")]
    fn connection(slf: &Bound<'_, Self>, key: Option<Py<PyAny>>, timeout: Given<'_>) -> PyResult<Loan> {
        timeout_of(slf, &timeout)?;
        Ok(Loan::new(slf.clone().into_any().unbind(), key, timeout))
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().ensure_open().map_err(Error::from)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(slf: &Bound<'_, Self>, _exc_info: &Bound<'_, PyTuple>) -> PyResult<()> {
        if !slf.get().pool.counts().closed {
            slf.call_method0(intern!(slf.py(), "closeall"))?;
        }
        Ok(())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = slf.get_type();
        let counts = slf.get().pool.counts();
        let closed = if counts.closed { " closed" } else { "" };
        Ok(format!(
            "<{}.{}{closed} idle={} lent={} opening={} returning={} waiting={} minconn={} maxconn={}>",
            class.module()?,
            class.qualname()?,
            counts.idle,
            counts.lent + counts.promised,
            counts.opening,
            counts.returning,
            counts.waiting,
            counts.minconn,
            counts.maxconn,
        ))
    }

    // --- attributes that are plain ones in psycopg2.pool -----------------------------------------------------

    /// How many idle connections are kept.
    #[getter]
    fn minconn(&self) -> usize {
        self.pool.counts().minconn
    }

    #[setter]
    fn set_minconn(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.pool.set_minconn(size("minconn", value)?);
        Ok(())
    }

    /// How many connections there are at most.
    #[getter]
    fn maxconn(&self) -> usize {
        self.pool.counts().maxconn
    }

    #[setter]
    fn set_maxconn(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let surplus = self.pool.set_maxconn(size("maxconn", value)?);
        surplus.into_iter().map(|surplus| discard(value.py(), surplus)).fold(Ok(()), Result::and)
    }

    /// Whether the pool is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.pool.counts().closed
    }

    #[setter]
    fn set_closed(&self, value: Truth) {
        self.pool.set_closed(value.0);
    }

    /// The last automatic key that was given out, as a number.
    #[getter(_keys)]
    fn keys(&self) -> u64 {
        self.pool.last_number()
    }

    #[setter(_keys)]
    fn set_keys(&self, value: u64) {
        self.pool.set_last_number(value);
    }

    // --- garbage collection ----------------------------------------------------------------------------------

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = self.plain.get().map_or(Ok(()), |plain| visit.call(plain));
        self.pool.try_visit(|handle| {
            if result.is_ok() {
                result = visit.call(handle);
            }
        });
        result
    }

    fn __clear__(&self) {
        self.pool.reset();
    }
}

/// Reads a size: anything that `int()` takes and that is not negative.
fn size(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let number = value.py().import("builtins")?.call_method1("int", (value,))?;
    if number.lt(0)? {
        return Err(PyValueError::new_err(format!("{name} must be 0 or more, not {number}")));
    }
    // More than can be counted is as good as no limit.
    Ok(number.extract().unwrap_or(usize::MAX))
}
