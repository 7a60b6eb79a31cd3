//! Housekeeping, step by step: the chores of the ledger, for which no caller waits.

use std::time::{Duration, Instant};

use pgpool_core::{Caller, Chore, Moment};
use pyo3::prelude::*;

use crate::call::{call, edit, is_logging, must_not_wait};
use crate::caller::caller;
use crate::check;
use crate::error::{Error, is_database_error, is_pool_exhausted};
use crate::give_back::{discard_all, finish};
use crate::handle::address;
use crate::leaks::{describe_loan, log_forgotten};
use crate::limit::limit_of;
use crate::log::{CLOSE_FAILED, Event, LEAK, OPEN_FAILED, RESTORED, RETURN_FAILED, log, report_alone};
use crate::notes::with_notes;
use crate::open::last_connect_error;
use crate::pool::AbstractPool;
use crate::python::{by_name, imports, name};
use crate::system::{float, now};

/// Does all chores that are due, for a caller, and says when the next one will be.
pub(crate) fn maintain(pool: &Bound<'_, AbstractPool>) -> PyResult<Moment> {
    do_chores(pool, &|_, done| done)
}

/// Does the same for the housekeeper, which has no caller: it logs an `Exception` and goes on.
pub(crate) fn maintain_alone(pool: &Bound<'_, AbstractPool>) -> PyResult<Moment> {
    do_chores(pool, &|event, done| report_alone(pool, event, done))
}

/// Takes the outcome of a chore that ran a user's code, and returns what is to be raised.
type OnError<'a> = &'a dyn Fn(Event, PyResult<()>) -> PyResult<()>;

fn do_chores(pool: &Bound<'_, AbstractPool>, on_error: OnError<'_>) -> PyResult<Moment> {
    let caller = caller(pool.py())?;
    call(pool.py(), || log_forgotten(pool))?;
    let mut opened = 0;
    loop {
        // Each chore is a call of its own, so that nothing is held between two of them.
        if let Some(rest) = call(pool.py(), || do_chore(pool, caller, &mut opened, on_error))? {
            return Ok(rest);
        }
    }
}

/// Does the next chore. If none is due, says when the next one will be.
fn do_chore(
    pool: &Bound<'_, AbstractPool>,
    caller: Caller,
    opened: &mut usize,
    on_error: OnError<'_>,
) -> PyResult<Option<Moment>> {
    let ledger = pool.get().ledger();
    match ledger.chore(caller, !is_logging(caller), now()) {
        Chore::Return(returning) => on_error(RETURN_FAILED, finish(pool, returning).map_err(PyErr::from))?,
        Chore::Report(loan) => {
            let text = describe_loan(pool, &loan)?;
            log(pool, LEAK, || (text,))?;
        }
        // Stop: where a lifetime is shorter than a connect, there would be no end.
        Chore::Open(refill) if *opened > ledger.counts().minconn => refill.fail(now()),
        Chore::Open(refill) => {
            *opened += 1;
            match pool.call_method0(name!(pool.py(), connect_hook)) {
                Ok(connection) if ledger.holds(address(&connection)) => {
                    drop(refill);
                    log(pool, RESTORED, || ())?;
                }
                // An override of `_connect` has opened nothing, or nothing that stays.
                Ok(_) => refill.fail(now()),
                Err(error) => {
                    refill.fail(now());
                    // The connect has logged a database's error.
                    if !is_database_error(pool.py(), &error) && !is_limited(pool, &error) {
                        on_error(OPEN_FAILED, Err(error))?;
                    }
                }
            }
        }
        Chore::Rest(until) => return Ok(Some(until)),
    }
    Ok(None)
}

/// Does one round for a caller. Does not pause after a failed connect.
pub(crate) fn maintain_now(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    edit(pool.py(), || pool.get().ledger().hurry_refill())?;
    maintain(pool).map(drop)
}

/// Opens missing connections, and waits for those that another caller is opening.
fn refill(pool: &Bound<'_, AbstractPool>, caller: Caller) -> PyResult<()> {
    let ledger = pool.get().ledger();
    maintain_now(pool)?;
    while ledger.is_refilled_by_another(caller) && !must_not_wait(caller) {
        sleep(pool.py(), MOMENT)?;
        maintain(pool)?;
    }
    Ok(())
}

/// The pause before the next look.
const MOMENT: Duration = Duration::from_millis(1);

fn sleep(py: Python<'_>, pause: Duration) -> PyResult<()> {
    imports()?.time.bind(py).call_method1(name!(py, sleep), (float(py, pause.as_secs_f64())?,)).map(drop)
}

/// Checks all idle connections, and opens those that are missing then.
pub(crate) fn check_all(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let (py, ledger) = (pool.py(), pool.get().ledger());
    let caller = caller(py)?;
    for slot in edit(py, || ledger.idle_slots())? {
        call(py, || match ledger.begin_idle_check(slot, caller, now()) {
            Some(checking) => check::put_back(pool, checking),
            None => Ok(()),
        })?;
    }
    refill(pool, caller)
}

/// Closes all idle connections and opens new ones. Lent ones are closed as they come back.
pub(crate) fn drain(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let caller = caller(pool.py())?;
    call(pool.py(), || discard_all(pool, pool.get().ledger().drain(caller)))?;
    refill(pool, caller)
}

/// Waits until `minconn` connections are open, and one at least. Opens those that are missing. With maxconn=0, refuses at once.
pub(crate) fn wait(pool: &Bound<'_, AbstractPool>, deadline: Option<Instant>, asked: Instant) -> Result<(), Error> {
    let py = pool.py();
    let ledger = pool.get().ledger();
    edit(py, || ledger.hurry_refill())?;
    let deadline = if must_not_wait(caller(py)?) { Some(asked) } else { deadline };
    loop {
        let due = maintain(pool)?;
        with_notes(pool, pool.get().ensure_open())?;
        let mut counts = ledger.counts();
        // With minconn=0, open one to find out whether the server can be reached.
        if counts.minconn == 0 && counts.maxconn > 0 && counts.open() + counts.opening == 0 && ledger.may_open(now()) {
            open_one(pool)?;
            counts = ledger.counts();
        }
        // A connection that is being returned may be closed.
        let refuses = counts.maxconn == 0;
        let target = counts.minconn.min(counts.maxconn).max(1);
        if !refuses && counts.open() - counts.returning >= target {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if refuses || left.is_some_and(|left| left.is_zero()) {
            let waited = asked.elapsed().as_secs_f64();
            let why =
                if refuses { "; with maxconn=0 every request is refused".into() } else { last_connect_error(pool) };
            return Err(Error::TimedOut(format!(
                "connection pool not filled: waited {waited:.2} s in {} for {target} connections, {} are open{why}",
                pool.get().shown_name(py),
                counts.open(),
            )));
        }
        // Another caller may be opening the missing one.
        let pause = Duration::from_secs_f64(due.since(now()).as_secs_f64().clamp(0.001, 0.05));
        let pause = left.map_or(pause, |left| left.min(pause));
        sleep(py, pause)?;
    }
}

/// Opens an idle connection. The connect has logged a database's error.
fn open_one(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let opened = pool.call_method0(name!(pool.py(), connect_hook)).map(drop);
    let waits = |error: &PyErr| is_database_error(pool.py(), error) || is_limited(pool, error);
    opened.or_else(|error| if waits(&error) { Ok(()) } else { Err(error) })
}

/// Says whether a connect was refused by the limit that the pool shares: the next round may find a place.
fn is_limited(pool: &Bound<'_, AbstractPool>, error: &PyErr) -> bool {
    limit_of(pool).is_some() && is_pool_exhausted(pool.py(), error)
}

/// Notes that others wait for the limit, so that the pool keeps no more than `most` connections, and minconn; or that none do.
pub(crate) fn press(pool: &Bound<'_, AbstractPool>, most: Option<usize>) -> PyResult<()> {
    call(pool.py(), || report_alone(pool, CLOSE_FAILED, discard_all(pool, pool.get().ledger().press(most))))
}

/// Call `act` with the lock held, if the lock is free; return whether it was called.
///
/// It is written in Rust: in Python, an interrupt can strike between the call that takes a lock and the line that guards it.
#[pyfunction]
pub(crate) fn if_free(lock: &Bound<'_, PyAny>, act: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = lock.py();
    let at_once = by_name(name!(py, blocking), false)?;
    if !lock.call_method(name!(py, acquire), (), Some(&at_once))?.is_truthy()? {
        return Ok(false);
    }
    let acted = act.call0();
    lock.call_method0(name!(py, release))?;
    acted.map(|_| true)
}
