//! What the tests use as connections, keys and waiters.

use std::sync::{Arc, Weak};

use shuttle::sync::{Condvar, Mutex};

use super::model::Model;
use crate::{SharedLedger, Wake};

pub(super) type TestLedger = SharedLedger<Thing, Parker>;

/// A connection, or a key. When it is dropped, the pool's mutex must be free.
pub(super) struct Thing {
    /// The connection's name; 0 for a key.
    pub(super) name: u32,
    pub(super) model: Model,
    pub(super) ledger: Weak<TestLedger>,
}

impl Drop for Thing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_unlocked(&self.ledger, "a handle was dropped");
        let mut state = self.model.state();
        state.handles -= 1;
        if self.name > 0 {
            state.collected(self.name);
        }
    }
}

/// A waker, and what its thread waits on. When it rings, the pool's mutex must be free.
#[derive(Clone)]
pub(super) struct Parker {
    pub(super) thread: usize,
    pub(super) model: Model,
    pub(super) ledger: Weak<TestLedger>,
    pub(super) woken: Arc<(Mutex<bool>, Condvar)>,
}

impl Parker {
    /// Waits until it has woken. One that never rings is a deadlock, which the model checker reports.
    pub(super) fn park(&self) {
        let mut woken = self.woken.0.lock().expect("no thread panics with it");
        while !*woken {
            woken = self.woken.1.wait(woken).expect("no thread panics with it");
        }
        *woken = false;
    }

    pub(super) fn ring(&self) {
        *self.woken.0.lock().expect("no thread panics with it") = true;
        self.woken.1.notify_one();
    }

    pub(super) fn assert_unlocked(&self, what: &str) {
        assert_unlocked(&self.ledger, what);
    }
}

impl Wake for Parker {
    fn wake(&self) -> bool {
        self.assert_unlocked("a waiter was woken");
        self.model.state().woken(self.thread);
        self.ring();
        true
    }
}

impl Drop for Parker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_unlocked(&self.ledger, "a waker was dropped");
        }
    }
}

fn assert_unlocked(ledger: &Weak<TestLedger>, what: &str) {
    if let Some(ledger) = ledger.upgrade() {
        assert!(ledger.is_unlocked(), "{what} while the mutex was held");
    }
}
