//! Chores, limits and the end, on the model.

use super::model::{Ended, HOUSEKEEPER, Job, Loan, Model, Promise, Refill, Returning, Token};
use crate::time::Span;
use crate::{CloseReason, Moment, Refusal, Stats};

impl Model {
    // --- chores --------------------------------------------------------------------------------------------------------

    pub(super) fn job(&mut self, token: Token) -> Job {
        if let Some((name, closing)) = self.next_deferred_return(token, HOUSEKEEPER) {
            return Job::Return(name, closing);
        }
        if self.closed {
            return Job::Rest;
        }
        let over = self.idle.iter().position(|idle| self.now >= idle.end);
        let outdated = over.map(|at| (at, self.idle[at].why));
        let unused = self.idle_end().filter(|&(_, end)| self.now >= end).map(|(at, _)| (at, CloseReason::Idle));
        if let Some((at, reason)) = outdated.or(unused) {
            let connection = self.idle.remove(at);
            let (name, closing) = (connection.name, Some(reason));
            self.returning.push(Returning { token, connection, closing, in_transit: Some(HOUSEKEEPER) });
            return Job::Return(name, closing);
        }
        if self.late().next().is_some() {
            return Job::Report;
        }
        let due = self.lacks_some() && !self.refill.busy && self.now >= self.refill.at;
        if due && self.connects_allowed() > 0 {
            self.backoff.began = self.now;
            self.refill.busy = true;
            return Job::Open;
        }
        Job::Rest
    }

    pub(super) fn late(&mut self) -> impl Iterator<Item = &mut Loan> {
        let (now, leak_after) = (self.now, self.policy.leak_after);
        self.lent.iter_mut().filter(move |loan| !loan.reported && now >= loan.since.after(leak_after))
    }

    /// Notes that this caller's loan has been reported. Says how old it is, if it is late and was not reported before.
    pub(super) fn report(&mut self, caller: u64) -> Option<Span> {
        let now = self.now;
        let loan = self.late().find(|loan| loan.caller == caller)?;
        loan.reported = true;
        let age = now.since(loan.since);
        self.stats.leaks += 1;
        Some(age)
    }

    pub(super) fn lacks_some(&self) -> bool {
        self.occupied() < self.minconn && self.has_room() && self.growing.is_empty()
    }

    /// Which one has been idle for longest above minconn, and when it is to be closed.
    pub(super) fn idle_end(&self) -> Option<(usize, Moment)> {
        let surplus = self.idle.len() > self.minconn && self.policy.max_idle > Span::ZERO;
        let oldest = self.idle.iter().map(|idle| idle.since).enumerate().min_by_key(|&(_, since)| since);
        oldest.filter(|_| surplus).map(|(at, since)| (at, since.after(self.policy.max_idle)))
    }

    /// When there is something to do, if nothing happens before. What has been idle for too long since another one came
    /// back may be closed later: the housekeeper is not woken for that. One that found nothing to do comes a second later, at
    /// most.
    pub(super) fn due(&self, strictly: bool) -> Moment {
        let deferred_returns = self.deferred_returns.front().map(|_| self.now);
        if self.closed {
            return deferred_returns.unwrap_or(Moment::NEVER);
        }
        let ends = self.idle.iter().map(|idle| idle.end);
        let unreported = self.lent.iter().filter(|loan| !loan.reported);
        let reports = unreported.map(|loan| loan.since.after(self.policy.leak_after));
        let refill = (self.lacks_some() && !self.refill.busy).then_some(self.refill.at);
        let refill = refill.map(|at| if self.connects_allowed() > 0 { at } else { at.max(self.next_try()) });
        let idle_end = self.idle_end().filter(|_| strictly).map(|(_, end)| end);
        let lull = self.now.after(Span::from_millis(1_000));
        let timed = ends.chain(reports).chain(refill).chain(idle_end).map(|due| due.max(lull));
        timed.chain(deferred_returns).min().unwrap_or(Moment::NEVER)
    }

    pub(super) fn end_refill(&mut self, failed: bool) {
        self.refill.busy = false;
        if failed {
            let pause = Span::from_secs_f64(self.refill.pause.as_secs_f64() * 2.0);
            self.refill.pause = pause.clamp(Span::from_secs_f64(0.25), Span::from_secs_f64(4.0));
            self.refill.at = self.now.after(self.refill.pause.jittered(&mut self.rng));
        }
        self.serve();
        self.call_workers();
    }

    // --- limits and the end ----------------------------------------------------------------------------------------------

    /// Sets the limit. What is idle above it comes out to be closed.
    pub(super) fn set_maxconn(&mut self, maxconn: usize, tokens: &[Token]) -> Vec<u32> {
        self.maxconn = maxconn;
        let surplus = self.occupied().saturating_sub(maxconn + self.returning.len()).min(self.idle.len());
        let closing = if self.closed { CloseReason::WithPool } else { CloseReason::Surplus };
        let names = self.retire(surplus, tokens, closing, None);
        if self.closed {
            // Counted already, and to be counted again.
            let counted = &mut self.stats.closed[CloseReason::WithPool as usize];
            *counted = counted.saturating_sub(surplus as u64);
        }
        self.serve();
        names
    }

    pub(super) fn dismiss(&mut self) {
        for waiter in std::mem::take(&mut self.queue) {
            *self.wakes.entry(waiter.number).or_default() += usize::from(waiter.armed);
        }
        let mut promised = std::mem::take(&mut self.promised);
        promised.sort_by_key(|&(waiter, _)| (self.turns[&waiter], waiter));
        for (_, promise) in promised {
            if let Promise::Connection(connection) = promise {
                self.idle.push(connection);
            }
        }
    }

    pub(super) fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
        self.ended = Ended::Wholly;
        if closed {
            self.reset_backoff();
            self.dismiss();
        }
    }

    /// Closes the pool, and names what the closer is given.
    pub(super) fn close(&mut self) -> Result<Vec<u32>, Refusal> {
        let gently = self.closed && self.ended == Ended::Gently;
        if !gently && self.ensure_open() == Err(Refusal::Closed) {
            return Err(Refusal::Closed);
        }
        self.uses.extend(self.usages_of_loans());
        self.set_closed(true);
        self.ended = if gently { Ended::Twice } else { Ended::Wholly };
        let mut given = vec![];
        for (token, _) in std::mem::take(&mut self.deferred_returns) {
            given.push(self.take_returning(token).connection.name);
        }
        let lent = self.lent.iter().map(|loan| &loan.connection);
        given.extend(self.idle.iter().chain(lent).map(|connection| connection.name));
        self.stats.closed[CloseReason::WithPool as usize] += given.len() as u64;
        Ok(given)
    }

    /// Closes the pool gently, or makes it unopened, and names the connections that come out.
    pub(super) fn shut(&mut self, ended: Ended, tokens: &[Token]) -> Vec<u32> {
        self.set_closed(true);
        self.ended = ended;
        let deferred = std::mem::take(&mut self.deferred_returns);
        let (first, others) = tokens.split_at(deferred.len());
        let mut given = vec![];
        for ((left, _), &token) in deferred.into_iter().zip(first) {
            let mut returning = self.take_returning(left);
            (returning.token, returning.closing) = (token, Some(CloseReason::WithPool));
            given.push(returning.connection.name);
            self.returning.push(returning);
        }
        given.extend(self.retire(self.idle.len(), others, CloseReason::WithPool, None));
        given
    }

    pub(super) fn close_gently(&mut self, tokens: &[Token]) -> Option<Vec<u32>> {
        let shuts = self.ensure_open() != Err(Refusal::Closed);
        shuts.then(|| self.shut(Ended::Gently, tokens))
    }

    pub(super) fn open(&mut self) -> Result<bool, Refusal> {
        let opens = self.ensure_open() == Err(Refusal::Unopened);
        if opens {
            self.set_closed(false);
        }
        self.ensure_open().map(|()| opens)
    }

    pub(super) fn reset(&mut self) {
        self.dismiss();
        self.idle.clear();
        self.lent.clear();
        self.opening.clear();
        self.checking.clear();
        self.returning.clear();
        self.deferred_returns.clear();
        self.closed = false;
        self.ended = Ended::Wholly;
        self.refill = Refill::default();
        self.reset_backoff();
        self.called = 0;
        self.growing.clear();
        self.failed.clear();
        self.stats = Stats::default();
        self.fast = 0;
        self.uses.clear();
        self.connects.clear();
        self.usage_told = 0;
    }
}
