//! What a pool says of itself in the log. No line is written while anything could be lost if its handler raised.

use pgpool_core::Reason;
use pyo3::intern;
use pyo3::prelude::*;

use crate::error::{class_name, describe, is_plain};
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
    let options = slf.get().options();
    let Some(logger) = options.logger.as_ref().map(|logger| logger.bind(py)) else { return Ok(()) };
    let number = level as u8;
    if logger.call_method1(intern!(py, "isEnabledFor"), (number,))?.is_truthy()? {
        logger.call_method1(intern!(py, "log"), (number, "%s", text()))?;
    }
    Ok(())
}

/// Says in the log why a connection was closed.
pub(crate) fn log_closed(slf: &Bound<'_, AbstractPool>, reason: Reason) -> PyResult<()> {
    let (level, why) = match reason {
        Reason::Requested => (Level::Debug, "its borrower asked for that"),
        Reason::Surplus => (Level::Debug, "the pool has no use for it"),
        Reason::Idle => (Level::Debug, "it was idle for max_idle"),
        Reason::Lifetime => (Level::Debug, "it was open for max_lifetime"),
        Reason::Drained => (Level::Info, "it is to be replaced"),
        Reason::Lost => (Level::Warning, "it was found dead"),
        Reason::Unclean => (Level::Warning, "it could not be made clean"),
        Reason::ByBorrower => (Level::Debug, "its borrower closed it"),
        Reason::Reclaimed => (Level::Warning, "its borrower forgot it"),
        Reason::WithPool => (Level::Debug, "the pool is closed"),
        Reason::Unplaced => (Level::Debug, "there was no place for it"),
    };
    log(slf, level, || format!("connection closed: {why}"))
}

/// Says in the log what went wrong, if it was an `Exception`; anything stronger is given back as it is.
pub(crate) fn report(slf: &Bound<'_, AbstractPool>, what: &str, error: PyErr) -> PyResult<()> {
    if !is_plain(slf.py(), &error) {
        return Err(error);
    }
    log(slf, Level::Warning, || format!("{what}: {}", describe_masked(slf, &error)))
}

/// Describes an error without the secrets that the pool connects with.
fn describe_masked(slf: &Bound<'_, AbstractPool>, error: &PyErr) -> String {
    let py = slf.py();
    let mask = || {
        let (args, kwargs) = (slf.getattr(intern!(py, "_args"))?, slf.getattr(intern!(py, "_kwargs"))?);
        let masked = py.import("pgpool_rs._secrets")?.call_method1("mask", (describe(py, error), args, kwargs))?;
        masked.extract::<String>()
    };
    // What cannot be masked is not shown.
    mask().unwrap_or_else(|_| class_name(py, error))
}
