//! What keeps calls from the fast path: bits of a number that `front` looks at, and nothing more.

use pyo3::prelude::*;

use crate::filing::is_native;
use crate::front::is_original;
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::system::PROCESS_STEP;

/// The hooks that psycopg2.pool calls on every loan, and that we call only where they are overridden; in the order of the
/// first three bits.
pub(crate) const HOOKS: [&str; 3] = ["_getkey", "_getconn", "_putconn"];

/// Which of them are.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    pub(crate) getkey: bool,
    pub(crate) getconn: bool,
    pub(crate) putconn: bool,
}

pub(crate) const GETKEY: u64 = 1;
pub(crate) const GETCONN: u64 = 1 << 1;
pub(crate) const PUTCONN: u64 = 1 << 2;
/// Something is done to each new loan, or its borrower is not told by the thread alone.
pub(crate) const LOANS: u64 = 1 << 3;
/// Something is done to each connection that comes back.
pub(crate) const RETURNS: u64 = 1 << 4;
/// All bits that there may be.
pub(crate) const ALL: u64 = PROCESS_STEP - 1;

/// Finds out which detours a pool has to take.
pub(crate) fn find(slf: &Bound<'_, AbstractPool>) -> PyResult<u64> {
    let class = slf.get_type();
    let attributes = slf.getattr("__dict__")?;
    let mut bits = 0;
    for (bit, name) in HOOKS.into_iter().enumerate() {
        if attributes.contains(name)? || !is_original(bit, &class.getattr(name)?) {
            bits |= 1 << bit;
        }
    }
    let options = slf.get().options();
    if options.record || options.reclaim || !is_get_ident_native(slf.py())? {
        bits |= LOANS;
    }
    if options.record || options.reclaim || options.reset.is_some() {
        bits |= RETURNS;
    }
    Ok(bits)
}

/// Says whether `threading.get_ident` is CPython's own. gevent and eventlet put theirs in its place.
fn is_get_ident_native(py: Python<'_>) -> PyResult<bool> {
    is_native(&imports()?.threading.bind(py).getattr(name!(py, get_ident))?)
}
