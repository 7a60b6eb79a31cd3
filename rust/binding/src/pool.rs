//! The class that `AbstractConnectionPool` inherits.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use pgpool_core::{ConnectError, Moment, Policy, Pool, Refusal};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple, PyWeakrefReference};

use crate::borrow::{borrow, connect};
use crate::connection::{self, Handle, Plain};
use crate::error::{Error, is_plain, prepare};
use crate::filing::number_to_key;
use crate::front::is_original;
use crate::give_back::{discard, give_back};
use crate::loan::Loan;
use crate::log::{Level, log};
use crate::maintain;
use crate::options::{Checked, Options};
use crate::stats::to_dict;
use crate::system::{PROCESS_STEP, now, process};
use crate::threaded::ThreadedPool;
use crate::timeout::{Given, Timeout, Waker, poke};
use crate::watch;

/// What both public classes have in common: the ledger, and the methods that psycopg2.pool's base class has.
#[pyclass(subclass, frozen, name = "AbstractConnectionPool", module = "pgpool_rs._core")]
pub(crate) struct AbstractPool {
    /// To be reached through [`AbstractPool::pool`], which knows of forks.
    ledger: Pool<Handle, Waker>,
    options: RwLock<Arc<Options>>,
    /// The process that the ledger was used in last, and, as the bits below it, what keeps calls from the fast path:
    /// [`Detours`]. One number, so that the fast path looks at both at once.
    state: AtomicU64,
    /// How long a borrower waits unless it says otherwise, as the bits of its seconds.
    timeout: AtomicU64,
    /// The type of this pool's connections, once it has been found to be a plain one.
    plain: OnceLock<Plain>,
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

/// What keeps calls from the fast path, as bits of [`AbstractPool::state`]; the first three are [`HOOKS`].
pub(crate) struct Detours;

impl Detours {
    pub(crate) const GETKEY: u64 = 1;
    pub(crate) const GETCONN: u64 = 1 << 1;
    pub(crate) const PUTCONN: u64 = 1 << 2;
    /// Something is done to each new loan.
    pub(crate) const LOANS: u64 = 1 << 3;
    /// Something is done to each connection that comes back.
    pub(crate) const RETURNS: u64 = 1 << 4;
    const ALL: u64 = PROCESS_STEP - 1;
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
            ledger: Pool::new(RandomState::new().hash_one(0)),
            options: RwLock::default(),
            state: AtomicU64::new(process() | Detours::ALL),
            timeout: AtomicU64::new(0),
            plain: OnceLock::new(),
        }
    }

    /// Gives the ledger. In a forked child it begins anew: what it knew are the parent's connections.
    pub(crate) fn pool(&self) -> &Pool<Handle, Waker> {
        let process = process();
        if self.state.load(Ordering::Relaxed) & !Detours::ALL != process {
            self.ledger.enter_process(process, u64::from(std::process::id()));
            let enter = |state: u64| Some(process | state & Detours::ALL);
            let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter);
        }
        &self.ledger
    }

    /// Gives the ledger if none of these detours has to be taken, and we are in the process that it was used in last.
    #[inline]
    pub(crate) fn pool_unless(&self, detours: u64) -> Option<&Pool<Handle, Waker>> {
        (self.state.load(Ordering::Relaxed) & (!Detours::ALL | detours) == process()).then_some(&self.ledger)
    }

    #[inline]
    pub(crate) fn hooks(&self) -> Hooks {
        let bits = self.state.load(Ordering::Relaxed);
        Hooks {
            getkey: bits & Detours::GETKEY != 0,
            getconn: bits & Detours::GETCONN != 0,
            putconn: bits & Detours::PUTCONN != 0,
        }
    }

    /// Says whether something is to be done to each new loan.
    pub(crate) fn watches(&self) -> bool {
        self.state.load(Ordering::Relaxed) & Detours::LOANS != 0
    }

    /// Gives the options as they are now.
    pub(crate) fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_options(&self, options: Options) {
        let mut place = self.options.write().unwrap_or_else(PoisonError::into_inner);
        let displaced = std::mem::replace(&mut *place, Arc::new(options));
        drop(place);
        drop(displaced);
    }

    /// Tells why the last connect that failed did so, as the end of a sentence.
    pub(crate) fn last_connect_error(&self) -> String {
        self.pool().connect_error().map_or_else(String::new, |error| {
            let ConnectError { text, at } = &*error;
            format!("; last connect error, {:.1} s ago: {text}", at.elapsed().as_secs_f64())
        })
    }

    /// Asks a connection whether it is open and in no transaction. `false` decides nothing: look closer.
    #[inline]
    pub(crate) fn is_clean(&self, connection: &Bound<'_, PyAny>) -> PyResult<bool> {
        match self.plain.get().filter(|plain| plain.is_of(connection)) {
            Some(plain) => plain.is_clean(connection),
            None => self.find_out(connection),
        }
    }

    #[cold]
    fn find_out(&self, connection: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(plain) = Plain::find(&connection.get_type())? else { return Ok(false) };
        let clean = plain.is_clean(connection);
        // A pool with connections of several types has one that is faster than the others.
        let _ = self.plain.set(plain);
        clean
    }

    pub(crate) fn ensure_open(&self) -> Result<(), Refusal> {
        if self.pool().counts().closed { Err(Refusal::Closed) } else { Ok(()) }
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
    fn _start(
        slf: &Bound<'_, Self>,
        minconn: &Bound<'_, PyAny>,
        maxconn: &Bound<'_, PyAny>,
        options: Checked,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let pool = this.pool();
        let (minconn, maxconn) = (size("minconn", minconn)?, size("maxconn", maxconn)?);
        prepare(py)?;
        let (policy, open_workers) = (options.policy(), options.open_workers);
        this.timeout.store(options.timeout.to_bits(), Ordering::Relaxed);
        this.set_options(options.into_options(py)?);
        pool.reset();
        pool.set_policy(Policy { kept: false, ..policy });
        drop(pool.resize(minconn, maxconn));
        Self::_find_hooks(slf)?;
        let opened = if open_workers > 1 {
            py.import("pgpool_rs._opening")?.call_method1("in_parallel", (slf, minconn, open_workers)).map(drop)
        } else {
            (0..minconn).try_for_each(|_| slf.call_method0(intern!(py, "_connect")).map(drop))
        };
        opened.inspect_err(|_| {
            for connection in pool.idle() {
                // The error that stopped us is the one to be heard.
                let _ = connection.object(py).and_then(|connection| connection::close(&connection));
            }
            pool.reset();
        })?;
        pool.set_policy(policy);
        pool.set_keeper(Waker::Keeper(PyWeakrefReference::new(slf)?.unbind()));
        if policy.kept { poke(slf, "poke") } else { Ok(()) }
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
        let options = slf.get().options();
        if options.record || options.reclaim || !is_get_ident_native(slf.py())? {
            bits |= Detours::LOANS;
        }
        if options.record || options.reclaim || options.reset.is_some() {
            bits |= Detours::RETURNS;
        }
        let renew = |state: u64| Some(state & !Detours::ALL | bits);
        let _ = slf.get().state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, renew);
        Ok(())
    }

    /// Do all the housekeeping that is due, and tell in how many seconds there may be something again; None: not before
    /// something happens.
    fn _maintain(slf: &Bound<'_, Self>) -> PyResult<Option<f64>> {
        let due = maintain::maintain(slf)?;
        Ok((due < Moment::NEVER).then(|| due.since(now()).as_secs_f64()))
    }

    /// The name of the pool, in its log.
    fn _get_name(&self) -> String {
        self.options().name.clone()
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
        number_to_key(py, self.pool().next_number())
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
    fn _closeall(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut interrupted = None;
        let connections = slf.get().pool().close().map_err(Error::from)?;
        for connection in &connections {
            // One that its borrower has forgotten is closed already.
            let closed = connection.living(py).and_then(|living| living.as_ref().map_or(Ok(()), connection::close));
            if let Err(error) = closed
                && !is_plain(py, &error)
                && interrupted.is_none()
            {
                interrupted = Some(error);
            }
        }
        interrupted.map_or(Ok(()), Err)?;
        log(slf, Level::Info, || format!("pool closed, with {} connections", connections.len()))
    }

    // --- ours ------------------------------------------------------------------------------------------------

    /// Lend a connection for a `with` block, which commits at its end, or rolls back if it raises, and returns the
    /// connection in any case. Key, timeout and errors are those of `getconn`.
    #[pyo3(signature = (key=None, *, timeout=Given::Nothing), text_signature = "($self, key=None, *, timeout=...)")]
    fn connection(slf: &Bound<'_, Self>, key: Option<Py<PyAny>>, timeout: Given<'_>) -> PyResult<Loan> {
        timeout_of(slf, &timeout)?;
        Ok(Loan::new(slf.clone().into_any().unbind(), key, timeout))
    }

    /// Set both limits. Idle connections above `maxconn` are closed now, others as they come back.
    ///
    /// :param minconn: how many connections are kept open.
    /// :param maxconn: how many connections there are at most.
    /// :raises ValueError: a size is negative, or `minconn` is greater than `maxconn`.
    fn resize(slf: &Bound<'_, Self>, minconn: &Bound<'_, PyAny>, maxconn: &Bound<'_, PyAny>) -> PyResult<()> {
        let (least, most) = (size("minconn", minconn)?, size("maxconn", maxconn)?);
        if least > most {
            let text = format!("minconn must not be greater than maxconn, not minconn={least} and maxconn={most}");
            return Err(PyValueError::new_err(text));
        }
        let surplus = slf.get().pool().resize(least, most);
        surplus.into_iter().map(|surplus| discard(slf, surplus)).fold(Ok(()), Result::and)
    }

    /// Replace every connection: idle ones now, others as they come back. New ones are opened up to `minconn`.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        maintain::drain(slf)
    }

    /// Check every idle connection now, close those that are dead, and open new ones up to `minconn`.
    fn check(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().ensure_open().map_err(Error::from)?;
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
        slf.get().ensure_open().map_err(Error::from)?;
        let asked = Instant::now();
        Ok(maintain::wait(slf, timeout.deadline(asked), asked)?)
    }

    /// List what is lent now, the oldest loan first: `key`, `age` in seconds, `thread`, and the `stack` that borrowed it
    /// if `leak_after` is set.
    fn loans<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        watch::loans(slf)
    }

    /// Tell what there is and what has happened since the pool was made, as numbers by name.
    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, self.pool().stats())
    }

    /// As `get_stats`; what happens is counted from zero from now on.
    fn pop_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, self.pool().take_stats())
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().ensure_open().map_err(Error::from)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(slf: &Bound<'_, Self>, _exc_info: &Bound<'_, PyTuple>) -> PyResult<()> {
        if !slf.get().pool().counts().closed {
            slf.call_method0(intern!(slf.py(), "closeall"))?;
        }
        Ok(())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = slf.get_type();
        let counts = slf.get().pool().counts();
        let closed = if counts.closed { " closed" } else { "" };
        Ok(format!(
            "<{}.{}{closed} idle={} lent={} opening={} returning={} waiting={} minconn={} maxconn={}>",
            class.module()?,
            class.qualname()?,
            counts.idle,
            counts.lent + counts.promised + counts.checking,
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
        self.pool().counts().minconn
    }

    #[setter]
    fn set_minconn(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.pool().set_minconn(size("minconn", value)?);
        Ok(())
    }

    /// How many connections there are at most.
    #[getter]
    fn maxconn(&self) -> usize {
        self.pool().counts().maxconn
    }

    #[setter]
    fn set_maxconn(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let surplus = slf.get().pool().set_maxconn(size("maxconn", value)?);
        surplus.into_iter().map(|surplus| discard(slf, surplus)).fold(Ok(()), Result::and)
    }

    /// Whether the pool is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.pool().counts().closed
    }

    #[setter]
    fn set_closed(&self, value: Truth) {
        self.pool().set_closed(value.0);
    }

    /// The last automatic key that was given out, as a number.
    #[getter(_keys)]
    fn keys(&self) -> u64 {
        self.pool().last_number()
    }

    #[setter(_keys)]
    fn set_keys(&self, value: u64) {
        self.pool().set_last_number(value);
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

/// Says whether `threading.get_ident` is CPython's own. gevent and eventlet put theirs in its place.
fn is_get_ident_native(py: Python<'_>) -> PyResult<bool> {
    let get_ident = py.import("threading")?.getattr("get_ident")?;
    Ok(get_ident.is_instance_of::<PyCFunction>() && get_ident.getattr("__module__")?.eq("_thread")?)
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
