//! The lines of the log.

use pgpool_core::{CloseReason, ConnectNews, SharedLedger};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::call::{Line, answered, answered_by_ours, call, do_at_end, is_logging, while_logging};
use crate::caller::caller;
use crate::connection::Accounts;
use crate::error::{is_database_error, is_exception};
use crate::handle::Handle;
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::system::now;
use crate::text::text_of;
use crate::wait::Waker;

/// The level of a line, as the module `logging` numbers it.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    /// The ordinary life of a connection.
    Debug = 10,
    /// An operator's action, or good news.
    Info = 20,
    /// An operator should look into it.
    Warning = 30,
}

/// A kind of line.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    level: Level,
    /// The record's attribute `event`, for programs.
    name: &'static str,
    /// The text, the same for all lines of this kind. `logging` puts the arguments in.
    template: &'static str,
}

macro_rules! events {
    ($($event:ident = $level:ident, $name:literal, $template:literal;)*) => {
        $(pub(crate) const $event: Event = Event { level: Level::$level, name: $name, template: $template };)*
    };
}

// docs/options.md lists them.
events! {
    OPENED = Debug, "opened", "connection opened";
    RESTORED = Info, "restored", "opened a connection to restore minconn";
    CLOSED = Debug, "closed", "connection closed: %s";
    CONNECT_FAILED = Warning, "connect_failed", "connect failed: %s";
    CONNECTS_FAILED = Warning, "connect_failed", "connect failed %d times in %.0f s; the last time: %s";
    CONNECTED_AGAIN = Warning, "connected_again", "connect succeeds again, after %.1f s";
    CHECK_FAILED = Warning, "lost", "connection lost: its check failed: %s";
    OPEN_FAILED = Warning, "open_failed", "a connection could not be opened: %s";
    BLOCK_OVER = Warning, "block_over", "a block was left: %s";
    RETURN_FAILED = Warning, "return_failed", "a connection could not be returned: %s";
    ROLLBACK_FAILED = Warning, "return_failed", "rollback() failed; the connection was dropped and its slot is free: %s";
    RESET_FAILED = Warning, "return_failed", "reset failed; the connection was dropped and its slot is free: %s";
    CLOSE_FAILED = Warning, "close_failed", "close() failed; the connection was dropped and its slot is free: %s";
    LEAK = Warning, "leak", "connection not returned: %s";
    LATE = Warning, "late_return", "connection returned late: it was lent for %.1f s";
    RECLAIMED = Warning, "reclaimed", "connection reclaimed, its borrower forgot it: %s";
    LISTENER_FAILED = Warning, "listener_failed", "the listener failed: %s";
    TIMED_OUT = Info, "timed_out", "request timed out: %s";
    CROWDED = Info, "crowded", "request refused: %s";
    POOL_CLOSED = Info, "pool_closed", "pool closed, with %d connections";
}

/// Logs a line on `pgpool_rs.<pool name>`. Makes its arguments only if a logger wants the line.
pub(crate) fn log<'py, A>(pool: &Bound<'py, AbstractPool>, event: Event, args: impl FnOnce() -> A) -> PyResult<()>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    log_with_reason(pool, event, None, args)
}

/// As [`log`], with the record's attribute `reason`, for programs.
fn log_with_reason<'py, A>(
    pool: &Bound<'py, AbstractPool>,
    event: Event,
    reason: Option<&str>,
    args: impl FnOnce() -> A,
) -> PyResult<()>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    let caller = caller(pool.py())?;
    if is_logging(caller) {
        return Ok(());
    }
    let Some(line) = line_of(pool, event, reason, args)? else { return Ok(()) };
    do_at_end(pool.py(), caller, Box::new(move |py| line.write(py)))
}

/// Makes a line, if a logger wants it.
fn line_of<'py, A>(
    pool: &Bound<'py, AbstractPool>,
    event: Event,
    reason: Option<&str>,
    args: impl FnOnce() -> A,
) -> PyResult<Option<Line>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    let (py, options) = (pool.py(), pool.get().options());
    let name = PyString::from_bytes(py, options.name.as_bytes())?;
    let wanted = imports()?.is_heard.bind(py).call1((name, event.level as u8))?;
    if !wanted.is_truthy()? {
        return Ok(None);
    }
    Ok(Some(Line {
        level: event.level as u8,
        template: event.template,
        event: event.name,
        pool: options.name.clone(),
        reason: reason.map(str::to_owned),
        args: args().into_pyobject(py).map_err(Into::into)?.unbind(),
    }))
}

/// Call `write`, which writes a line to a log. Pool calls that a handler makes meanwhile log nothing and wait for nothing.
#[pyfunction]
pub(crate) fn speak(write: &Bound<'_, PyAny>) -> PyResult<()> {
    let caller = caller(write.py())?;
    while_logging(caller, || write.call0()).map(drop)
}

/// Logs that a connection was closed because it stayed in a transaction.
pub(crate) fn log_unclean(pool: &Bound<'_, AbstractPool>, accounts: Accounts) -> PyResult<()> {
    let event = Event { level: Level::Warning, ..CLOSED };
    let reason = CloseReason::Unclean;
    log_with_reason(pool, event, Some(reason.name()), || (format!("{}: {accounts}", reason.text()),))
}

/// Logs why a connection was closed.
pub(crate) fn log_closed(pool: &Bound<'_, AbstractPool>, reason: CloseReason) -> PyResult<()> {
    let event = match reason {
        CloseReason::Lost => Event { level: Level::Warning, name: "lost", ..CLOSED },
        CloseReason::Unclean | CloseReason::Reclaimed => Event { level: Level::Warning, ..CLOSED },
        CloseReason::Drained => Event { level: Level::Info, ..CLOSED },
        _ => CLOSED,
    };
    log_with_reason(pool, event, Some(reason.name()), || (reason.text(),))
}

/// Logs how a connect has ended. Where many fail, it does not log each.
///
/// `ledger` is the one that the connect began with. If a fork came meanwhile, the child's ledger begins anew only when the
/// connection has its slot.
pub(crate) fn log_connect(
    pool: &Bound<'_, AbstractPool>,
    ledger: &SharedLedger<Handle, Waker>,
    error: Option<(&PyErr, &str)>,
) -> PyResult<()> {
    let py = pool.py();
    // The ledger gives its news once, and a handler's own calls log nothing.
    if is_logging(caller(py)?) {
        return Ok(());
    }
    let Some(news) = ledger.connect_news(error.is_some(), now()) else { return Ok(()) };
    let (reason, text) = error.map_or_else(Default::default, |(error, text)| (class_name(py, error), text));
    match news {
        ConnectNews::Failed { times: 1, .. } => log_with_reason(pool, CONNECT_FAILED, Some(&reason), || (text,)),
        ConnectNews::Failed { times, period } => {
            log_with_reason(pool, CONNECTS_FAILED, Some(&reason), || (times, period.as_secs_f64(), text))
        }
        ConnectNews::Recovered { lasted } => log(pool, CONNECTED_AGAIN, || (lasted.as_secs_f64(),)),
    }
}

/// Logs a database's error. Gives any other error back.
pub(crate) fn report(pool: &Bound<'_, AbstractPool>, event: Event, error: PyErr) -> PyResult<()> {
    if !is_database_error(pool.py(), &error) {
        return Err(error);
    }
    let class = class_name(pool.py(), &error);
    call(pool.py(), || log_with_reason(pool, event, Some(&class), || (describe_masked(pool, &error),)))
}

/// Logs an `Exception` of work that has no caller, with the place where it was raised. Gives an interrupt back.
pub(crate) fn report_alone(pool: &Bound<'_, AbstractPool>, event: Event, done: PyResult<()>) -> PyResult<()> {
    let error = match done {
        Err(error) if is_exception(pool.py(), &error) => error,
        done => return done,
    };
    let class = class_name(pool.py(), &error);
    log_with_reason(pool, event, Some(&class), || (describe_with_place(pool, &error),))
}

/// As [`report_alone`], for a listener. The line is written at once.
pub(crate) fn report_listener(pool: &Bound<'_, AbstractPool>, done: PyResult<()>) -> PyResult<()> {
    let error = match done {
        Err(error) if is_exception(pool.py(), &error) => error,
        done => return done,
    };
    let class = class_name(pool.py(), &error);
    let line = line_of(pool, LISTENER_FAILED, Some(&class), || (describe_with_place(pool, &error),))?;
    line.map_or(Ok(()), |line| line.write(pool.py()))
}

/// Describes an error without secrets, and says where it was raised.
fn describe_with_place(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> String {
    let py = pool.py();
    let place = imports().and_then(|imports| text_of(&imports.place.bind(py).call1((error.value(py),))?));
    let place = answered_by_ours(py, place).unwrap_or_default();
    format!("{}{place}", describe_masked(pool, error))
}

/// Describes an error without the secrets that the pool connects with.
fn describe_masked(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> String {
    masked(pool, describe(pool.py(), error)).unwrap_or_else(|| class_name(pool.py(), error))
}

/// Masks the secrets of the pool's connection arguments in a text. A text that cannot be masked is not shown.
pub(crate) fn masked(pool: &Bound<'_, AbstractPool>, text: String) -> Option<String> {
    let py = pool.py();
    let (args, kwargs) = (pool.getattr(name!(py, args)), pool.getattr(name!(py, kwargs)));
    let (args, kwargs) = (answered(py, args)?, answered(py, kwargs)?);
    let mask = || text_of(&imports()?.mask.bind(py).call1((text, args, kwargs))?);
    answered_by_ours(py, mask())
}

/// Describes the error of a connect, for waiters. Repeats only what libpq says of a host that it has found: any other text may
/// quote the connection string. A wrong connection string may turn a password into a host, so this text is masked too.
pub(crate) fn describe_public(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> String {
    let py = pool.py();
    let operational = imports().is_ok_and(|imports| error.is_instance(py, imports.OperationalError.bind(py)));
    let public = operational && describe(py, error).contains(": connection to server ");
    if public { describe_masked(pool, error) } else { class_name(py, error) }
}

/// Names an error's class and gives its text, which may hold a secret.
fn describe(py: Python<'_>, error: &PyErr) -> String {
    let text = answered(py, error.value(py).str().and_then(|text| text_of(&text))).unwrap_or_default();
    format!("{}: {}", class_name(py, error), text.trim())
}

fn class_name(py: Python<'_>, error: &PyErr) -> String {
    let name = error.get_type(py).name().and_then(|name| text_of(&name));
    name.unwrap_or_else(|_| "an exception".to_owned())
}
