//! What has happened, for the listener: see `pgpool_rs.Listener`. It is told at the end of the call, as a line is logged.

use pgpool_core::{CloseReason, Span};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::call::{answered_by_ours, do_at_end, is_logging};
use crate::caller::caller;
use crate::fast_path::flags;
use crate::limit;
use crate::log::{CLOSE_FAILED, log_closed, report, report_listener};
use crate::options::Options;
use crate::pool::AbstractPool;
use crate::system::float;

/// What has happened.
#[derive(Clone, Copy)]
pub(crate) enum News<'e> {
    /// A connection was opened, in this time.
    Connected(Span),
    /// It could not be opened.
    ConnectFailed(&'e PyErr),
    /// A request got a connection, after this time.
    Borrowed(Span),
    /// A borrower gave a connection back, after this time.
    Returned(Span),
    /// A connection was closed.
    Closed(CloseReason),
    /// A request gave up, after this time.
    TimedOut(Span),
}

/// The place of `borrowed` among the methods of a listener.
pub(crate) const BORROWED: usize = 2;
/// The place of `returned` there.
pub(crate) const RETURNED: usize = 3;

impl News<'_> {
    /// Gives the place of the method among those of a listener.
    fn place(self) -> usize {
        match self {
            Self::Connected(_) => 0,
            Self::ConnectFailed(_) => 1,
            Self::Borrowed(_) => BORROWED,
            Self::Returned(_) => RETURNED,
            Self::Closed(_) => 4,
            Self::TimedOut(_) => 5,
        }
    }

    /// Gives what the method is told besides the pool.
    fn argument(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Self::ConnectFailed(error) => Ok(error.value(py).clone().into_any()),
            Self::Closed(reason) => Ok(PyString::from_bytes(py, reason.name().as_bytes())?.into_any()),
            Self::Connected(time) | Self::Borrowed(time) | Self::Returned(time) | Self::TimedOut(time) => {
                float(py, time.as_secs_f64())
            }
        }
    }
}

/// Says whether a listener has the method at this place.
pub(crate) fn tells(options: &Options, place: usize) -> bool {
    options.listener[place].is_some()
}

/// Tells the listener when the outermost call of this caller ends. What strikes meanwhile is raised there.
pub(crate) fn tell(pool: &Bound<'_, AbstractPool>, news: News<'_>) {
    if pool.get().has(flags::LISTENER) {
        answered_by_ours(pool.py(), note(pool, news));
    }
}

fn note(pool: &Bound<'_, AbstractPool>, news: News<'_>) -> PyResult<()> {
    let (py, options) = (pool.py(), pool.get().options());
    let caller = caller(py)?;
    let Some(method) = options.listener[news.place()].as_ref().filter(|_| !is_logging(caller)) else { return Ok(()) };
    let (method, pool, argument) = (method.clone_ref(py), pool.clone().unbind(), news.argument(py)?.unbind());
    do_at_end(
        py,
        caller,
        Box::new(move |py| {
            let pool = pool.bind(py);
            report_listener(pool, method.bind(py).call1((pool, argument)).map(drop))
        }),
    )
}

/// Closes a connection, logs that and a database's error, and tells the listener.
pub(crate) fn close_for(
    pool: &Bound<'_, AbstractPool>,
    connection: &Bound<'_, PyAny>,
    reason: CloseReason,
) -> PyResult<()> {
    tell(pool, News::Closed(reason));
    match limit::close(pool, connection) {
        Ok(()) => log_closed(pool, reason),
        Err(error) => report(pool, CLOSE_FAILED, error),
    }
}
