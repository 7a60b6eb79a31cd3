//! Calls of a pool, from their beginning to their end, where a pool speaks and where interrupts are raised.
//!
//! While a call is under way, slots may be reserved and connections be held. So a line of the log is kept until the outermost
//! call of the caller ends, and is written then. An interrupt that strikes where none can be raised, while a waiter is woken
//! for instance, is kept until the call that it struck ends. Both belong to a caller, a thread or a greenlet: another greenlet of
//! the same thread may make a call meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pgpool_core::Caller;
use pyo3::prelude::*;

use crate::error::is_plain;
use crate::filing::caller;
use crate::log::Line;
use crate::system::thread_ident;

/// What is under way for one caller.
#[derive(Default)]
struct Calls {
    /// How many calls there are, one within the other.
    depth: usize,
    /// Whether a line of the log is being written: what its handlers call says nothing and waits for nothing.
    speaking: bool,
    /// What is to be written when the outermost call ends.
    lines: Vec<Line>,
    /// What is to be raised when the innermost call ends.
    interrupt: Option<PyErr>,
}

thread_local! {
    static CALLS: RefCell<BTreeMap<Caller, Calls>> = const { RefCell::new(BTreeMap::new()) };
}

/// Looks at the calls of a caller and changes them. No Python code may run in it: what it displaces, it gives back.
fn with<T>(caller: Caller, change: impl FnOnce(&mut Calls) -> T) -> T {
    CALLS.with_borrow_mut(|all| {
        let calls = all.entry(caller).or_default();
        let changed = change(calls);
        if calls.depth == 0 && !calls.speaking {
            all.remove(&caller);
        }
        changed
    })
}

/// Runs one call of a pool. At its end an interrupt that struck meanwhile is raised; at the end of the outermost call of this
/// caller its lines are written, too.
pub(crate) fn call<T, E>(py: Python<'_>, body: impl FnOnce() -> Result<T, E>) -> PyResult<T>
where
    PyErr: From<E>,
{
    call_or_undo(py, body, drop)
}

/// As [`call`]. If the end raises though the body did not, what the body has given is handed to `undo`.
pub(crate) fn call_or_undo<T, E>(
    py: Python<'_>,
    body: impl FnOnce() -> Result<T, E>,
    undo: impl FnOnce(T),
) -> PyResult<T>
where
    PyErr: From<E>,
{
    // A way back must not fail over the question who returns.
    let (caller, interrupt) = caller(py).map_or_else(|error| (thread_ident(), Some(error)), |caller| (caller, None));
    with(caller, |calls| calls.depth += 1);
    if let Some(error) = interrupt.filter(|error| !is_plain(py, error)) {
        keep_for(caller, error);
    }
    let done = body().map_err(PyErr::from);
    let (lines, interrupt) = with(caller, |calls| {
        calls.depth -= 1;
        let lines = if calls.depth == 0 { std::mem::take(&mut calls.lines) } else { Vec::new() };
        (lines, calls.interrupt.take())
    });
    let ended = interrupt.map_or(Ok(()), Err);
    match (done, stronger(py, ended, write(py, caller, lines))) {
        (Ok(value), Err(error)) => {
            undo(value);
            Err(error)
        }
        (Err(first), ended) => stronger(py, Err(first), ended).and_then(|()| unreachable_value()),
        (done, Ok(())) => done,
    }
}

/// Keeps a line until the outermost call of this caller ends. Without one there is nothing to wait for.
pub(crate) fn say(py: Python<'_>, caller: Caller, line: Line) -> PyResult<()> {
    let at_once = with(caller, |calls| {
        if calls.depth == 0 {
            return Some(line);
        }
        calls.lines.push(line);
        None
    });
    write(py, caller, at_once.into_iter().collect())
}
