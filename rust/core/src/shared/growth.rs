//! Growth by workers.

use super::{Growth, SharedLedger};
use crate::caller::Caller;
use crate::queue::Wake;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Sets the waker that is called from now on when a worker is needed. It says whether one will come and ask
    /// [`SharedLedger::begin_growth`].
    pub fn set_workers(&self, workers: W) {
        // A pool that is made anew in the same place has the same workers.
        let _ = self.workers.set(workers);
    }

    /// Tells a worker that comes to open a connection; nothing, if nobody waits for one any more.
    pub fn begin_growth(&self, worker: Caller) -> Option<Growth<'_, H, W>> {
        self.edit(|ledger| ledger.begin_growth(worker)).map(|slot| Growth { ledger: self, slot })
    }

    /// Says whether workers connect for the waiters.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn has_workers(&self) -> bool {
        self.edit(|ledger| ledger.room_for_workers(0) > 0)
    }

    /// Calls workers, after the unlock.
    pub(super) fn call_workers(&self, mut workers: usize) {
        while workers > 0 {
            workers -= 1;
            if !self.workers.get().is_some_and(Wake::wake) {
                // Another worker may be needed in its place: it is called here, not in the midst of the edit.
                workers += self.edit(|ledger| {
                    ledger.worker_missed();
                    std::mem::take(&mut ledger.after.workers)
                });
            }
        }
    }
}
