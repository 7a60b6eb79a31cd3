//! The end of a call: it writes the call's log lines, tells the listener, and raises a deferred interrupt.
//!
//! During a call, slots are reserved and connections are held. So a log line or a listener waits until the outermost call of its
//! caller ends. An interrupt may strike where nothing can be raised, for instance while a waiter is woken. It is deferred until the
//! call that it struck ends. Both are kept under the caller, a thread or a greenlet, since several greenlets of one thread may be
//! within a call at the same time.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use pgpool_core::Caller;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::caller::caller;
use crate::error::{both, every, is_exception, is_shortage, weightier};
use crate::python::imports;
use crate::system::thread_ident;

/// The arguments of a log line.
pub(crate) struct Line {
    pub(crate) level: u8,
    pub(crate) template: &'static str,
    pub(crate) event: &'static str,
    pub(crate) pool: String,
    pub(crate) reason: Option<String>,
    pub(crate) args: Py<PyTuple>,
}

impl Line {
    /// Hands the line to the handlers.
    pub(crate) fn write(&self, py: Python<'_>) -> PyResult<()> {
        let Self { level, template, event, pool, reason, args } = self;
        imports()?.write_line.bind(py).call1((level, template, args, pool, event, reason)).map(drop)
    }
}

/// What is done at the end of a call: a line is written, or a listener is told.
pub(crate) type Late = Box<dyn FnOnce(Python<'_>) -> PyResult<()>>;

/// The calls of one caller.
#[derive(Default)]
struct Calls {
    caller: Caller,
    /// How many calls the caller is within, one within the other.
    depth: usize,
    /// Whether the caller is writing lines. Pool calls that a log handler or a listener makes meanwhile log nothing, tell nothing and
    /// wait for nothing.
    is_logging: bool,
    /// Whether the caller asks the limit for a place. Others may wait for that, so what it calls meanwhile, in a finalizer for
    /// instance, waits for nothing.
    is_seeking: bool,
    /// What to do when the outermost call ends.
    late: Vec<Late>,
    /// The interrupt to raise when the innermost call ends.
    interrupt: Option<PyErr>,
}

thread_local! {
    /// Without a destructor: uWSGI calls the pool at the end of a process, after those of its thread have run.
    /// Most often there is one caller, the thread.
    static CALLS: RefCell<ManuallyDrop<Vec<Calls>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// Changes what is kept under a caller. `change` runs no Python code and drops no object: it returns what it displaces.
fn with_calls<T>(caller: Caller, change: impl FnOnce(&mut Calls) -> T) -> T {
    CALLS.with_borrow_mut(|all| {
        let place = all.iter().position(|calls| calls.caller == caller).unwrap_or_else(|| {
            all.push(Calls { caller, ..Calls::default() });
            all.len() - 1
        });
        let calls = &mut all[place];
        let changed = change(calls);
        if calls.depth == 0 && !calls.is_logging && !calls.is_seeking {
            all.swap_remove(place);
            if all.is_empty() {
                // So that a thread leaves nothing behind.
                drop(std::mem::take(&mut **all));
            }
        }
        changed
    })
}

/// Runs a call of a pool. Its end raises a deferred interrupt; of several errors, the weightiest. The end of the caller's outermost
/// call writes the lines and tells the listener.
pub(crate) fn call<T, E>(py: Python<'_>, body: impl FnOnce() -> Result<T, E>) -> PyResult<T>
where
    PyErr: From<E>,
{
    call_or_undo(py, body, |_| Ok(()))
}

/// Runs an edit of the ledger as a call of its own, which raises an interrupt that strikes during the edit.
pub(crate) fn edit<T>(py: Python<'_>, edit: impl FnOnce() -> T) -> PyResult<T> {
    call(py, || PyResult::Ok(edit()))
}

/// As [`call`]. If the body succeeds and the end raises, `undo` takes the body's value. Of two errors the weightier is raised.
pub(crate) fn call_or_undo<T, E>(
    py: Python<'_>,
    body: impl FnOnce() -> Result<T, E>,
    undo: impl FnOnce(T) -> PyResult<()>,
) -> PyResult<T>
where
    PyErr: From<E>,
{
    // A connection must come back even if the caller cannot be told.
    let (caller, struck) = caller(py).map_or_else(|error| (thread_ident(), Some(error)), |caller| (caller, None));
    // An interrupt that struck before this call is for the call that this one is within.
    let earlier = with_calls(caller, |calls| {
        calls.depth += 1;
        calls.interrupt.take()
    });
    let done = body().map_err(PyErr::from);
    let (interrupt, late) = with_calls(caller, |calls| {
        calls.depth -= 1;
        let late = if calls.depth == 0 { std::mem::take(&mut calls.late) } else { Vec::new() };
        (std::mem::replace(&mut calls.interrupt, earlier), late)
    });
    let interrupted = both(py, struck.map_or(Ok(()), Err), interrupt.map_or(Ok(()), Err));
    let end = both(py, interrupted, do_late(py, caller, late));
    match (done, end) {
        (Ok(value), Err(error)) => Err(weightier(py, error, undo(value).err())),
        (Err(first), end) => Err(weightier(py, first, end.err())),
        (done, Ok(())) => done,
    }
}

/// Defers an interrupt that strikes where nothing can be raised until the call of this caller ends. Outside of any call it is
/// printed. An `Exception` is printed, too: it does not concern the caller.
pub(crate) fn defer_interrupt(py: Python<'_>, error: PyErr) {
    let raised = !is_exception(py, &error);
    defer(py, error, raised);
}

/// As [`defer_interrupt`], for our own Python code, in which even an `Exception` concerns the caller: it is a job's time limit.
pub(crate) fn defer_error(py: Python<'_>, error: PyErr) {
    defer(py, error, true);
}

fn defer(py: Python<'_>, error: PyErr, raised: bool) {
    let caller = caller(py).unwrap_or_else(|_| thread_ident());
    let within = with_calls(caller, |calls| calls.depth > 0);
    if !raised || !within {
        return error.write_unraisable(py, None);
    }
    let first = with_calls(caller, |calls| calls.interrupt.take());
    let kept = match first {
        Some(first) => weightier(py, first, Some(error)),
        None => error,
    };
    drop(with_calls(caller, |calls| calls.interrupt.replace(kept)));
}

/// Takes the answer of a question that may fail without harm. Defers an error that is no `Exception`.
pub(crate) fn answered<T>(py: Python<'_>, answer: PyResult<T>) -> Option<T> {
    let ignore = |error| {
        if !is_exception(py, &error) {
            defer_interrupt(py, error);
        }
    };
    answer.map_err(ignore).ok()
}

/// As [`answered`], for our own Python code, which fails only for want of stack or memory. Defers any other error, for instance a
/// job's time limit.
pub(crate) fn answered_by_ours<T>(py: Python<'_>, answer: PyResult<T>) -> Option<T> {
    let ignore = |error| {
        if !is_shortage(py, &error) {
            defer_error(py, error);
        }
    };
    answer.map_err(ignore).ok()
}

/// Says whether this caller is writing a log line of a pool. Then its pool calls log nothing and wait for nothing.
pub(crate) fn is_logging(caller: Caller) -> bool {
    CALLS.with_borrow(|all| all.iter().any(|calls| calls.caller == caller && calls.is_logging))
}

/// Says whether the pool calls of this caller must wait for nothing.
pub(crate) fn must_not_wait(caller: Caller) -> bool {
    CALLS.with_borrow(|all| all.iter().any(|calls| calls.caller == caller && (calls.is_logging || calls.is_seeking)))
}

/// Runs `seek`, which asks the limit for a place.
pub(crate) fn while_seeking<T>(caller: Caller, seek: impl FnOnce() -> T) -> T {
    with_flag(caller, |calls| &mut calls.is_seeking, seek)
}

/// Does this when the outermost call of this caller ends, or at once if it is within none.
pub(crate) fn do_at_end(py: Python<'_>, caller: Caller, late: Late) -> PyResult<()> {
    let at_once = with_calls(caller, |calls| {
        if calls.depth == 0 {
            return vec![late];
        }
        calls.late.push(late);
        Vec::new()
    });
    do_late(py, caller, at_once)
}

/// Does what waits for the end, in the middle of a call that holds nothing: before a wait, for instance.
pub(crate) fn do_what_waits(py: Python<'_>, caller: Caller) -> PyResult<()> {
    let outermost = |calls: &mut Calls| if calls.depth == 1 { std::mem::take(&mut calls.late) } else { Vec::new() };
    let late = with_calls(caller, outermost);
    do_late(py, caller, late)
}

/// Does all of this, and then raises the weightiest error.
fn do_late(py: Python<'_>, caller: Caller, late: Vec<Late>) -> PyResult<()> {
    if late.is_empty() {
        return Ok(());
    }
    while_logging(caller, || every(py, late.into_iter().map(|late| late(py))))
}

/// Runs `write`, which writes to the log or tells a listener.
pub(crate) fn while_logging<T>(caller: Caller, write: impl FnOnce() -> T) -> T {
    with_flag(caller, |calls| &mut calls.is_logging, write)
}

/// Sets a flag of this caller while `body` runs.
fn with_flag<T>(caller: Caller, flag: fn(&mut Calls) -> &mut bool, body: impl FnOnce() -> T) -> T {
    let before = with_calls(caller, |calls| std::mem::replace(flag(calls), true));
    let done = body();
    with_calls(caller, |calls| *flag(calls) = before);
    done
}
