//! Counting. Most events are counted where they happen; these are told.

use super::Ledger;
use crate::error::Refusal;
use crate::stats::Stats;
use crate::time::Span;

impl<H, W> Ledger<H, W> {
    /// Counts a request, unless the pool is closed.
    pub(crate) fn begin_request(&mut self) -> Result<(), Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        self.stats.requests_num += 1;
        Ok(())
    }

    /// Notes how long a request had to wait, if it had to, and whether it failed.
    pub(crate) fn end_request(&mut self, waited: Option<Span>, failed: bool) {
        if let Some(waited) = waited {
            self.stats.requests_queued += 1;
            self.stats.requests_wait.add(waited);
        }
        self.stats.requests_errors += u64::from(failed);
    }

    /// Notes how long a connect took, and whether it failed. If it did, no connection is trusted any more.
    pub(crate) fn note_connect(&mut self, took: Span, failed: bool) {
        self.stats.connections_num += 1;
        self.stats.connections_time.add(took);
        if failed {
            self.stats.connections_errors += 1;
            self.suspect_all();
        } else {
            self.note_reachable();
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    pub(crate) fn take_stats(&mut self) -> Stats {
        std::mem::take(&mut self.stats)
    }
}
