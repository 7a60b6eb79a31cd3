//! Connects that are held back, on the model.

use super::model::{Model, Promise, Purpose};
use crate::Moment;
use crate::tests::props::seconds;
use crate::time::Span;

/// What holds connects back.
#[derive(Default)]
pub(super) struct Backoff {
    pub(super) width: Option<usize>,
    at: Moment,
    pause: Span,
    longest: Span,
    pub(super) began: Moment,
    /// How many connects had begun when the last one ended.
    heard_of: u64,
}

impl Model {
    fn hangs_at(&self) -> Moment {
        self.backoff.began.after(self.backoff.longest)
    }

    pub(super) fn is_backing_off(&self) -> bool {
        let waits = self.waiting_for_room() > 0 || self.now < self.backoff.at;
        self.backoff.width.is_some() && (self.policy.reconnect_backoff.is_some() || waits)
    }

    pub(super) fn renew_backoff(&mut self) {
        if self.is_backing_off() {
            self.serve();
        } else if self.backoff.width.is_some() {
            self.reset_backoff();
        }
    }

    pub(super) fn some_may_come_back(&self) -> bool {
        let connections = self.promised.iter().any(|(_, promise)| matches!(promise, Promise::Connection(_)));
        connections || !self.lent.is_empty() || !self.checking.is_empty() || !self.returning.is_empty()
    }

    pub(super) fn next_try(&self) -> Moment {
        if self.now < self.backoff.at { self.backoff.at } else { self.hangs_at() }
    }

    pub(super) fn connects_allowed(&self) -> usize {
        let Some(width) = self.backoff.width.filter(|_| self.is_backing_off()) else { return usize::MAX };
        if self.now < self.backoff.at {
            return 0;
        }
        let rooms = self.promised.iter().filter(|(_, promise)| matches!(promise, Promise::Room)).count();
        let workers = |token| self.growing.iter().any(|growing| growing.token == token);
        let refills = self.opening.iter().any(|opening| opening.purpose == Purpose::Rest && !workers(opening.token));
        let under_way = self.opening.len() + rooms + usize::from(self.refill.busy && !refills);
        if self.now >= self.hangs_at() {
            width.saturating_sub(under_way).max(1)
        } else {
            width.saturating_sub(under_way)
        }
    }

    pub(super) fn may_open(&self) -> bool {
        self.has_room() && self.connects_allowed() > 0
    }

    /// The first waiter is woken to be told when to ask again.
    pub(super) fn keep_time(&mut self) {
        let held_back = self.is_backing_off() && !self.closed && self.has_room() && self.admits_first();
        let first = self.queue.iter_mut().find(|waiter| waiter.for_room && waiter.timed.is_some());
        if let Some(first) = first.filter(|first| held_back && first.timed == Some(false)) {
            *self.wakes.entry(first.number).or_default() += usize::from(std::mem::take(&mut first.armed));
        }
    }

    pub(super) fn back_off(&mut self, opened_in: u64, full: bool) {
        let pauses = self.policy.reconnect_backoff.or(full.then(|| (seconds(0.25), seconds(1.0))));
        let Some((first, longest)) = pauses.filter(|_| !self.closed) else { return };
        if opened_in > self.backoff.heard_of {
            let pause = Span::from_secs_f64(self.backoff.pause.as_secs_f64() * 2.0).clamp(first, longest);
            let at = self.now.after(pause.jittered(&mut self.rng));
            let (heard_of, began) = (self.openings, self.backoff.began);
            self.backoff = Backoff { width: Some(1), at, pause, longest, began, heard_of };
        }
    }

    pub(super) fn note_connected(&mut self) {
        self.backoff.heard_of = self.openings;
        if let Some(width) = self.backoff.width {
            (self.backoff.at, self.backoff.pause) = (Moment::START, Span::ZERO);
            self.backoff.width = Some(width + 1);
            if width + 1 >= self.maxconn {
                self.reset_backoff();
            }
            self.serve();
        }
    }

    pub(super) fn reset_backoff(&mut self) {
        self.backoff = Backoff { heard_of: self.backoff.heard_of, ..Backoff::default() };
    }
}
