//! The callers, which the ledger knows by number.

/// A caller: a number that no two running callers share. It lets the ledger refuse a caller that would wait for itself.
pub type Caller = u64;

/// No caller has this number.
pub(crate) const NO_CALLER: Caller = 0;
