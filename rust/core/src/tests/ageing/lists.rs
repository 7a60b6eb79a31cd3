//! A pool with a clock as one would explain it to a child: a few lists.

use std::collections::{BTreeMap, VecDeque};

use crate::time::{Dice, Span};
use crate::{Busy, Doubt, Moment, Policy, Reason, Refusal, Stats};

/// Names what somebody holds: a guard of the real pool, and what stands for it here.
pub(super) type Token = u32;

pub(super) struct Connection {
    pub(super) name: u32,
    born: u64,
    /// When its time is over, and why.
    end: Moment,
    why: Reason,
    /// Since when it has not been used.
    since: Moment,
    fresh_until: Moment,
    suspect: bool,
    counted: bool,
}

/// What a slot is wanted for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Purpose {
    Rest,
    Loan { key: Option<u32>, caller: u64 },
}

impl Purpose {
    fn key(self) -> Option<u32> {
        match self {
            Self::Rest => None,
            Self::Loan { key, .. } => key,
        }
    }
}

pub(super) struct Opening {
    pub(super) token: Token,
    pub(super) purpose: Purpose,
    born: u64,
}

pub(super) struct Loan {
    pub(super) key: Option<u32>,
    pub(super) caller: u64,
    pub(super) connection: Connection,
    pub(super) since: Moment,
    /// Who opened it and has not finished with it.
    opener: Option<Token>,
    pub(super) noted: bool,
    reported: bool,
}

pub(super) struct Checking {
    pub(super) token: Token,
    pub(super) purpose: Purpose,
    pub(super) connection: Connection,
}

pub(super) struct Returning {
    pub(super) token: Token,
    pub(super) connection: Connection,
    pub(super) closing: Option<Reason>,
    /// Whether somebody may wait for its slot.
    coming: bool,
}

pub(super) enum Promise {
    Connection(Connection),
    Room { born: u64 },
}

struct Waiter {
    turn: Token,
    number: Token,
    key: Option<u32>,
    for_room: bool,
    armed: bool,
}

#[derive(Default)]
struct Refill {
    busy: bool,
    at: Moment,
    pause: Span,
}

/// The answer to a borrower.
#[derive(Debug, PartialEq)]
pub(super) enum Got {
    Lent(u32),
    Doubtful(u32, Doubt),
    Reserved,
    Errand(u32, Option<Reason>),
    /// And whether there is a new place to wait in.
    Busy(Busy, bool),
    Refused(Refusal),
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Job {
    Return(u32, Option<Reason>),
    Report,
    Open,
    Rest,
}

pub(super) struct Lists {
    pub(super) policy: Policy,
    pub(super) minconn: usize,
    pub(super) maxconn: usize,
    pub(super) closed: bool,
    pub(super) now: Moment,
    pub(super) idle: Vec<Connection>,
    pub(super) lent: Vec<Loan>,
    pub(super) opening: Vec<Opening>,
    pub(super) checking: Vec<Checking>,
    pub(super) returning: Vec<Returning>,
    pub(super) promised: Vec<(Token, Promise)>,
    queue: Vec<Waiter>,
    /// The turn of each waiter, which it keeps in another place.
    turns: BTreeMap<Token, Token>,
    /// How often each waiter has been woken.
    pub(super) rung: BTreeMap<Token, usize>,
    errands: VecDeque<Token>,
    refill: Refill,
    births: u64,
    drained: u64,
    /// Thrown in the same order as the real ones, and so they fall.
    dice: Dice,
    pub(super) stats: Stats,
}

impl Lists {
    pub(super) fn new(minconn: usize, maxconn: usize, policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            minconn,
            maxconn,
            closed: false,
            now: Moment::START,
            idle: vec![],
            lent: vec![],
            opening: vec![],
            checking: vec![],
            returning: vec![],
            promised: vec![],
            queue: vec![],
            turns: BTreeMap::new(),
            rung: BTreeMap::new(),
            errands: VecDeque::new(),
            refill: Refill::default(),
            births: 0,
            drained: 0,
            dice: Dice::new(seed),
            stats: Stats::default(),
        }
    }

    pub(super) fn occupied(&self) -> usize {
        let held = self.lent.len() + self.opening.len() + self.checking.len() + self.returning.len();
        self.idle.len() + self.promised.len() + held
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn waiting_for_room(&self) -> usize {
        self.queue.iter().filter(|waiter| waiter.for_room).count()
    }

    fn has_room(&self) -> bool {
        self.occupied() < self.maxconn
    }

    fn birth(&mut self) -> u64 {
        self.births += 1;
        self.births
    }

    fn count_closed(stats: &mut Stats, connection: &mut Connection, reason: Reason) {
        if !std::mem::replace(&mut connection.counted, true) {
            stats.closed[reason as usize] += 1;
        }
    }

    fn has_use(&self) -> bool {
        let spare = self.idle.len() < self.minconn || self.policy.max_idle > Span::ZERO;
        (spare || self.waiting_for_room() > 0) && self.occupied() <= self.maxconn
    }

    fn useless(&self, connection: &Connection) -> Option<Reason> {
        match () {
            () if self.closed => Some(Reason::WithPool),
            () if self.now >= connection.end => Some(connection.why),
            () => (!self.has_use()).then_some(Reason::Surplus),
        }
    }

    fn every_connection(&mut self) -> impl Iterator<Item = &mut Connection> {
        let promised = self.promised.iter_mut().filter_map(|(_, promise)| match promise {
            Promise::Connection(connection) => Some(connection),
            Promise::Room { .. } => None,
        });
        let held = self.lent.iter_mut().map(|loan| &mut loan.connection);
        let held = held.chain(self.checking.iter_mut().map(|checking| &mut checking.connection));
        let held = held.chain(self.returning.iter_mut().map(|returning| &mut returning.connection));
        self.idle.iter_mut().chain(promised).chain(held)
    }

    // --- who waits -----------------------------------------------------------------------------------------------

    fn nudge(&mut self, key: Option<u32>) {
        let Some(key) = key else { return };
        let same_hash = |waiter: &&mut Waiter| waiter.key.is_some_and(|other| other % 2 == key % 2);
        for waiter in self.queue.iter_mut().filter(same_hash) {
            *self.rung.entry(waiter.number).or_default() += usize::from(std::mem::take(&mut waiter.armed));
        }
    }

    /// A key is there no more: who waited for it has a place in the queue.
    fn disappoint(&mut self, key: Option<u32>) {
        if let Some(key) = key {
            let same_hash = |waiter: &&mut Waiter| waiter.key.is_some_and(|other| other % 2 == key % 2);
            self.queue.iter_mut().filter(same_hash).for_each(|waiter| waiter.for_room = true);
        }
        self.nudge(key);
        self.serve();
    }

    fn serve(&mut self) {
        while !self.closed
            && let Some(first) = self.queue.iter().position(|waiter| waiter.for_room)
        {
            let promise = match self.idle.pop() {
                Some(connection) => Promise::Connection(connection),
                None if self.has_room() => Promise::Room { born: self.birth() },
                None => return,
            };
            let waiter = self.queue.remove(first);
            *self.rung.entry(waiter.number).or_default() += usize::from(waiter.armed);
            self.promised.push((waiter.number, promise));
        }
    }

    fn claim(&mut self, waiter: Token) -> Option<Promise> {
        let at = self.promised.iter().position(|&(promised, _)| promised == waiter)?;
        Some(self.promised.remove(at).1)
    }

    fn wait(&mut self, busy: Busy, key: Option<u32>, waiter: Option<Token>, willing: Option<Token>) -> Got {
        let at = waiter.and_then(|waiter| self.queue.iter().position(|queued| queued.number == waiter));
        if let Some(at) = at.filter(|&at| busy == Busy::KeyOpening || self.queue[at].for_room) {
            self.queue[at].armed |= willing.is_some();
            return Got::Busy(busy, false);
        }
        let newcomer = busy != Busy::KeyOpening && waiter.is_none();
        if newcomer && self.policy.max_waiting.is_some_and(|limit| self.waiting_for_room() >= limit.get()) {
            return Got::Busy(Busy::Crowded, false);
        }
        if let Some(number) = willing {
            let turn = waiter.map_or(number, |waiter| self.turns[&waiter]);
            let at = self.queue.partition_point(|queued| (queued.turn, queued.number) < (turn, number));
            let for_room = busy != Busy::KeyOpening;
            self.turns.insert(number, turn);
            self.queue.insert(at, Waiter { turn, number, key, for_room, armed: true });
        }
        Got::Busy(busy, willing.is_some())
    }

    /// A waiter goes. What it was promised goes to the next, or comes out to be closed.
    pub(super) fn leave(&mut self, waiter: Token, token: Token) -> Option<(u32, Reason)> {
        self.queue.retain(|queued| queued.number != waiter);
        match self.claim(waiter)? {
            Promise::Room { .. } => {
                self.serve();
                None
            }
            Promise::Connection(connection) => {
                let name = connection.name;
                // Still counted while it is decided upon.
                self.returning.push(Returning { token, connection, closing: None, coming: false });
                let useless = self.useless(&self.returning[self.returning.len() - 1].connection);
                self.returning.iter_mut().for_each(|returning| {
                    if returning.token == token {
                        returning.closing = useless;
                    }
                });
                if useless.is_none() {
                    let connection = self.take_returning(token).connection;
                    self.slip_in(connection);
                    self.serve();
                }
                useless.map(|reason| (name, reason))
            }
        }
    }

    // --- borrowing -------------------------------------------------------------------------------------------------

    /// Says whether somebody has a key, or is about to: `Some(None)`.
    fn filed(&self, key: u32) -> Option<Option<u32>> {
        let loan = self.lent.iter().find(|loan| loan.key == Some(key));
        let coming = self.opening.iter().map(|opening| opening.purpose).any(|purpose| purpose.key() == Some(key));
        let checked = self.checking.iter().any(|checking| checking.purpose.key() == Some(key));
        match loan {
            Some(loan) => Some(loan.opener.is_none().then_some(loan.connection.name)),
            None => (coming || checked).then_some(None),
        }
    }

    pub(super) fn ask(
        &mut self,
        key: Option<u32>,
        caller: u64,
        waiter: Option<Token>,
        willing: Option<Token>,
        token: Token,
    ) -> Got {
        if self.closed {
            return Got::Refused(Refusal::Closed);
        }
        match key.and_then(|key| self.filed(key)) {
            Some(Some(name)) => return Got::Lent(name),
            Some(None) => return self.wait(Busy::KeyOpening, key, waiter, willing),
            None => {}
        }
        let purpose = Purpose::Loan { key, caller };
        match waiter.and_then(|waiter| self.claim(waiter)) {
            Some(Promise::Connection(connection)) => return self.lend(connection, purpose, token),
            Some(Promise::Room { born }) => {
                self.opening.push(Opening { token, purpose, born });
                return Got::Reserved;
            }
            None => {}
        }
        if let Some(connection) = self.idle.pop() {
            return self.lend(connection, purpose, token);
        }
        if self.has_room() {
            let born = self.birth();
            self.opening.push(Opening { token, purpose, born });
            return Got::Reserved;
        }
        if let Some((name, closing)) = self.next_errand(token) {
            return Got::Errand(name, closing);
        }
        let coming = self.coming() > self.waiting_for_room() && self.occupied() <= self.maxconn;
        self.wait(if coming { Busy::Coming } else { Busy::Full }, key, waiter, willing)
    }

    fn coming(&self) -> usize {
        let opening = self.opening.iter().filter(|opening| opening.purpose == Purpose::Rest).count();
        let checking = self.checking.iter().filter(|checking| checking.purpose == Purpose::Rest).count();
        opening + checking + self.returning.iter().filter(|returning| returning.coming).count()
    }

    fn lend(&mut self, connection: Connection, purpose: Purpose, token: Token) -> Got {
        let name = connection.name;
        if self.now < connection.fresh_until {
            self.begin_loan(connection, purpose);
            return Got::Lent(name);
        }
        let over = self.now >= connection.end;
        let doubt = if over { Doubt::Over(connection.why) } else { Doubt::Unseen };
        self.checking.push(Checking { token, purpose, connection });
        Got::Doubtful(name, doubt)
    }

    fn begin_loan(&mut self, connection: Connection, purpose: Purpose) {
        if let Purpose::Loan { key, caller } = purpose {
            let since = self.now;
            self.lent.push(Loan { key, caller, connection, since, opener: None, noted: false, reported: false });
            self.nudge(key);
        }
    }

    // --- opening ---------------------------------------------------------------------------------------------------

    /// Reserves room for a connection that is to lie idle.
    pub(super) fn reserve(&mut self, token: Token) -> Result<(), Refusal> {
        match () {
            () if self.closed => Err(Refusal::Closed),
            () if !self.has_room() => Err(Refusal::Exhausted),
            () => {
                let born = self.birth();
                self.opening.push(Opening { token, purpose: Purpose::Rest, born });
                Ok(())
            }
        }
    }

    pub(super) fn note_connect(&mut self, took: Span, failed: bool) {
        self.stats.connections_num += 1;
        self.stats.connections_time = Span::from_secs_f64(
            self.stats.connections_time.as_secs_f64() + took.as_secs_f64(),
        );
        if failed {
            self.stats.connections_errors += 1;
            self.suspect_all();
        } else if self.refill.at > Moment::START {
            (self.refill.at, self.refill.pause) = (Moment::START, Span::ZERO);
        }
    }

    pub(super) fn fulfil(&mut self, token: Token, name: u32) -> Result<(), Refusal> {
        let at = self.opening.iter().position(|opening| opening.token == token).expect("it is open");
        let refusal = match self.opening[at].purpose {
            _ if self.closed => Some(Refusal::Closed),
            Purpose::Rest => (self.occupied() > self.maxconn).then_some(Refusal::Exhausted),
            Purpose::Loan { .. } => None,
        };
        if let Some(refusal) = refusal {
            self.stats.closed[Reason::Unplaced as usize] += 1;
            return Err(refusal);
        }
        let Opening { purpose, born, .. } = self.opening.remove(at);
        let end = self.now.after(self.policy.max_lifetime.jittered(&mut self.dice));
        let drained = born <= self.drained;
        let (end, why) = if drained { (Moment::START, Reason::Drained) } else { (end, Reason::Lifetime) };
        let (since, fresh_until) = (self.now, Moment::START);
        let connection = Connection { name, born, end, why, since, fresh_until, suspect: false, counted: false };
        match purpose {
            Purpose::Rest => self.lay_down(connection),
            Purpose::Loan { key, caller } => {
                let opener = Some(token);
                self.lent.push(Loan { key, caller, connection, since, opener, noted: false, reported: false });
            }
        }
        Ok(())
    }

    /// A reservation goes, spent or unspent.
    pub(super) fn finish(&mut self, token: Token) {
        if let Some(at) = self.opening.iter().position(|opening| opening.token == token) {
            let purpose = self.opening.remove(at).purpose;
            self.disappoint(purpose.key());
        } else if let Some(loan) = self.lent.iter_mut().find(|loan| loan.opener == Some(token)) {
            loan.opener = None;
            let key = loan.key;
            self.nudge(key);
        }
    }

    /// A reservation goes since its opener has failed. What it had filed comes out to be closed.
    pub(super) fn fail(&mut self, token: Token, filed: Token) -> Option<u32> {
        let at = self.lent.iter().position(|loan| loan.opener == Some(token));
        let Some(at) = at else {
            self.finish(token);
            return None;
        };
        let Loan { key, connection, .. } = self.lent.remove(at);
        let name = connection.name;
        self.returning.push(Returning { token: filed, connection, closing: Some(Reason::Unplaced), coming: false });
        self.disappoint(key);
        Some(name)
    }

    // --- returning -------------------------------------------------------------------------------------------------

    fn lay_down(&mut self, mut connection: Connection) {
        connection.since = self.now;
        self.trust(&mut connection);
        self.idle.push(connection);
        self.serve();
    }

    fn trust(&self, connection: &mut Connection) {
        let unseen = if connection.suspect { Moment::START } else { self.now.after(self.policy.check_after) };
        connection.fresh_until = unseen.min(connection.end);
    }

    /// Lays a connection among the idle ones, by the time since when it has not been used.
    fn slip_in(&mut self, connection: Connection) {
        let at = self.idle.partition_point(|idle| idle.since <= connection.since);
        self.idle.insert(at, connection);
    }

    pub(super) fn keep_clean(&mut self, name: u32) -> bool {
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        let loan = &self.lent[at];
        let plain = loan.key.is_none() && loan.opener.is_none() && !loan.noted && !loan.reported;
        let lasting = self.now < loan.connection.end;
        if !(plain && lasting) || self.closed || !self.queue.is_empty() || !self.has_use() {
            return false;
        }
        let loan = self.lent.remove(at);
        self.stats.usage.add(self.now.since(loan.since));
        self.lay_down(loan.connection);
        true
    }

    /// Begins a return: why it will be closed, and how long it was lent if that was too long.
    pub(super) fn begin_return(
        &mut self,
        name: u32,
        close: bool,
        token: Token,
    ) -> Result<(Option<Reason>, Option<Span>), Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        let loan = self.lent.remove(at);
        let lent_for = self.now.since(loan.since);
        self.stats.usage.add(lent_for);
        self.returning.push(Returning { token, connection: loan.connection, closing: None, coming: false });
        self.disappoint(loan.key);
        let at = self.returning.len() - 1;
        let closing = if close { Some(Reason::Requested) } else { self.useless(&self.returning[at].connection) };
        self.returning[at].closing = closing;
        Ok((closing, loan.reported.then_some(lent_for)))
    }

    fn take_returning(&mut self, token: Token) -> Returning {
        let at = self.returning.iter().position(|returning| returning.token == token).expect("it is returned");
        self.returning.remove(at)
    }

    pub(super) fn keep(&mut self, token: Token) -> bool {
        let returning = self.returning.iter().find(|returning| returning.token == token).expect("it is returned");
        let closing = self.useless(&returning.connection);
        if closing.is_none() {
            let connection = self.take_returning(token).connection;
            self.lay_down(connection);
            return true;
        }
        self.condemn_returning(token, closing);
        false
    }

    pub(super) fn condemn_returning(&mut self, token: Token, closing: Option<Reason>) {
        let returning = self.returning.iter_mut().find(|returning| returning.token == token).expect("it is returned");
        returning.closing = closing;
    }

    pub(super) fn discard(&mut self, token: Token) {
        let mut returning = self.take_returning(token);
        let reason = returning.closing.unwrap_or(Reason::Unclean);
        Self::count_closed(&mut self.stats, &mut returning.connection, reason);
        self.stats.returns_bad += u64::from(matches!(reason, Reason::Lost | Reason::Unclean));
        self.serve();
        if reason == Reason::Lost {
            self.lose();
        }
    }

    pub(super) fn leave_return(&mut self, token: Token) {
        let returning = self.returning.iter_mut().find(|returning| returning.token == token).expect("it is returned");
        returning.coming = true;
        self.errands.push_back(token);
    }

    fn next_errand(&mut self, token: Token) -> Option<(u32, Option<Reason>)> {
        let left = self.errands.pop_front()?;
        let returning = self.returning.iter_mut().find(|returning| returning.token == left).expect("it was left");
        returning.token = token;
        Some((returning.connection.name, returning.closing))
    }

    pub(super) fn reclaim(&mut self, name: u32) {
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        let mut loan = self.lent.remove(at);
        self.stats.reclaimed += 1;
        Self::count_closed(&mut self.stats, &mut loan.connection, Reason::Reclaimed);
        self.stats.usage.add(self.now.since(loan.since));
        self.disappoint(loan.key);
    }

    // --- health ------------------------------------------------------------------------------------------------------

    fn take_checking(&mut self, token: Token) -> Checking {
        let at = self.checking.iter().position(|checking| checking.token == token).expect("it is looked at");
        self.checking.remove(at)
    }

    pub(super) fn passed(&mut self, token: Token) -> Result<(), Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        let Checking { purpose, mut connection, .. } = self.take_checking(token);
        connection.suspect = false;
        self.begin_loan(connection, purpose);
        Ok(())
    }

    fn count_dead(&mut self, token: Token, reason: Reason) {
        let at = self.checking.iter().position(|checking| checking.token == token).expect("it is looked at");
        Self::count_closed(&mut self.stats, &mut self.checking[at].connection, reason);
        if reason == Reason::Lost {
            self.stats.checks_failed += 1;
            self.lose();
        }
    }

    pub(super) fn next(&mut self, token: Token, reason: Reason, another: Token) -> Got {
        self.count_dead(token, reason);
        let purpose = self.take_checking(token).purpose;
        if self.closed {
            self.disappoint(purpose.key());
            return Got::Refused(Refusal::Closed);
        }
        if let Some(connection) = self.idle.pop() {
            let got = self.lend(connection, purpose, another);
            self.serve();
            return got;
        }
        let born = self.birth();
        self.opening.push(Opening { token: another, purpose, born });
        Got::Reserved
    }

    pub(super) fn drop_checked(&mut self, token: Token, reason: Reason) {
        self.count_dead(token, reason);
        let key = self.take_checking(token).purpose.key();
        self.disappoint(key);
    }

    pub(super) fn begin_idle_check(&mut self, name: u32, token: Token) -> Option<Doubt> {
        let at = self.idle.iter().position(|idle| idle.name == name).filter(|_| !self.closed)?;
        let connection = self.idle.remove(at);
        let doubt = if self.now >= connection.end { Doubt::Over(connection.why) } else { Doubt::Unseen };
        self.checking.push(Checking { token, purpose: Purpose::Rest, connection });
        Some(doubt)
    }

    pub(super) fn put_back(&mut self, token: Token) -> bool {
        let checking = self.checking.iter().find(|checking| checking.token == token).expect("it is looked at");
        if self.useless(&checking.connection).is_some() {
            return false;
        }
        let mut connection = self.take_checking(token).connection;
        connection.suspect = false;
        self.trust(&mut connection);
        self.slip_in(connection);
        self.serve();
        true
    }

    fn lose(&mut self) {
        self.stats.connections_lost += 1;
        self.suspect_all();
    }

    fn suspect_all(&mut self) {
        if self.policy.check_after < Span::FOREVER {
            self.every_connection().for_each(|connection| {
                (connection.suspect, connection.fresh_until) = (true, Moment::START);
            });
        }
    }

    fn replace_all(&mut self, born: u64) {
        self.drained = self.drained.max(born);
        for connection in self.every_connection().filter(|connection| connection.born <= born) {
            (connection.end, connection.fresh_until, connection.why) =
                (Moment::START, Moment::START, Reason::Drained);
        }
    }

    pub(super) fn condemn(&mut self, name: u32, older: bool) {
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        if older {
            self.replace_all(self.lent[at].connection.born);
        }
        let connection = &mut self.lent[at].connection;
        (connection.end, connection.why) = (Moment::START, Reason::Lost);
    }

    pub(super) fn drain(&mut self, tokens: &[Token]) -> Vec<u32> {
        self.replace_all(self.births);
        let drained: Vec<_> = self.idle.drain(..).collect();
        let names = drained.iter().map(|connection| connection.name).collect();
        let closing = Some(Reason::Drained);
        self.returning.extend(
            drained.into_iter().zip(tokens).map(|(connection, &token)| Returning {
                token,
                connection,
                closing,
                coming: true,
            }),
        );
        names
    }

    // --- chores --------------------------------------------------------------------------------------------------------

    pub(super) fn job(&mut self, token: Token) -> Job {
        if let Some((name, closing)) = self.next_errand(token) {
            return Job::Return(name, closing);
        }
        if self.closed {
            return Job::Rest;
        }
        let over = self.idle.iter().position(|idle| self.now >= idle.end);
        let outdated = over.map(|at| (at, self.idle[at].why));
        let surplus = self.idle_end().is_some_and(|end| self.now >= end);
        if let Some((at, reason)) = outdated.or(surplus.then_some((0, Reason::Idle))) {
            let connection = self.idle.remove(at);
            let (name, closing) = (connection.name, Some(reason));
            self.returning.push(Returning { token, connection, closing, coming: true });
            return Job::Return(name, closing);
        }
        if self.late().next().is_some() {
            return Job::Report;
        }
        if self.lacks_some() && !self.refill.busy && self.now >= self.refill.at {
            self.refill.busy = true;
            return Job::Open;
        }
        Job::Rest
    }

    fn late(&mut self) -> impl Iterator<Item = &mut Loan> {
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

    fn lacks_some(&self) -> bool {
        self.occupied() < self.minconn && self.has_room()
    }

    fn idle_end(&self) -> Option<Moment> {
        let surplus = self.idle.len() > self.minconn && self.policy.max_idle > Span::ZERO;
        self.idle.iter().map(|idle| idle.since.after(self.policy.max_idle)).min().filter(|_| surplus)
    }

    /// When there is something to do, if nothing happens before. What has been idle for too long since another one came
    /// back may be closed later: nobody is told of that.
    pub(super) fn due(&self, strictly: bool) -> Moment {
        if self.closed {
            return if self.errands.is_empty() { Moment::NEVER } else { self.now };
        }
        let errands = self.errands.front().map(|_| self.now);
        let ends = self.idle.iter().map(|idle| idle.end);
        let unreported = self.lent.iter().filter(|loan| !loan.reported);
        let reports = unreported.map(|loan| loan.since.after(self.policy.leak_after));
        let refill = (self.lacks_some() && !self.refill.busy).then_some(self.refill.at);
        let idle_end = self.idle_end().filter(|_| strictly);
        let due = ends.chain(reports).chain(errands).chain(refill).chain(idle_end).min();
        due.map_or(Moment::NEVER, |due| due.max(self.now))
    }

    pub(super) fn end_refill(&mut self, failed: bool) {
        self.refill.busy = false;
        if failed {
            let pause = Span::from_secs_f64(self.refill.pause.as_secs_f64() * 2.0);
            self.refill.pause = pause.clamp(Span::from_secs_f64(0.25), Span::from_secs_f64(4.0));
            self.refill.at = self.now.after(self.refill.pause.jittered(&mut self.dice));
        }
    }

    // --- limits and the end ----------------------------------------------------------------------------------------------

    /// Sets the limit. What is idle above it comes out to be closed.
    pub(super) fn set_maxconn(&mut self, maxconn: usize, tokens: &[Token]) -> Vec<u32> {
        self.maxconn = maxconn;
        let surplus = self.occupied().saturating_sub(maxconn + self.returning.len()).min(self.idle.len());
        let retired: Vec<_> = self.idle.drain(..surplus).collect();
        let names = retired.iter().map(|connection| connection.name).collect();
        let closing = Some(Reason::Surplus);
        self.returning.extend(
            retired.into_iter().zip(tokens).map(|(connection, &token)| Returning {
                token,
                connection,
                closing,
                coming: false,
            }),
        );
        self.serve();
        names
    }

    fn dismiss(&mut self) {
        for waiter in std::mem::take(&mut self.queue) {
            *self.rung.entry(waiter.number).or_default() += usize::from(waiter.armed);
        }
        let mut promised = std::mem::take(&mut self.promised);
        promised.sort_by_key(|&(waiter, _)| (self.turns[&waiter], waiter));
        for (_, promise) in promised {
            if let Promise::Connection(connection) = promise {
                self.slip_in(connection);
            }
        }
    }

    pub(super) fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
        if closed {
            self.dismiss();
        }
    }

    /// Closes the pool, and names what the closer is given.
    pub(super) fn close(&mut self) -> Result<Vec<u32>, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        self.set_closed(true);
        let mut given = vec![];
        for token in std::mem::take(&mut self.errands) {
            let mut returning = self.take_returning(token);
            given.push(returning.connection.name);
            Self::count_closed(&mut self.stats, &mut returning.connection, Reason::WithPool);
        }
        let lent = self.lent.iter_mut().map(|loan| &mut loan.connection);
        for connection in self.idle.iter_mut().chain(lent) {
            given.push(connection.name);
            Self::count_closed(&mut self.stats, connection, Reason::WithPool);
        }
        Ok(given)
    }

    pub(super) fn reset(&mut self) {
        self.dismiss();
        self.idle.clear();
        self.lent.clear();
        self.opening.clear();
        self.checking.clear();
        self.returning.clear();
        self.errands.clear();
        self.closed = false;
        self.refill = Refill::default();
        self.stats = Stats::default();
    }
}
