//! Requests and connects, counted.

use super::SharedLedger;
use crate::histogram::Times;
use crate::ledger::Ledger;
use crate::queue::Wake;
use crate::refusal::Refusal;
use crate::stats::{Counts, RequestEnd, Stats};
use crate::time::{Moment, Span};

impl<H, W: Wake> SharedLedger<H, W> {
    /// Counts a request, and tells the last generation, for [`SharedLedger::loan_since`].
    ///
    /// # Errors
    /// [`Refusal::Closed`].
    pub fn begin_request(&self) -> Result<u64, Refusal> {
        self.edit(Ledger::begin_request)
    }

    /// Notes how long a request was in the queue, if it was, and how it ended.
    pub fn end_request(&self, queued: Option<Span>, end: RequestEnd) {
        self.edit(|ledger| ledger.end_request(queued, end));
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

    /// Tells how long everything took since the pool was made, whether statistics were taken or not.
    pub fn times(&self) -> Times {
        self.edit(|ledger| ledger.times())
    }
}
