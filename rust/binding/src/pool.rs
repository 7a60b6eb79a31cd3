//! The class that `AbstractConnectionPool` inherits.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use pgpool_core::{Moment, Refusal, SharedLedger};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::borrow::{borrow, connect};
use crate::call::{call, edit};
use crate::connection::Handle;
use crate::detours::{self, Hooks};
use crate::filing::number_to_key;
use crate::front::Plain;
use crate::give_back::{discard_all, give_back};
use crate::given::whole;
use crate::loan::Loan;
use crate::maintain;
use crate::names::name;
use crate::notes::{annotated, told};
use crate::options::{Checked, Options};
use crate::start::{close, start};
use crate::stats::to_dict;
use crate::system::{now, process};
use crate::text::{repr_of, text_of};
use crate::threaded::ThreadedPool;
use crate::timeout::{Given, Timeout, Waker};
use crate::watch;

/// What both public classes have in common: the ledger, and the methods that psycopg2.pool's base class has.
#[pyclass(subclass, frozen, name = "AbstractConnectionPool", module = "pgpool_rs._core")]
pub(crate) struct AbstractPool {
    /// To be reached through [`AbstractPool::ledger`], which knows of forks.
    ledger: SharedLedger<Handle, Waker>,
    options: RwLock<Arc<Options>>,
    /// The process that the ledger was used in last, and, as the bits below it, what keeps calls from the fast path:
    /// [`detours`]. One number, so that the fast path looks at both at once.
    state: AtomicU64,
    /// How long a borrower waits unless it says otherwise, as the bits of its seconds.
    timeout: AtomicU64,
    /// The type of this pool's connections, once it has been found to be a plain one.
    plain: OnceLock<Plain>,
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
        // Until `_pgpool_find_hooks` has looked, any of them may be overridden.
        Self {
            ledger: SharedLedger::new(RandomState::new().hash_one(0)),
            options: RwLock::default(),
            state: AtomicU64::new(process() | detours::ALL),
            timeout: AtomicU64::new(0),
            plain: OnceLock::new(),
        }
    }

    /// Gives the ledger. In a forked child it begins anew: what it knew are the parent's connections.
    pub(crate) fn ledger(&self) -> &SharedLedger<Handle, Waker> {
        let process = process();
        if self.state.load(Ordering::Relaxed) & !detours::ALL != process {
            self.ledger.enter_process(process, u64::from(std::process::id()));
            let enter = |state: u64| Some(process | state & detours::ALL);
            let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter);
        }
        &self.ledger
    }

    /// Gives the ledger if none of these detours has to be taken, and we are in the process that it was used in last.
    #[inline]
    pub(crate) fn ledger_unless(&self, detours: u64) -> Option<&SharedLedger<Handle, Waker>> {
        (self.state.load(Ordering::Relaxed) & (!detours::ALL | detours) == process()).then_some(&self.ledger)
    }

    #[inline]
    pub(crate) fn hooks(&self) -> Hooks {
        let bits = self.state.load(Ordering::Relaxed);
        Hooks {
            getkey: bits & detours::GETKEY != 0,
            getconn: bits & detours::GETCONN != 0,
            putconn: bits & detours::PUTCONN != 0,
        }
    }

    /// Says whether something is to be done to each new loan.
    pub(crate) fn watches(&self) -> bool {
        self.state.load(Ordering::Relaxed) & detours::LOANS != 0
    }

    /// Gives the options as they are now.
    pub(crate) fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives the pool's name.
    pub(crate) fn name(&self) -> String {
        self.options().name.clone()
    }

    /// Names the pool in a text of ours.
    pub(crate) fn shown_name(&self, py: Python<'_>) -> String {
        let shown = PyString::from_bytes(py, self.name().as_bytes()).and_then(|name| repr_of(name.as_any()));
        shown.map_or_else(|_| "this pool".to_owned(), |name| format!("pool {name}"))
    }

    pub(crate) fn set_detours(&self, detours: u64) {
        let renew = |state: u64| Some(state & !detours::ALL | detours);
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, renew);
    }

    pub(crate) fn set_timeout(&self, seconds: f64) {
        self.timeout.store(seconds.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn set_options(&self, options: Options) {
        let mut place = self.options.write().unwrap_or_else(PoisonError::into_inner);
        let displaced = std::mem::replace(&mut *place, Arc::new(options));
        drop(place);
        drop(displaced);
    }

    /// Says whether a connection is open, and in no transaction by either account. `false` decides nothing: look closer.
    #[inline]
    pub(crate) fn is_clean(&self, connection: &Bound<'_, PyAny>) -> bool {
        match self.plain.get().and_then(|plain| plain.is_clean(connection)) {
            Some(clean) => clean,
            None => self.find_out(connection),
        }
    }

    #[cold]
    fn find_out(&self, connection: &Bound<'_, PyAny>) -> bool {
        let Some(plain) = Plain::find(connection) else { return false };
        let clean = plain.is_clean(connection) == Some(true);
        // A pool with connections of several types has one that is faster than the others.
        let _ = self.plain.set(plain);
        clean
    }

    pub(crate) fn ensure_open(&self) -> Result<(), Refusal> {
        if self.ledger().counts().closed { Err(Refusal::Closed) } else { Ok(()) }
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
    fn _pgpool_start(
        slf: &Bound<'_, Self>,
        minconn: &Bound<'_, PyAny>,
        maxconn: &Bound<'_, PyAny>,
        options: Checked,
    ) -> PyResult<()> {
        start(slf, size("minconn", minconn)?, size("maxconn", maxconn)?, options)
    }

    /// Finds out which of the hooks that stand on the fast path are overridden.
    fn _pgpool_find_hooks(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().set_detours(detours::find(slf)?);
        Ok(())
    }

    /// Do all the housekeeping that is due, and tell in how many seconds there may be something again; None: not before
    /// something happens.
    fn _pgpool_maintain(slf: &Bound<'_, Self>) -> PyResult<Option<f64>> {
        let due = maintain::maintain_alone(slf)?;
        Ok((due < Moment::NEVER).then(|| due.since(now()).as_secs_f64()))
    }

    /// The name of the pool, in its log.
    fn _pgpool_name(&self) -> String {
        self.name()
    }

    // --- psycopg2.pool's own methods -------------------------------------------------------------------------

    /// Open a connection and file it under `key`, or lay it into the pool where there is none. A hook: override it to
    /// open connections in another way.
    #[pyo3(signature = (key=None))]
    fn _connect<'py>(slf: &Bound<'py, Self>, key: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        connect(slf, key)
    }

    /// Make up a key. A hook: override it to lend by a key of your own where none is given.
    fn _getkey<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        number_to_key(py, edit(py, || self.ledger().next_number())?)
    }

    /// Lend a connection, as `getconn` does.
    #[expect(clippy::needless_pass_by_value, reason = "an argument is what it was converted to")]
    #[pyo3(signature = (key=None, *, timeout=Given::Nothing), text_signature = "($self, key=None, *, timeout=...)")]
    fn _getconn(slf: &Bound<'_, Self>, key: Option<&Bound<'_, PyAny>>, timeout: Given<'_>) -> PyResult<Py<PyAny>> {
        borrow(slf, key, timeout_of(slf, &timeout)?)
    }

    /// Take a connection back, as `putconn` does.
    #[pyo3(signature = (conn, key=None, close=Truth(false)), text_signature = "($self, conn, key=None, close=False)")]
    pub(crate) fn _putconn(
        slf: &Bound<'_, Self>,
        conn: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        close: Truth,
    ) -> PyResult<()> {
        Ok(give_back(slf, conn, key, close.0)?)
    }

    /// Close every connection, as `closeall` does.
    fn _closeall(slf: &Bound<'_, Self>) -> PyResult<()> {
        close(slf)
    }

    // --- ours ------------------------------------------------------------------------------------------------

    /// Lend a connection for a `with` block, which commits at its end, or rolls back if it raises, and returns the
    /// connection in any case. Key, timeout and errors are those of `getconn`.
    #[pyo3(signature = (key=None, *, timeout=Given::Nothing), text_signature = "($self, key=None, *, timeout=...)")]
    fn connection(slf: &Bound<'_, Self>, key: Option<Py<PyAny>>, timeout: Given<'_>) -> PyResult<Loan> {
        timeout_of(slf, &timeout)?;
        Ok(Loan::new(slf.clone().unbind(), key, timeout))
    }

    /// Set both limits, as assigning `minconn` and `maxconn` does. Idle connections above `maxconn` are closed now, others as
    /// they come back.
    ///
    /// :param minconn: how many idle connections are kept, and how many open ones the housekeeping sees to.
    /// :param maxconn: how many connections there are at most.
    /// :raises ValueError: a size is negative, or `minconn` is greater than `maxconn`.
    fn resize(slf: &Bound<'_, Self>, minconn: &Bound<'_, PyAny>, maxconn: &Bound<'_, PyAny>) -> PyResult<()> {
        let (least, most) = (size("minconn", minconn)?, size("maxconn", maxconn)?);
        if least > most {
            let text = format!("minconn must not be greater than maxconn, not minconn={least} and maxconn={most}");
            return Err(PyValueError::new_err(text));
        }
        call(slf.py(), || discard_all(slf, slf.get().ledger().resize(least, most)))
    }

    /// Replace every connection: idle ones now, others as they come back. New ones are opened up to `minconn`, here and
    /// now; a connect that fails is logged, not raised.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        maintain::drain(slf)
    }

    /// Check every idle connection now, close those that are dead, and open new ones up to `minconn`; a connect that fails
    /// is logged, not raised.
    ///
    /// :raises PoolClosed: the pool is closed.
    fn check(slf: &Bound<'_, Self>) -> PyResult<()> {
        told(slf, slf.get().ensure_open())?;
        maintain::check_all(slf)
    }

    /// Do one round of housekeeping: what the housekeeping thread does by itself where an option asks for it.
    ///
    /// Connections that are too old, or have been idle for too long, are closed; loans that last too long are reported;
    /// what is missing of `minconn` is opened. A connect that fails is logged, not raised.
    fn maintain(slf: &Bound<'_, Self>) -> PyResult<()> {
        maintain::maintain_now(slf)
    }

    /// Wait until `minconn` connections are open, opening those that are missing.
    ///
    /// :param timeout: how many seconds to wait; None waits for ever.
    /// :raises PoolTimeout: fewer are open even now; the message says why the last connect failed.
    /// :raises PoolClosed: the pool is closed.
    #[pyo3(signature = (timeout=Timeout(30.0)), text_signature = "($self, timeout=30.0)")]
    fn wait(slf: &Bound<'_, Self>, timeout: Timeout) -> PyResult<()> {
        told(slf, slf.get().ensure_open())?;
        let asked = Instant::now();
        let waited = maintain::wait(slf, timeout.deadline(asked), asked);
        Ok(waited.map_err(|error| annotated(slf, error, asked.elapsed(), None))?)
    }

    /// List what is lent now, the oldest loan first: `key`, `age` in seconds, `thread` (under gevent, the greenlet) as
    /// `threading.get_ident` tells it, and the `stack` that borrowed it if `leak_after` is set.
    fn loans<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        watch::loans(slf)
    }

    /// Tell what there is, and what has happened since the pool was made or `pop_stats` was called, in this process: numbers
    /// by name, of which those in `_ms` are milliseconds. docs/options.md says what each means.
    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, edit(py, || self.ledger().stats(now()))?)
    }

    /// As `get_stats`; what happens is counted from zero from now on.
    fn pop_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, edit(py, || self.ledger().take_stats(now()))?)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        told(slf, slf.get().ensure_open())?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(slf: &Bound<'_, Self>, _exc_info: &Bound<'_, PyTuple>) -> PyResult<()> {
        if !slf.get().ledger().counts().closed {
            slf.call_method0(name!(slf.py(), closeall))?;
        }
        Ok(())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = slf.get_type();
        let counts = slf.get().ledger().counts();
        let closed = if counts.closed { " closed" } else { "" };
        Ok(format!(
            "<{}.{} {}{closed} idle={} lent={} opening={} returning={} waiting={} minconn={} maxconn={}>",
            text_of(class.module()?.as_any())?,
            text_of(class.qualname()?.as_any())?,
            repr_of(PyString::from_bytes(slf.py(), slf.get().name().as_bytes())?.as_any())?,
            // closeall has closed them, and they stay in the books.
            if counts.closed { 0 } else { counts.idle },
            counts.in_use(),
            counts.opening,
            counts.returning,
            counts.waiting,
            counts.minconn,
            counts.maxconn,
        ))
    }

    // --- attributes that are plain ones in psycopg2.pool -----------------------------------------------------

    /// How many idle connections are kept, and how many open ones the housekeeping sees to.
    #[getter]
    fn minconn(&self, py: Python<'_>) -> PyResult<usize> {
        edit(py, || self.ledger().counts().minconn)
    }

    #[setter]
    fn set_minconn(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let least = size("minconn", value)?;
        edit(value.py(), || self.ledger().set_minconn(least))
    }

    /// How many connections there are at most.
    #[getter]
    fn maxconn(&self, py: Python<'_>) -> PyResult<usize> {
        edit(py, || self.ledger().counts().maxconn)
    }

    #[setter]
    fn set_maxconn(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let most = size("maxconn", value)?;
        call(slf.py(), || discard_all(slf, slf.get().ledger().set_maxconn(most)))
    }

    /// Whether the pool is closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        edit(py, || self.ledger().counts().closed)
    }

    #[setter]
    fn set_closed(&self, py: Python<'_>, value: Truth) -> PyResult<()> {
        edit(py, || self.ledger().set_closed(value.0))
    }

    /// The last automatic key that was given out, as a number.
    #[getter(_keys)]
    fn keys(&self, py: Python<'_>) -> PyResult<u64> {
        edit(py, || self.ledger().last_number())
    }

    #[setter(_keys)]
    fn set_keys(&self, py: Python<'_>, value: u64) -> PyResult<()> {
        edit(py, || self.ledger().set_last_number(value))
    }

    // --- garbage collection ----------------------------------------------------------------------------------

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = self.plain.get().map_or(Ok(()), |plain| plain.traverse(&visit));
        if let Ok(options) = self.options.try_read()
            && result.is_ok()
        {
            result = options.traverse(&visit);
        }
        self.ledger.try_visit(|handle| {
            if result.is_ok() {
                result = visit.call(handle.held());
            }
        });
        result
    }

    fn __clear__(&self) {
        self.set_options(Options::default());
        self.ledger.reset();
    }
}

/// Reads a size: anything that `int()` takes and that is not negative.
fn size(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let number = whole(name, value)?;
    if number.lt(0)? {
        return Err(PyValueError::new_err(format!("{name} must be 0 or more, not {number}")));
    }
    // More than can be counted is as good as no limit.
    Ok(number.extract().unwrap_or(usize::MAX))
}
