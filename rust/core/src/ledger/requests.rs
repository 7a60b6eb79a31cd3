//! Requests and connects, counted as the binding tells of them. The ledger counts other events where they happen.

use super::Ledger;
use crate::histogram::Times;
use crate::refusal::Refusal;
use crate::slot::State;
use crate::stats::{RequestEnd, Stats};
use crate::time::Span;

impl<H, W> Ledger<H, W> {
    /// Counts a request, unless the pool is closed, and tells the last generation.
    pub(crate) fn begin_request(&mut self) -> Result<u64, Refusal> {
        self.ensure_open()?;
        self.stats.requests_num += 1;
        self.slow_requests += 1;
        Ok(self.table.generation())
    }

    /// Notes how long a request was in the queue, if it was, and how it ended.
    pub(crate) fn end_request(&mut self, queued: Option<Span>, end: RequestEnd) {
        let stats = &mut self.stats;
        if let Some(queued) = queued {
            stats.requests_queued += 1;
            stats.requests_wait.add(queued);
        }
        match end {
            RequestEnd::Served(after) => return self.times.waits.observe(after),
            RequestEnd::TimedOut => stats.requests_timed_out += 1,
            RequestEnd::Refused => stats.requests_refused += 1,
            RequestEnd::Crowded => stats.requests_crowded += 1,
            RequestEnd::Failed => {}
        }
        stats.requests_errors += 1;
    }

    /// Notes how long a connect took, and whether it failed. If it did, the ledger trusts no connection any more.
    pub(crate) fn note_connect(&mut self, took: Span, failed: bool) {
        self.stats.connections_num += 1;
        self.stats.connections_time.add(took);
        if failed {
            self.stats.connections_errors += 1;
            self.suspect_all();
        } else {
            self.times.connects.observe(took);
            self.note_reachable();
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut usage = self.times.uses.sum();
        self.each_usage(|more| usage.add(more));
        let oldest_loan = self.oldest_loan().map_or(Span::ZERO, |(age, _)| age);
        Stats { usage: usage.less(self.usage_told), oldest_loan, ..self.stats }
    }

    pub(crate) fn take_stats(&mut self) -> Stats {
        let told = self.stats();
        self.usage_told.add(told.usage);
        self.requests_told += told.requests_num;
        self.stats = Stats::default();
        told
    }

    /// Tells how long everything took since the pool was made.
    pub(crate) fn times(&self) -> Times {
        let mut times = self.times;
        times.waits.observe_none(self.requests_told + self.stats.requests_num - self.slow_requests);
        times
    }

    /// Notes that all loans end.
    pub(super) fn end_all_uses(&mut self) {
        let mut uses = self.times.uses;
        self.each_usage(|usage| uses.observe(usage));
        self.times.uses = uses;
    }

    /// Tells how long each connection that is lent now has been lent. Those of a closed pool are closed.
    fn each_usage(&self, tell: impl FnMut(Span)) {
        if self.has_open_loans() {
            let lent = self.table.in_state(State::Lent).map(|index| self.table.get(index).since);
            lent.map(|since| self.now.since(since)).for_each(tell);
        }
    }
}
