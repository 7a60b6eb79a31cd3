//! The options of a pool, as `pgpool_rs._options.Options` has checked them.

use std::num::NonZeroUsize;

use pgpool_core::{Policy, Span};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::python::imports;
use crate::text::text_of;

/// The methods of the listener, in the order of `_listener.EVENTS`.
pub(crate) type Methods = [Option<Py<PyAny>>; 6];

/// The options that the binding itself needs. The ledger has the others, as its [`Policy`].
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) connect: Option<Py<PyAny>>,
    pub(crate) configure: Option<Py<PyAny>>,
    /// The user's check, in place of [`crate::check::check_socket`].
    pub(crate) check: Option<Py<PyAny>>,
    pub(crate) reset: Option<Py<PyAny>>,
    /// Whether the housekeeping finishes slow returns.
    pub(crate) background: bool,
    /// Whether each loan records the stack of its borrower.
    pub(crate) record: bool,
    /// Whether a forgotten connection gives its slot back.
    pub(crate) reclaim: bool,
    pub(crate) close_returns: bool,
    pub(crate) open_workers: usize,
    /// The policy that holds once the pool is open.
    pub(crate) policy: Policy,
    pub(crate) listener: Methods,
    /// The limit that the pool shares with others.
    pub(crate) limit: Option<Py<PyAny>>,
}

/// The options as Python hands them over.
#[derive(FromPyObject)]
pub(crate) struct Checked {
    #[pyo3(from_py_with = text_of)]
    name: String,
    pub(crate) timeout: f64,
    max_waiting: usize,
    check: Option<Py<PyAny>>,
    check_after: f64,
    max_idle: f64,
    max_lifetime: f64,
    configure: Option<Py<PyAny>>,
    reset: Option<Py<PyAny>>,
    connect: Option<Py<PyAny>>,
    open_workers: usize,
    grow: String,
    reconnect_backoff: Option<(f64, f64)>,
    order: String,
    reserve: usize,
    background: bool,
    leak_after: f64,
    reclaim: bool,
    close_returns: bool,
    pub(crate) open: bool,
    #[pyo3(attribute("listens"))]
    listener: Methods,
    limit: Option<Py<PyAny>>,
    has_housekeeper: bool,
}

impl Checked {
    fn policy(&self) -> Policy {
        Policy {
            check_after: if self.check.is_some() { Span::from_secs_f64(self.check_after) } else { Span::FOREVER },
            max_idle: Span::from_secs_f64(self.max_idle),
            max_lifetime: Span::from_secs_f64(self.max_lifetime),
            leak_after: Span::from_secs_f64(self.leak_after),
            max_waiting: NonZeroUsize::new(self.max_waiting),
            grow: NonZeroUsize::new(self.open_workers).filter(|_| self.grow == "workers"),
            reconnect_backoff: self
                .reconnect_backoff
                .map(|(first, longest)| (Span::from_secs_f64(first), Span::from_secs_f64(longest))),
            fifo: self.order == "fifo",
            reserve: self.reserve,
            has_housekeeper: self.has_housekeeper,
        }
    }

    pub(crate) fn into_options(self, py: Python<'_>) -> PyResult<Options> {
        let default = imports()?.check_socket.bind(py);
        let policy = self.policy();
        Ok(Options {
            name: self.name,
            connect: self.connect,
            configure: self.configure,
            check: self.check.filter(|check| !check.is(default)),
            reset: self.reset,
            background: self.background,
            record: self.leak_after.is_finite(),
            reclaim: self.reclaim,
            close_returns: self.close_returns,
            open_workers: self.open_workers,
            policy,
            listener: self.listener,
            limit: self.limit,
        })
    }
}

impl Options {
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Self { connect, configure, check, reset, listener, limit, .. } = self;
        let callables = [connect, configure, check, reset, limit].into_iter().chain(listener);
        callables.flatten().try_for_each(|handle| visit.call(handle))
    }
}
