//! The policy: which caller gets which slot, and when. The ledger is a sans-I/O state machine (see the crate's first page):
//! plain `&mut self`, no lock, no clock, nothing that can block.
//!
//! It drops no handle and wakes no waiter. It puts displaced handles and the wakers of those whose turn has come into
//! [`After`], which [`crate::shared`] takes out of the ledger and acts on once the mutex is free.

mod backoff;
mod borrow;
mod chores;
mod closing;
mod fast_path;
mod give_back;
mod granted;
mod growth;
mod health;
mod in_transit;
mod inherited;
mod limits;
mod loans;
mod lookup;
mod open;
mod outage;
mod priority;
mod requests;
mod views;

pub use self::borrow::Busy;
pub(crate) use self::borrow::CheckOutDecision;
pub(crate) use self::chores::{ChoreDecision, DeferredReturn};
pub(crate) use self::give_back::Return;
pub(crate) use self::granted::{Dues, Seeker};
pub(crate) use self::growth::GrowthEnd;
pub use self::health::Check;
pub(crate) use self::inherited::Inherited;
pub use self::limits::Policy;
pub(crate) use self::open::ReserveDecision;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::histogram::Times;
use crate::key::{Key, KeyTag};
use crate::question::Want;
use crate::queue::Queue;
use crate::slot::{Slot, State};
use crate::stats::{ConnectError, Stats};
use crate::table::{Displaced, Table};
use crate::time::{Moment, Rng, Span};

/// What [`crate::SharedLedger::edit`] does once the mutex is free.
pub(crate) struct After<H, W> {
    /// Wakers to call.
    pub(crate) to_wake: Vec<W>,
    /// Handles and wakers to drop.
    pub(crate) handles: Vec<Arc<H>>,
    pub(crate) unused_wakers: Vec<W>,
    /// Whether to wake the housekeeper.
    pub(crate) chores: bool,
    /// How many workers to call.
    pub(crate) workers: usize,
}

impl<H, W> Default for After<H, W> {
    fn default() -> Self {
        Self { to_wake: Vec::new(), handles: Vec::new(), unused_wakers: Vec::new(), chores: false, workers: 0 }
    }
}

impl<H, W> After<H, W> {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { to_wake, handles, unused_wakers, chores, workers } = self;
        to_wake.is_empty() && handles.is_empty() && unused_wakers.is_empty() && !chores && *workers == 0
    }

    fn drop_later(&mut self, Displaced { connection, key, note }: Displaced<H>) {
        self.handles.extend(connection);
        self.handles.extend(note);
        self.drop_key_later(key);
    }

    fn drop_key_later(&mut self, key: Key<H>) {
        if let Key::User(key) = key {
            self.handles.push(key.handle);
        }
    }
}

/// The whole state of a pool.
pub(crate) struct Ledger<H, W> {
    table: Table<H>,
    /// The last one is lent next. What comes back is put there; with `fifo`, to the other end.
    idle: Vec<u32>,
    queue: Queue<W>,
    minconn: usize,
    maxconn: usize,
    /// How many connections the pool keeps at most: maxconn, or fewer while others wait for grants.
    cap: usize,
    grants: granted::Grants,
    closed: bool,
    closed_how: closing::Closed,
    /// The callers that wait until a closed pool has closed all its connections, by number, and the last number.
    closers: Vec<(u64, W)>,
    closers_num: u64,
    policy: Policy,
    /// Whether the fast path lends, and takes back: no option needs to see it.
    has_plain_loans: bool,
    has_plain_returns: bool,
    /// The time that the binding told last.
    pub(crate) now: Moment,
    /// Returns that were deferred to the housekeeping, and that no caller has begun.
    deferred_returns: VecDeque<DeferredReturn>,
    /// How many slots will be free without a borrower: see `in_transit`.
    in_transit: usize,
    refill: chores::RefillState,
    growth: growth::GrowthState<H>,
    rest: chores::RestState,
    rng: Rng,
    /// What has happened since statistics were taken last, except for the usage.
    stats: Stats,
    /// How much usage was taken with earlier statistics, of loans that have ended or last.
    usage_told: Span,
    /// How long everything took. The waits are those of requests that the fast path has not answered.
    times: Times,
    /// How many requests there are that the fast path has not answered, and how many requests in all were taken with earlier
    /// statistics: so the fast path need not count its own.
    slow_requests: u64,
    requests_told: u64,
    /// What is known of the loans that were forgotten, for the log.
    forgotten: Vec<String>,
    /// What the parent had lent when this process was forked, and has not been returned here.
    inherited: Vec<Inherited<H>>,
    /// The process that this pool is used in.
    process: u64,
    /// The last automatic number given out.
    last_number: u64,
    /// The highest automatic number that a slot was filed under.
    last_filed: u64,
    /// The slot that was lent last. Most loans are short, so it is the likeliest to come back next.
    last_lent: u32,
    /// Why the last connect that failed did so.
    connect_error: Option<Arc<ConnectError>>,
    outage: outage::Outage,
    backoff: backoff::Backoff<H>,
    pub(crate) after: After<H, W>,
}

impl<H, W> Ledger<H, W> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            table: Table::new(),
            idle: Vec::new(),
            queue: Queue::new(),
            minconn: 0,
            maxconn: 0,
            cap: 0,
            grants: granted::Grants::UNLIMITED,
            closed: false,
            closed_how: closing::Closed::default(),
            closers: Vec::new(),
            closers_num: 0,
            policy: Policy::default(),
            has_plain_loans: true,
            has_plain_returns: true,
            now: Moment::START,
            deferred_returns: VecDeque::new(),
            in_transit: 0,
            refill: chores::RefillState::default(),
            growth: growth::GrowthState::default(),
            rest: chores::RestState::default(),
            rng: Rng::new(seed),
            stats: Stats::default(),
            usage_told: Span::ZERO,
            times: Times::default(),
            slow_requests: 0,
            requests_told: 0,
            forgotten: Vec::new(),
            inherited: Vec::new(),
            process: 0,
            last_number: 0,
            last_filed: 0,
            last_lent: 0,
            connect_error: None,
            outage: outage::Outage::default(),
            backoff: backoff::Backoff::default(),
            after: After::default(),
        }
    }

    fn has_room(&self) -> bool {
        self.table.occupied() < self.cap.min(self.grants.granted)
    }

    /// Says whether the pool has a use for a connection that comes back: for a waiter, or as one of minconn idle ones.
    #[inline]
    fn has_use_for_another(&self) -> bool {
        self.retains_another() || self.may_hand_over()
    }

    /// Says whether the pool keeps a connection that comes back though no caller waits for it.
    #[inline]
    fn retains_another(&self) -> bool {
        let kept = self.idle.len() < self.minconn || self.policy.max_idle > Span::ZERO;
        kept && self.table.occupied() <= self.cap
    }

    /// Files a slot under what a caller wants, and notes the caller as its opener if the slot is empty.
    fn file(&mut self, index: u32, want: &Want<H>) {
        self.table.file(index, want.to_key());
        self.table.get_mut(index).borrower = want.caller();
        if let KeyTag::Number(number) = want.tag() {
            self.last_filed = self.last_filed.max(number);
        }
        if self.table.get(index).state == State::Opening {
            self.begin_opening(index, want.caller());
        }
    }

    /// Ends a loan: takes its key and its note away. Waiters for that key wait for a connection of their own from now on.
    fn end_loan(&mut self, index: u32) {
        let tag = self.table.get(index).key.tag();
        let key = self.table.unfile(index);
        self.after.drop_key_later(key);
        self.table.clear_opener(index);
        self.table.get_mut(index).overdue = false;
        let note = self.table.get_mut(index).note.take();
        self.after.handles.extend(note);
        self.key_gone(tag);
    }

    /// Gives the waiters for a key that is gone their places in the queue, wakes them, and serves the queue.
    fn key_gone(&mut self, tag: Option<KeyTag>) {
        if let Some(tag) = tag {
            self.queue.promote_key_waiters(tag);
        }
        self.wake_key_waiters(tag);
        self.serve();
    }

    /// Wakes the waiters that may want the same key: it is lent now, or it is gone.
    fn wake_key_waiters(&mut self, tag: Option<KeyTag>) {
        if let Some(tag) = tag {
            self.queue.take_key_wakers(tag, &mut self.after.to_wake);
        }
    }

    /// Frees a slot, and serves the queue.
    fn vacate(&mut self, index: u32) {
        let tag = self.table.get(index).key.tag();
        self.empty(index);
        self.key_gone(tag);
    }

    /// Frees a slot. The calling function serves the queue.
    fn empty(&mut self, index: u32) {
        self.end_transit(index);
        let Slot { state, since, .. } = *self.table.get(index);
        if state == State::Lent && self.has_open_loans() {
            self.times.uses.observe(self.now.since(since));
        }
        let displaced = self.table.vacate(index);
        self.after.drop_later(displaced);
        self.after.chores |= self.wants_refill();
        self.wake_closers();
    }

    /// Makes a slot idle, and serves the queue.
    fn become_idle(&mut self, index: u32) {
        self.end_transit(index);
        self.table.advance(index, State::Idle).mark_idle(self.now, self.policy.check_after);
        self.push_idle(index);
    }

    /// Puts a slot among the idle ones, and serves the queue.
    fn push_idle(&mut self, index: u32) {
        self.after.chores |= self.policy.has_housekeeper && self.now >= self.table.get(index).health.replace_at;
        self.idle.insert(if self.policy.fifo { 0 } else { self.idle.len() }, index);
        self.serve();
    }

    /// Takes a connection out of the pool, to be closed before its slot is free.
    fn begin_discard(&mut self, index: u32, reason: CloseReason) -> Option<Return<H>> {
        self.table.advance(index, State::Returning);
        let connection = self.table.get(index).connection.clone()?;
        Some(Return { slot: self.table.id(index), connection, closing: Some(reason), lent_for: None, overdue: false })
    }

    /// Promises free slots to the waiters, in their order; calls workers for room, if they connect. After it, no slot is
    /// free for the first, no caller waits, workers come, or connects are held back.
    fn serve(&mut self) {
        self.serve_queue();
        self.keep_time();
    }

    fn serve_queue(&mut self) {
        while self.queue.waiting_for_room() > 0 && self.admits_first() && !self.closed {
            let index = if let Some(index) = self.idle.pop() {
                self.table.advance(index, State::Promised);
                index
            } else if self.policy.grow.is_some() {
                return self.call_workers();
            } else if self.may_open() {
                self.begin_connect()
            } else {
                return;
            };
            let slot = self.table.id(index);
            self.after.to_wake.extend(self.queue.promise(slot));
        }
    }
}
