//! What keeps calls from the fast path: bits of a number that `front` looks at, and nothing more.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

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

/// The hooks as they were before anybody could override or patch one; more than once, where the package was imported anew.
pub(super) static ORIGINALS: Mutex<Vec<[Py<PyAny>; 3]>> = Mutex::new(Vec::new());

/// Says whether what a class has under the name of a hook is the hook itself.
pub(crate) fn is_original(hook: usize, found: &Bound<'_, PyAny>) -> bool {
    let originals = ORIGINALS.lock().unwrap_or_else(PoisonError::into_inner);
    originals.iter().any(|hooks| hooks[hook].is(found))
}
