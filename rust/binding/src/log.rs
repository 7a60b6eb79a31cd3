//! What a pool says of itself in the log. No line is written while anything could be lost if its handler raised.

use pgpool_core::Reason;
use pyo3::prelude::*;

use crate::connection::{self, Accounts};
use crate::error::{answered, is_said};
use crate::names::name;
use crate::pool::AbstractPool;

/// How loud a line is; numbers of the module `logging`.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    /// The ordinary life of a connection.
    Debug = 10,
    /// What an operator did, or will be glad of.
    Info = 20,
    /// What somebody should look into.
    Warning = 30,
}

/// Logs a line on `pgpool_rs.<pool name>`. The text is made only if somebody wants it.
pub(crate) fn log(slf: &Bound<'_, AbstractPool>, level: Level, text: impl FnOnce() -> String) -> PyResult<()> {
    let py = slf.py();
    let (options, number) = (slf.get().options(), level as u8);
    let logger = py.import("pgpool_rs._log")?.call_method1("logger", (&options.name, number))?;
    if !logger.is_none() {
        logger.call_method1(name!(py, log), (number, "%s", text()))?;
    }
    Ok(())
}

/// Says in the log that a connection was closed because it stayed in a transaction.
pub(crate) fn log_unclean(slf: &Bound<'_, AbstractPool>, accounts: Accounts) -> PyResult<()> {
    log(slf, Level::Warning, || format!("connection closed: {}: {accounts}", Reason::Unclean.text()))
}

/// Says in the log why a connection was closed.
pub(crate) fn log_closed(slf: &Bound<'_, AbstractPool>, reason: Reason) -> PyResult<()> {
    let level = match reason {
        Reason::Lost | Reason::Unclean | Reason::Reclaimed => Level::Warning,
        Reason::Drained => Level::Info,
        _ => Level::Debug,
    };
    log(slf, level, || format!("connection closed: {}", reason.text()))
}

/// Closes a connection and says so in the log. What the database says of it is logged, too.
pub(crate) fn close_and_log(
    slf: &Bound<'_, AbstractPool>,
    connection: &Bound<'_, PyAny>,
    reason: Reason,
) -> PyResult<()> {
    match connection::close(connection) {
        Ok(()) => log_closed(slf, reason),
        Err(error) => report(slf, &format!("close() {DROPPED}"), error),
    }
}

/// What is said of a connection whose rollback or close failed.
pub(crate) const DROPPED: &str = "failed; the connection was dropped and its slot is free";

/// What is said of a connection that could not be looked at on its return, or whose return ended for nobody.
pub(crate) const NOT_RETURNED: &str = "a connection could not be returned";

/// Says in the log what went wrong, if the database said so; any other error is given back as it is.
pub(crate) fn report(slf: &Bound<'_, AbstractPool>, what: &str, error: PyErr) -> PyResult<()> {
    if !is_said(slf.py(), &error) {
        return Err(error);
    }
    log(slf, Level::Warning, || format!("{what}: {}", describe_masked(slf, &error)))
}

/// Says in the log what went wrong, and where, for those errors that no caller hears of.
pub(crate) fn report_place(slf: &Bound<'_, AbstractPool>, what: &str, error: &PyErr) -> PyResult<()> {
    log(slf, Level::Warning, || {
        let place = answered(slf.py(), place(slf.py(), error)).flatten().unwrap_or_default();
        format!("{what}: {}{place}", describe_masked(slf, error))
    })
}

/// Tells where an error was raised, if that was in Python, as the end of a line.
fn place(py: Python<'_>, error: &PyErr) -> PyResult<Option<String>> {
    let Some(mut traceback) = error.traceback(py).map(Bound::into_any) else { return Ok(None) };
    loop {
        let next = traceback.getattr("tb_next")?;
        if next.is_none() {
            break;
        }
        traceback = next;
    }
    let code = traceback.getattr("tb_frame")?.getattr("f_code")?;
    let (file, function) = (code.getattr("co_filename")?, code.getattr("co_name")?);
    Ok(Some(format!(" ({file}:{} in {function})", traceback.getattr("tb_lineno")?)))
}

/// Describes an error without the secrets that the pool connects with.
fn describe_masked(slf: &Bound<'_, AbstractPool>, error: &PyErr) -> String {
    masked(slf, describe(slf.py(), error)).unwrap_or_else(|| class_name(slf.py(), error))
}

/// Takes the secrets that the pool connects with out of a text. What cannot be masked is not to be shown.
pub(crate) fn masked(slf: &Bound<'_, AbstractPool>, text: String) -> Option<String> {
    let py = slf.py();
    let mask = || {
        let (args, kwargs) = (slf.getattr(name!(py, args))?, slf.getattr(name!(py, kwargs))?);
        py.import("pgpool_rs._secrets")?.call_method1("mask", (text, args, kwargs))?.extract::<String>()
    };
    answered(py, mask())
}

/// Describes an error of a connect, for those who wait. Only what libpq says of a host that it has found is repeated: any
/// other text may quote the connection string. That of a wrong one may have made a host of a password, so it is masked too.
pub(crate) fn describe_public(slf: &Bound<'_, AbstractPool>, error: &PyErr) -> String {
    let py = slf.py();
    let operational = || py.import("psycopg2")?.getattr("OperationalError");
    let operational = operational().is_ok_and(|class| error.is_instance(py, &class));
    let public = operational && describe(py, error).contains(": connection to server ");
    if public { describe_masked(slf, error) } else { class_name(py, error) }
}

/// Names an error's class and gives its text, which may hold anything.
fn describe(py: Python<'_>, error: &PyErr) -> String {
    let text = answered(py, error.value(py).str()).map_or_else(String::new, |text| text.to_string());
    format!("{}: {}", class_name(py, error), text.trim())
}

fn class_name(py: Python<'_>, error: &PyErr) -> String {
    error.get_type(py).name().map_or_else(|_| "an exception".to_owned(), |name| name.to_string())
}
