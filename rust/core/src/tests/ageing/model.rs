//! The naive model: a few lists and a clock.

use std::collections::{BTreeMap, VecDeque};

use super::backoff::Backoff;
use crate::time::{Rng, Span};
use crate::{Busy, Check, CloseReason, Histogram, Moment, Policy, Rank, Refusal, Stats};

/// The caller that does the chores. All other callers have numbers of their own.
pub(super) const HOUSEKEEPER: u64 = 7;

/// Names a guard of the real ledger, and what stands for it here.
pub(super) type Token = u32;

pub(super) struct Connection {
    pub(super) name: u32,
    pub(super) opened_in: u64,
    /// When its time is over, and why.
    pub(super) end: Moment,
    pub(super) why: CloseReason,
    /// Since when it has not been used.
    pub(super) since: Moment,
    pub(super) fresh_until: Moment,
    pub(super) suspect: bool,
}

impl Connection {
    pub(super) fn is_fresh(&self, now: Moment) -> bool {
        now < self.fresh_until
    }
}

/// What a slot is wanted for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Purpose {
    Rest,
    Loan { key: Option<u32>, caller: u64 },
}

impl Purpose {
    pub(super) fn key(self) -> Option<u32> {
        match self {
            Self::Rest => None,
            Self::Loan { key, .. } => key,
        }
    }
}

pub(super) struct Opening {
    pub(super) token: Token,
    pub(super) purpose: Purpose,
    pub(super) opened_in: u64,
}

pub(super) struct Loan {
    pub(super) key: Option<u32>,
    pub(super) caller: u64,
    pub(super) connection: Connection,
    pub(super) since: Moment,
    /// The caller that opened it and has not finished with it.
    pub(super) opener: Option<Token>,
    pub(super) reported: bool,
}

pub(super) struct Checking {
    pub(super) token: Token,
    pub(super) purpose: Purpose,
    pub(super) connection: Connection,
}

pub(super) struct Returning {
    pub(super) token: Token,
    pub(super) connection: Connection,
    pub(super) closing: Option<CloseReason>,
    /// The caller that frees its slot, if other callers may wait for that.
    pub(super) in_transit: Option<u64>,
}

pub(super) enum Promise {
    Connection(Connection),
    Room,
}

pub(super) struct Waiter {
    pub(super) rank: Rank,
    pub(super) turn: Token,
    pub(super) number: Token,
    pub(super) key: Option<u32>,
    pub(super) for_room: bool,
    /// Whether it waits for what another caller has been promised.
    pub(super) for_promise: bool,
    /// Whether it has ever waited for its key.
    pub(super) followed: bool,
    /// Whether it was told when to ask again; nothing, if it waits for its key.
    pub(super) timed: Option<bool>,
    pub(super) armed: bool,
}

#[derive(Default)]
pub(super) struct Refill {
    pub(super) busy: bool,
    pub(super) at: Moment,
    pub(super) pause: Span,
}

/// A worker that opens a connection, and the waiters that waited when it began.
pub(super) struct Growing {
    pub(super) token: Token,
    pub(super) before: Token,
}

/// The answer to a borrower.
#[derive(Debug, PartialEq)]
pub(super) enum Got {
    Lent(u32),
    Check(u32, Check),
    Reserved,
    FinishReturn(u32, Option<CloseReason>),
    AskAgain,
    ConnectFailed,
    /// And whether there is a new place to wait in.
    Busy(Busy, bool),
    Refused(Refusal),
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Job {
    Return(u32, Option<CloseReason>),
    Report,
    Open,
    Rest,
}

/// What has closed the pool.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Ended {
    #[default]
    Wholly,
    Gently,
    /// Gently, and then wholly.
    Twice,
    /// Nothing: it was never open.
    Unopened,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) policy: Policy,
    pub(super) minconn: usize,
    pub(super) maxconn: usize,
    pub(super) closed: bool,
    pub(super) ended: Ended,
    pub(super) now: Moment,
    pub(super) idle: Vec<Connection>,
    pub(super) lent: Vec<Loan>,
    pub(super) opening: Vec<Opening>,
    pub(super) checking: Vec<Checking>,
    pub(super) returning: Vec<Returning>,
    pub(super) promised: Vec<(Token, Promise)>,
    pub(super) queue: Vec<Waiter>,
    /// What each waiter wants, and which caller it is.
    pub(super) wishes: BTreeMap<Token, (Option<u32>, u64)>,
    /// The rank and the turn of each waiter, which it keeps in another place.
    pub(super) turns: BTreeMap<Token, (Rank, Token)>,
    /// How often each waiter has been woken.
    pub(super) wakes: BTreeMap<Token, usize>,
    /// Returns that were deferred, and when.
    pub(super) deferred_returns: VecDeque<(Token, Moment)>,
    pub(super) refill: Refill,
    pub(super) backoff: Backoff,
    /// How many workers have been called and have not come yet, and how often one was called in all.
    pub(super) called: usize,
    pub(super) called_at: Moment,
    pub(super) calls: usize,
    /// How many of them have been delivered, or lost.
    pub(super) delivered: usize,
    pub(super) calls_are_lost: bool,
    pub(super) growing: Vec<Growing>,
    /// The waiters whose connect has failed.
    pub(super) failed: Vec<Token>,
    pub(super) openings: u64,
    pub(super) drained: u64,
    /// Thrown in the same order as the real ones, and so they fall.
    pub(super) rng: Rng,
    pub(super) stats: Stats,
    /// How many requests the fast path has answered.
    pub(super) fast: u64,
    /// How long each loan that has ended lasted, and each connect that succeeded.
    pub(super) uses: Vec<Span>,
    pub(super) connects: Vec<Span>,
    /// How much usage has been taken.
    pub(super) usage_told: u64,
}

pub(super) fn nanos(nanos: u64) -> Span {
    Moment::from_nanos(nanos).since(Moment::START)
}

impl Model {
    pub(super) fn new(minconn: usize, maxconn: usize, policy: Policy, seed: u64) -> Self {
        Self { policy, minconn, maxconn, rng: Rng::new(seed), ..Self::default() }
    }

    pub(super) fn occupied(&self) -> usize {
        let held = self.lent.len() + self.opening.len() + self.checking.len() + self.returning.len();
        self.idle.len() + self.promised.len() + held
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn ensure_open(&self) -> Result<(), Refusal> {
        match self.ended {
            _ if !self.closed => Ok(()),
            Ended::Unopened => Err(Refusal::Unopened),
            _ => Err(Refusal::Closed),
        }
    }

    /// Whether the lent connections are open.
    pub(super) fn has_open_loans(&self) -> bool {
        !self.closed || self.ended == Ended::Gently || self.ended == Ended::Unopened
    }

    pub(super) fn unclosed(&self) -> usize {
        if self.has_open_loans() { self.occupied() } else { 0 }
    }

    pub(super) fn is_queued(&self, waiter: Token) -> bool {
        self.queue.iter().any(|queued| queued.number == waiter)
    }

    /// A waiter goes on waiting in another place, and listens to the same waker.
    pub(super) fn share_waker(&mut self, from: Token, to: Token) {
        let wakes = self.wakes.get(&from).copied().unwrap_or(0);
        *self.wakes.entry(to).or_default() += wakes;
    }

    pub(super) fn waiting_for_room(&self) -> usize {
        self.queue.iter().filter(|waiter| waiter.for_room).count()
    }

    pub(super) fn has_room(&self) -> bool {
        self.occupied() < self.maxconn
    }

    pub(super) fn next_opening(&mut self) -> u64 {
        self.openings += 1;
        self.openings
    }

    pub(super) fn usages_of_loans(&self) -> Vec<Span> {
        let lent = self.lent.iter().filter(|_| self.has_open_loans());
        lent.map(|loan| self.now.since(loan.since)).collect()
    }

    /// What the pool tells of itself: the loans that last count, too.
    pub(super) fn stats(&self) -> Stats {
        let ended: u64 = self.uses.iter().map(|usage| usage.as_nanos()).sum();
        let lasting: u64 = self.usages_of_loans().iter().map(|usage| usage.as_nanos()).sum();
        let oldest_loan = self.usages_of_loans().into_iter().max().unwrap_or(Span::ZERO);
        Stats { usage: nanos((ended + lasting).saturating_sub(self.usage_told)), oldest_loan, ..self.stats }
    }

    /// Says how many of these times were at most how long, for each bound that the ledger has, and their sum.
    pub(super) fn spread(times: &[Span], like: &Histogram) -> (Vec<(Span, u64)>, Span) {
        let counted = |bound| u64::try_from(times.iter().filter(|&&time| time <= bound).count()).expect("few");
        let sum = nanos(times.iter().map(|time| time.as_nanos()).sum());
        (like.cumulative().map(|(bound, _)| (bound, counted(bound))).collect(), sum)
    }

    pub(super) fn take_stats(&mut self) -> Stats {
        let told = self.stats();
        self.usage_told += told.usage.as_nanos();
        self.stats = Stats::default();
        told
    }

    pub(super) fn count_closed(&mut self, reason: CloseReason) {
        self.stats.closed[reason as usize] += 1;
    }

    pub(super) fn has_use(&self) -> bool {
        let spare = self.idle.len() < self.minconn || self.policy.max_idle > Span::ZERO;
        (spare || self.waiting_for_room() > 0 && self.admits_next()) && self.occupied() <= self.maxconn
    }

    /// Counts the slots that are not free.
    pub(super) fn busy(&self) -> usize {
        self.occupied() - self.idle.len()
    }

    /// Whether a caller leaves the reserve free if it takes a slot, or need not.
    pub(super) fn admits(&self, rank: Rank) -> bool {
        let left = self.maxconn.saturating_sub(self.busy());
        self.policy.reserve == 0 || rank == Rank::Priority || left > self.policy.reserve
    }

    pub(super) fn admits_first(&self) -> bool {
        let first = self.queue.iter().find(|waiter| waiter.for_room);
        first.is_none_or(|first| self.admits(first.rank))
    }

    /// As `admits_first`, once one more slot is free.
    pub(super) fn admits_next(&self) -> bool {
        let urgent = self.waiting_with_priority() > 0;
        self.policy.reserve == 0 || urgent || self.busy() + self.policy.reserve <= self.maxconn
    }

    pub(super) fn waiting_with_priority(&self) -> usize {
        self.queue.iter().filter(|waiter| waiter.for_room && waiter.rank == Rank::Priority).count()
    }

    /// Takes the idle connections that have been so for longest, to be closed, and names them.
    pub(super) fn retire(
        &mut self,
        many: usize,
        tokens: &[Token],
        closing: CloseReason,
        in_transit: Option<u64>,
    ) -> Vec<u32> {
        let retired = self.idle.drain(..many).zip(tokens);
        let returning = |(connection, &token)| Returning { token, connection, closing: Some(closing), in_transit };
        let before = self.returning.len();
        self.returning.extend(retired.map(returning));
        self.returning[before..].iter().map(|returning| returning.connection.name).collect()
    }

    pub(super) fn useless(&self, connection: &Connection) -> Option<CloseReason> {
        match () {
            () if self.closed => Some(CloseReason::WithPool),
            () if self.now >= connection.end => Some(connection.why),
            () => (!self.has_use()).then_some(CloseReason::Surplus),
        }
    }

    pub(super) fn every_connection(&mut self) -> impl Iterator<Item = &mut Connection> {
        let promised = self.promised.iter_mut().filter_map(|(_, promise)| match promise {
            Promise::Connection(connection) => Some(connection),
            Promise::Room => None,
        });
        let held = self.lent.iter_mut().map(|loan| &mut loan.connection);
        let held = held.chain(self.checking.iter_mut().map(|checking| &mut checking.connection));
        let held = held.chain(self.returning.iter_mut().map(|returning| &mut returning.connection));
        self.idle.iter_mut().chain(promised).chain(held)
    }
}
