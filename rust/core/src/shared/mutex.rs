//! The mutex. This file alone names `parking_lot`, so that a model checker's mutex can replace it.

#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use parking_lot::Mutex;

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use checked::Mutex;

/// The mutex of the model checker. As `parking_lot`'s, it is not poisoned.
#[cfg(all(test, feature = "shuttle"))]
mod checked {
    use shuttle::sync::{MutexGuard, PoisonError};

    use crate::tests::explorer;

    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        /// Takes the mutex. Before that, any other thread that could run may run.
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            explorer::anyone_next();
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}
