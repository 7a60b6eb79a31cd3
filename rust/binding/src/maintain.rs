//! Housekeeping, step by step: what the ledger says is to be done that no caller waits for.

use std::time::{Duration, Instant};

use pgpool_core::{Chore, Moment};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;

use crate::borrow::last_connect_error;
use crate::check;
use crate::connection::address;
use crate::error::{Error, ended, is_plain, is_said};
use crate::filing::caller;
use crate::give_back::{discard_all, finish};
use crate::log::{Level, NOT_RETURNED, log, report_place};
use crate::names::name;
use crate::pool::AbstractPool;
use crate::system::now;
use crate::watch::describe_loan;

/// Does all that is to be done now, for a caller, and tells when there will be something again.
pub(crate) fn maintain(slf: &Bound<'_, AbstractPool>) -> PyResult<Moment> {
    ended(do_chores(slf, |_, done| done))
}

/// Does the same for nobody: what an `Exception` says is logged, and the work goes on.
pub(crate) fn maintain_alone(slf: &Bound<'_, AbstractPool>) -> PyResult<Moment> {
    ended(do_chores(slf, |what, done| match done {
        Err(error) if is_plain(slf.py(), &error) => report_place(slf, what, &error),
        done => done,
    }))
}

/// Does the chores. `hear` is told how those end that run other people's code.
fn do_chores(slf: &Bound<'_, AbstractPool>, hear: impl Fn(&str, PyResult<()>) -> PyResult<()>) -> PyResult<Moment> {
    let pool = slf.get().ledger();
    let caller = caller(slf.py())?;
    let mut opened = 0;
    loop {
        match pool.chore(caller, now()) {
            Chore::Return(returning) => hear(NOT_RETURNED, finish(slf, returning).map_err(PyErr::from))?,
            Chore::Report(loan) => {
                let text = describe_loan(slf, &loan)?;
                log(slf, Level::Warning, || format!("connection not returned: {text}"))?;
            }
            // Where lifetimes are shorter than connects take, there is no end to this.
            Chore::Open(refill) if opened > pool.counts().minconn => {
                refill.fail(now());
            }
            Chore::Open(refill) => {
                opened += 1;
                match slf.call_method0(name!(slf.py(), connect_hook)) {
                    Ok(connection) if pool.holds(address(&connection)) => {
                        drop(refill);
                        log(slf, Level::Info, || "connection opened: one was missing".to_owned())?;
                    }
                    // An override that opens nothing, or nothing that stays.
                    Ok(_) => refill.fail(now()),
                    Err(error) => {
                        refill.fail(now());
                        // What the database said was logged by the connect.
                        if !is_said(slf.py(), &error) {
                            hear("a connection could not be opened", Err(error))?;
                        }
                    }
                }
            }
            Chore::Rest(until) => return Ok(until),
        }
    }
}

/// Does one round by hand: without a pause, though the last connect has failed.
pub(crate) fn maintain_now(slf: &Bound<'_, AbstractPool>) -> PyResult<()> {
    slf.get().ledger().hurry_refill();
    maintain(slf).map(drop)
}

/// Checks all idle connections, and replaces those that are missing after that.
pub(crate) fn check_all(slf: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let pool = slf.get().ledger();
    let caller = caller(slf.py())?;
    for slot in pool.idle_slots() {
        if let Some(checking) = pool.begin_idle_check(slot, caller, now()) {
            ended(check::put_back(slf, checking))?;
        }
    }
    maintain_now(slf)
}

/// Closes all idle connections and opens new ones in their place; those that are lent follow as they come back.
pub(crate) fn drain(slf: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let drained = slf.get().ledger().drain(caller(slf.py())?);
    ended(discard_all(slf, drained))?;
    maintain_now(slf)
}

/// Waits until `minconn` connections are open, opening those that are missing.
pub(crate) fn wait(slf: &Bound<'_, AbstractPool>, deadline: Option<Instant>, asked: Instant) -> Result<(), Error> {
    let py = slf.py();
    let pool = slf.get().ledger();
    pool.hurry_refill();
    loop {
        let due = maintain(slf)?;
        slf.get().ensure_open()?;
        let counts = pool.counts();
        // What is being returned may be on its way out.
        if counts.open() - counts.returning >= counts.minconn {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let waited = asked.elapsed().as_secs_f64();
            return Err(Error::TimedOut(format!(
                "connection pool not filled: waited {waited:.2} s for {} connections, {} are open{}",
                counts.minconn,
                counts.open(),
                last_connect_error(slf),
            )));
        }
        // Somebody else may be opening the one that is missing.
        let pause = Duration::from_secs_f64(due.since(now()).as_secs_f64().clamp(0.001, 0.05));
        let pause = left.map_or(pause, |left| left.min(pause));
        py.import(name!(py, time_module))?.call_method1(name!(py, sleep), (pause.as_secs_f64(),))?;
    }
}

/// Tells the housekeeping that there is something to do for a pool; starts its thread if there is none.
pub(crate) fn poke(pool: &Bound<'_, PyAny>) -> PyResult<()> {
    housekeeping(pool.py())?.call_method1(name!(pool.py(), poke), (pool,)).map(drop)
}

/// As [`poke`], at any moment, in the midst of anything: it starts no thread and waits for no lock.
pub(crate) fn poke_quietly(pool: &Bound<'_, PyAny>) -> PyResult<()> {
    housekeeping(pool.py())?.call_method1(name!(pool.py(), poke_quietly), (pool,)).map(drop)
}

fn housekeeping(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    // Imported once: nothing can be when the interpreter ends.
    let import = || Ok::<_, PyErr>(py.import("pgpool_rs._housekeeping")?.unbind());
    Ok(MODULE.get_or_try_init(py, import)?.bind(py))
}

/// See [`crate::error::prepare`].
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    housekeeping(py).map(drop)
}
