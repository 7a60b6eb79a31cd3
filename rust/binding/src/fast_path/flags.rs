//! The flags that keep calls from the fast path, as the bits of one number.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use crate::system::PROCESS_STEP;

/// The hooks that psycopg2.pool calls on every loan. We call them only if they are overridden. Their order is that of the first
/// three bits.
pub(crate) const HOOKS: [&str; 3] = ["_getkey", "_getconn", "_putconn"];

/// `_getkey` is overridden.
pub(crate) const GETKEY_HOOK: u64 = 1;
/// `_getconn` is overridden.
pub(crate) const GETCONN_HOOK: u64 = 1 << 1;
/// `_putconn` is overridden.
pub(crate) const PUTCONN_HOOK: u64 = 1 << 2;
/// An option needs each new loan, or the thread alone does not name its borrower.
pub(crate) const LOANS: u64 = 1 << 3;
/// An option needs each connection that comes back.
pub(crate) const RETURNS: u64 = 1 << 4;
/// `getconn` or `putconn` itself is overridden.
pub(crate) const GETCONN_OR_PUTCONN: u64 = 1 << 5;
/// `close()` returns a connection, which a block has to know.
pub(crate) const CLOSE_RETURNS: u64 = 1 << 6;
/// There is a listener.
pub(crate) const LISTENER: u64 = 1 << 7;
/// What keeps a block from the fast path, besides what keeps `getconn` and `putconn` from it.
pub(crate) const BLOCKS: u64 = GETCONN_OR_PUTCONN | CLOSE_RETURNS;
/// All flags.
pub(crate) const ALL: u64 = PROCESS_STEP - 1;

/// The hooks as they were before a program could override or patch one. There are several where a program imports the package anew.
pub(super) static ORIGINALS: Mutex<Vec<[Py<PyAny>; 3]>> = Mutex::new(Vec::new());

/// Says whether `found`, which a class has under the name of a hook, is the hook itself.
pub(crate) fn is_original(hook: usize, found: &Bound<'_, PyAny>) -> bool {
    let originals = ORIGINALS.lock().unwrap_or_else(PoisonError::into_inner);
    originals.iter().any(|hooks| hooks[hook].is(found))
}
