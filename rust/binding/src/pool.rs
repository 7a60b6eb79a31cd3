//! The state of a pool, and the classes that the public ones inherit. Their methods are in `methods`.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use pgpool_core::{Refusal, SharedLedger};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyWeakrefMethods, PyWeakrefReference};

use crate::arguments::{Timeout, TimeoutArg};
use crate::blocks::Blocks;
use crate::call::answered_by_ours;
use crate::connection::{self, Look};
use crate::fast_path::flags;
use crate::fast_path::probe::StatusProbe;
use crate::handle::Handle;
use crate::options::Options;
use crate::system::process;
use crate::text::repr_of;
use crate::wait::Waker;

/// The state that both public classes have in common.
#[pyclass(subclass, frozen, name = "AbstractConnectionPool", module = "pgpool_rs._core")]
pub(crate) struct AbstractPool {
    /// Reach it through [`AbstractPool::ledger`], which notices forks.
    ledger: SharedLedger<Handle, Waker>,
    options: RwLock<Arc<Options>>,
    /// The process that the ledger was used in last, and in the bits below it the [`flags`]. They are one number, so that the fast
    /// path looks at both at once.
    state: AtomicU64,
    /// The pool's own timeout, as the bits of its seconds.
    timeout: AtomicU64,
    /// The first type of this pool's connections that can be read inside.
    probe: OnceLock<StatusProbe>,
    blocks: Blocks,
    weak: PyOnceLock<Py<PyWeakrefReference>>,
}

impl AbstractPool {
    pub(crate) fn new() -> Self {
        // Until `_pgpool_find_hooks` has looked, any hook may be overridden.
        Self {
            ledger: SharedLedger::new(RandomState::new().hash_one(0)),
            options: RwLock::default(),
            state: AtomicU64::new(process() | flags::ALL),
            timeout: AtomicU64::new(0),
            probe: OnceLock::new(),
            blocks: Blocks::default(),
            weak: PyOnceLock::new(),
        }
    }

    /// Gives the ledger. In a forked child it begins anew: the connections that it knew are the parent's.
    pub(crate) fn ledger(&self) -> &SharedLedger<Handle, Waker> {
        let process = process();
        if self.state.load(Ordering::Relaxed) & !flags::ALL != process {
            self.ledger.enter_process(process, u64::from(std::process::id()));
            self.blocks.clear();
            let enter = |state: u64| Some(process | state & flags::ALL);
            let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter);
        }
        &self.ledger
    }

    /// Gives the loans in which a `close()` matters.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Gives the ledger if none of these flags is set and this is the process that the ledger was used in last.
    #[inline]
    pub(crate) fn ledger_unless(&self, flags: u64) -> Option<&SharedLedger<Handle, Waker>> {
        (self.state.load(Ordering::Relaxed) & (!flags::ALL | flags) == process()).then_some(&self.ledger)
    }

    /// Says whether any of these flags is set.
    #[inline]
    pub(crate) fn has(&self, flags: u64) -> bool {
        self.state.load(Ordering::Relaxed) & flags != 0
    }

    /// Gives the options of this moment.
    pub(crate) fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives the pool's name.
    pub(crate) fn name(&self) -> String {
        self.options().name.clone()
    }

    /// Names the pool for a message.
    pub(crate) fn shown_name(&self, py: Python<'_>) -> String {
        let shown = PyString::from_bytes(py, self.name().as_bytes()).and_then(|name| repr_of(name.as_any()));
        answered_by_ours(py, shown).map_or_else(|| "this pool".to_owned(), |name| format!("pool {name}"))
    }

    pub(crate) fn set_flags(&self, flags: u64) {
        let renew = |state: u64| Some(state & !flags::ALL | flags);
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

    /// Says whether a connection is open, and in no transaction by either account. `false` may also mean that it is not known.
    #[expect(clippy::inline_always, reason = "the fast path is some instructions longer without")]
    #[inline(always)]
    pub(crate) fn is_clean(&self, connection: &Bound<'_, PyAny>) -> bool {
        match self.probe.get().and_then(|probe| probe.is_clean(connection)) {
            Some(clean) => clean,
            None => self.probe_and_check(connection),
        }
    }

    #[cold]
    fn probe_and_check(&self, connection: &Bound<'_, PyAny>) -> bool {
        let Some(probe) = StatusProbe::find(connection) else { return false };
        let clean = probe.is_clean(connection) == Some(true);
        // Of several types of connections in one pool, only the first is fast.
        let _ = self.probe.set(probe);
        clean
    }

    /// Says whether the end of a block has nothing to commit or roll back: the connection is clean, and is psycopg2's own. `false` may
    /// also mean that its class has not been seen before. No Python code runs.
    #[inline]
    pub(crate) fn has_nothing_to_end(&self, connection: &Bound<'_, PyAny>) -> bool {
        self.probe.get().is_some_and(|probe| probe.ends_as_psycopg2() && probe.is_clean(connection) == Some(true))
    }

    /// Gives a weak reference to the pool, made once. It is dead once the garbage collector takes the pool apart.
    pub(crate) fn weak(pool: &Bound<'_, Self>) -> PyResult<Py<PyWeakrefReference>> {
        let weak = pool.get().weak.get_or_try_init(pool.py(), || PyWeakrefReference::new(pool).map(Bound::unbind))?;
        Ok(weak.clone_ref(pool.py()))
    }

    pub(crate) fn has_weak(&self, py: Python<'_>) -> bool {
        self.weak.get(py).is_some()
    }

    /// Says whether the garbage collector takes the pool apart.
    pub(crate) fn is_being_cleared(&self, py: Python<'_>) -> bool {
        self.weak.get(py).is_some_and(|weak| weak.bind(py).upgrade().is_none())
    }

    /// Looks at a connection. A clean one of psycopg2's own is looked at from within.
    pub(crate) fn look_at(&self, connection: &Bound<'_, PyAny>) -> PyResult<Look> {
        if self.is_clean(connection) { Ok(Look::Clean) } else { connection::look_at(connection) }
    }

    /// Shows a garbage collector what is held.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = self.probe.get().map_or(Ok(()), |probe| probe.traverse(visit));
        if let Ok(options) = self.options.try_read()
            && result.is_ok()
        {
            result = options.traverse(visit);
        }
        self.ledger.try_visit(|handle| {
            if result.is_ok() {
                result = visit.call(handle.held());
            }
        });
        result
    }

    /// Drops all handles.
    pub(crate) fn clear(&self) {
        self.set_options(Options::default());
        self.ledger.reset();
    }

    pub(crate) fn ensure_open(&self) -> Result<(), Refusal> {
        self.ledger().ensure_open()
    }
}

/// Says how long this call waits. Only a threaded pool waits at all.
pub(crate) fn timeout_of(pool: &Bound<'_, AbstractPool>, given: &TimeoutArg<'_>) -> PyResult<Timeout> {
    let &TimeoutArg::Given(timeout, _) = given else {
        return Ok(Timeout(f64::from_bits(pool.get().timeout.load(Ordering::Relaxed))));
    };
    if pool.is_instance_of::<ThreadedPool>() {
        return Ok(timeout);
    }
    let class = pool.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "{class} takes no timeout: it serves one thread, which would wait for itself; use ThreadedConnectionPool"
    )))
}

/// getconn, putconn and closeall of a pool for several threads.
#[pyclass(extends = AbstractPool, subclass, frozen, name = "ThreadedConnectionPool", module = "pgpool_rs._core")]
pub(crate) struct ThreadedPool;
