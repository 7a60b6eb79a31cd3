//! Calls of a pool, from beginning to end: when its lines are written, and when an interrupt is raised.
//!
//! During a call slots are reserved and connections are held. So a line of the log is kept until the outermost call of its
//! caller ends, and is written then. An interrupt that strikes where none can be raised, while a waiter is woken for instance,
//! is kept until the call that it struck ends. Both are filed under the caller, a thread or a greenlet, since several greenlets
//! of one thread may be within a call at the same time.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pgpool_core::Caller;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::caller::caller;
use crate::error::{both, is_exception, is_shortage, weightier};
use crate::python::imports;
use crate::system::thread_ident;

/// A line of a log, as `logging` is to write it.
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
    fn write(&self, py: Python<'_>) -> PyResult<()> {
        let Self { level, template, event, pool, reason, args } = self;
        imports()?.write_line.bind(py).call1((level, template, args, pool, event, reason)).map(drop)
    }
}

/// What one caller is at.
#[derive(Default)]
struct Calls {
    /// How many calls it is within, one within the other.
    depth: usize,
    /// Whether it is writing lines. Pool calls that a handler makes meanwhile log nothing and wait for nothing.
    speaking: bool,
    /// What is written when the outermost call ends.
    lines: Vec<Line>,
    /// What is raised when the innermost call ends.
    interrupt: Option<PyErr>,
}

thread_local! {
    static CALLS: RefCell<BTreeMap<Caller, Calls>> = const { RefCell::new(BTreeMap::new()) };
}

/// Changes what is filed under a caller. `change` runs no Python code and drops no object: it gives back what it displaces.
fn file<T>(caller: Caller, change: impl FnOnce(&mut Calls) -> T) -> T {
    CALLS.with_borrow_mut(|all| {
        let calls = all.entry(caller).or_default();
        let changed = change(calls);
        if calls.depth == 0 && !calls.speaking {
            all.remove(&caller);
        }
        changed
    })
}

/// Runs a call of a pool. At its end an interrupt that struck meanwhile is raised; of several errors, the weightiest. At the end of the outermost call of this
/// caller, its lines are written.
pub(crate) fn call<T, E>(py: Python<'_>, body: impl FnOnce() -> Result<T, E>) -> PyResult<T>
where
    PyErr: From<E>,
{
    call_or_undo(py, body, |_| Ok(()))
}

/// Runs an edit of the ledger as a call of its own, which raises an interrupt that strikes meanwhile.
pub(crate) fn edit<T>(py: Python<'_>, edit: impl FnOnce() -> T) -> PyResult<T> {
    call(py, || PyResult::Ok(edit()))
}

/// As [`call`]. If the body succeeds and the end raises, `undo` takes what the body has given; of two errors the weightier is raised.
pub(crate) fn call_or_undo<T, E>(
    py: Python<'_>,
    body: impl FnOnce() -> Result<T, E>,
    undo: impl FnOnce(T) -> PyResult<()>,
) -> PyResult<T>
where
    PyErr: From<E>,
{
    // A connection must come back even where nothing can tell its caller.
    let (caller, struck) = caller(py).map_or_else(|error| (thread_ident(), Some(error)), |caller| (caller, None));
    file(caller, |calls| calls.depth += 1);
    let done = body().map_err(PyErr::from);
    let (interrupt, lines) = file(caller, |calls| {
        calls.depth -= 1;
        let lines = if calls.depth == 0 { std::mem::take(&mut calls.lines) } else { Vec::new() };
        (calls.interrupt.take(), lines)
    });
    let interrupted = both(py, struck.map_or(Ok(()), Err), interrupt.map_or(Ok(()), Err));
    let end = both(py, interrupted, write(py, caller, &lines));
    match (done, end) {
        (Ok(value), Err(error)) => Err(weightier(py, error, undo(value).err())),
        (Err(first), end) => Err(weightier(py, first, end.err())),
        (done, Ok(())) => done,
    }
}

/// Keeps an error that strikes where none can be raised, a `KeyboardInterrupt` while a waiter is woken for instance, until the
/// call of this caller ends. What no call can raise is printed, and so is an `Exception`, which is no concern of the caller.
pub(crate) fn defer_interrupt(py: Python<'_>, error: PyErr) {
    let raised = !is_exception(py, &error);
    keep(py, error, raised);
}

/// As [`defer_interrupt`], for code of our own in Python, where an `Exception` is a job's time limit or the like.
pub(crate) fn defer_error(py: Python<'_>, error: PyErr) {
    keep(py, error, true);
}

fn keep(py: Python<'_>, error: PyErr, raised: bool) {
    let caller = caller(py).unwrap_or_else(|_| thread_ident());
    let within = file(caller, |calls| calls.depth > 0);
    if !raised || !within {
        return error.write_unraisable(py, None);
    }
    let first = file(caller, |calls| calls.interrupt.take());
    let kept = match first {
        Some(first) => weightier(py, first, Some(error)),
        None => error,
    };
    drop(file(caller, |calls| calls.interrupt.replace(kept)));
}

/// Takes an answer to a question that may fail without harm. What is stronger than an `Exception` is kept back.
pub(crate) fn answered<T>(py: Python<'_>, answer: PyResult<T>) -> Option<T> {
    let ignore = |error| {
        if !is_exception(py, &error) {
            defer_interrupt(py, error);
        }
    };
    answer.map_err(ignore).ok()
}

/// As [`answered`], for code of our own in Python, which fails only where it has no stack or no memory: whatever else is raised in
/// it, a job's time limit say, is kept back.
pub(crate) fn answered_by_ours<T>(py: Python<'_>, answer: PyResult<T>) -> Option<T> {
    let ignore = |error| {
        if !is_shortage(py, &error) {
            defer_error(py, error);
        }
    };
    answer.map_err(ignore).ok()
}

/// Says whether this caller is writing a line of a pool's log: then it logs nothing and waits for nothing.
pub(crate) fn is_logging(caller: Caller) -> bool {
    CALLS.with_borrow(|all| all.get(&caller).is_some_and(|calls| calls.speaking))
}

/// Writes a line when the outermost call of this caller ends, or at once if it is within none.
pub(crate) fn say(py: Python<'_>, caller: Caller, line: Line) -> PyResult<()> {
    let at_once = file(caller, |calls| {
        if calls.depth == 0 {
            return Some(line);
        }
        calls.lines.push(line);
        None
    });
    write(py, caller, at_once.as_slice())
}

/// Writes what has been kept so far, in the midst of a call that holds nothing just now: before a wait, for instance.
pub(crate) fn speak(py: Python<'_>, caller: Caller) -> PyResult<()> {
    let outermost = |calls: &mut Calls| if calls.depth == 1 { std::mem::take(&mut calls.lines) } else { Vec::new() };
    let lines = file(caller, outermost);
    write(py, caller, &lines)
}

/// Writes lines, all of them, and raises the first error of a handler.
fn write(py: Python<'_>, caller: Caller, lines: &[Line]) -> PyResult<()> {
    if lines.is_empty() {
        return Ok(());
    }
    speaking(caller, || lines.iter().map(|line| line.write(py)).fold(Ok(()), Result::and))
}

/// Runs what writes to the log.
pub(crate) fn speaking<T>(caller: Caller, write: impl FnOnce() -> T) -> T {
    file(caller, |calls| calls.speaking = true);
    let written = write();
    file(caller, |calls| calls.speaking = false);
    written
}
