//! Requests and connects, counted.

use super::SharedLedger;
use crate::ledger::Ledger;
use crate::queue::Wake;
use crate::refusal::Refusal;
use crate::stats::{Counts, Stats};
use crate::time::{Moment, Span};

impl<H, W: Wake> SharedLedger<H, W> {
    /// Counts a request, and tells the last generation, for [`SharedLedger::loan_since`].
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn begin_request(&self) -> Result<u64, Refusal> {
        self.edit(Ledger::begin_request)
    }

    /// Notes how long a request had to wait, if it had to, and whether it failed.
    pub fn end_request(&self, waited: Option<Span>, failed: bool) {
        self.edit(|ledger| ledger.end_request(waited, failed));
    }

    /// Notes how long a connect took, and whether it failed.
    pub fn note_connect(&self, took: Span, failed: bool) {
        self.edit(|ledger| ledger.note_connect(took, failed));
    }

    /// Tells what has happened, and what there is now.
    pub fn stats(&self, now: Moment) -> (Stats, Counts) {
        self.edit_at(now, |ledger| (ledger.stats(), ledger.counts()))
    }

    /// As [`SharedLedger::stats`]; from now on, what happens is counted from zero.
    pub fn take_stats(&self, now: Moment) -> (Stats, Counts) {
        self.edit_at(now, |ledger| (ledger.take_stats(), ledger.counts()))
    }
}
