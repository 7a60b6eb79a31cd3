//! The one file that names `parking_lot`, so that a model checker's mutex can stand in for it.

pub(crate) use parking_lot::Mutex;
