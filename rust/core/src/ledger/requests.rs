//! Requests and connects, counted as the binding tells of them. The ledger counts other events where they happen.

use super::Ledger;
use crate::refusal::Refusal;
use crate::slot::State;
use crate::stats::Stats;
use crate::time::Span;

impl<H, W> Ledger<H, W> {
    /// Counts a request, unless the pool is closed, and tells the last generation.
    pub(crate) fn begin_request(&mut self) -> Result<u64, Refusal> {
        self.ensure_open()?;
        self.stats.requests_num += 1;
        Ok(self.table.generation())
    }

    /// Notes how long a request had to wait, if it had to, and whether it failed.
    pub(crate) fn end_request(&mut self, waited: Option<Span>, failed: bool) {
        if let Some(waited) = waited {
            self.stats.requests_queued += 1;
            self.stats.requests_wait.add(waited);
        }
        self.stats.requests_errors += u64::from(failed);
    }

    /// Notes how long a connect took, and whether it failed. If it did, the ledger trusts no connection any more.
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
        let mut usage = self.stats.usage;
        usage.add(self.usage_of_loans());
        Stats { usage: usage.less(self.usage_told), ..self.stats }
    }

    pub(crate) fn take_stats(&mut self) -> Stats {
        let told = self.stats();
        self.usage_told.add(told.usage);
        self.stats = Stats { usage: self.stats.usage, ..Stats::default() };
        told
    }

    /// Tells how long the connections that are lent now have been lent, in all.
    pub(super) fn usage_of_loans(&self) -> Span {
        let mut usage = Span::ZERO;
        if self.has_open_loans() {
            let lent = self.table.in_state(State::Lent).map(|index| self.table.get(index).since);
            lent.for_each(|since| usage.add(self.now.since(since)));
        }
        usage
    }
}
