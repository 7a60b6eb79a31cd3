//! Waiting, borrowing and opening, on the model.

use super::model::{Checking, Connection, Got, Loan, Model, Opening, Promise, Purpose, Returning, Token, Waiter};
use crate::time::Span;
use crate::{Busy, Check, CloseReason, Moment, Rank, Refusal};

/// Where a key is.
pub(super) enum Filed {
    Lent(u32),
    Pending,
    Nowhere,
}

impl Model {
    // --- waiting -----------------------------------------------------------------------------------------------

    pub(super) fn wake_key_waiters(&mut self, key: Option<u32>) {
        let Some(key) = key else { return };
        let same_hash = |waiter: &&mut Waiter| waiter.key.is_some_and(|other| other % 2 == key % 2);
        for waiter in self.queue.iter_mut().filter(same_hash) {
            *self.wakes.entry(waiter.number).or_default() += usize::from(std::mem::take(&mut waiter.armed));
        }
    }

    /// A key is gone: the waiters for it have a place in the queue.
    pub(super) fn key_gone(&mut self, key: Option<u32>) {
        self.promote_key_waiters(key, |_| true);
        self.serve();
    }

    /// Whether a slot is filed under a key with the same hash.
    pub(super) fn is_filed_by_hash_of(&self, key: u32) -> bool {
        let loans = self.lent.iter().map(|loan| loan.key);
        let opening = self.opening.iter().map(|opening| opening.purpose.key());
        let checking = self.checking.iter().map(|checking| checking.purpose.key());
        loans.chain(opening).chain(checking).flatten().any(|other| other % 2 == key % 2)
    }

    fn promote_key_waiters(&mut self, key: Option<u32>, whose: impl Fn(&Waiter) -> bool) {
        if let Some(key) = key {
            let same_hash = |waiter: &&mut Waiter| waiter.key.is_some_and(|other| other % 2 == key % 2);
            let promoted = self.queue.iter_mut().filter(same_hash).filter(|waiter| whose(waiter));
            promoted.for_each(|waiter| waiter.for_room = true);
        }
        self.wake_key_waiters(key);
    }

    fn has_followed(&self, waiter: Token) -> bool {
        self.queue.iter().any(|queued| queued.number == waiter && queued.followed)
    }

    /// Whether another caller has been promised room, or a connection, for a key with the same hash.
    fn is_promised_to_another(&self, key: Option<u32>, caller: u64) -> bool {
        self.promised.iter().any(|&(number, _)| self.have_same_hash(number, key, caller))
    }

    /// Whether this waiter is another caller that may want the same.
    fn have_same_hash(&self, number: Token, key: Option<u32>, caller: u64) -> bool {
        let (other, by) = self.wishes[&number];
        key.zip(other).is_some_and(|(key, other)| other % 2 == key % 2) && by != caller
    }

    /// Whether others, and not this caller, are at work on what may be lent or come free.
    fn is_undecided(&self, caller: u64) -> bool {
        let by = |purpose: Purpose| matches!(purpose, Purpose::Loan { caller: by, .. } if by == caller);
        let own = self.opening.iter().any(|opening| by(opening.purpose));
        let own = own || self.checking.iter().any(|checking| by(checking.purpose));
        let own = own || self.promised.iter().any(|(number, _)| self.wishes[number].1 == caller);
        !own && self.opening.len() + self.checking.len() + self.promised.len() > 0
    }

    pub(super) fn serve(&mut self) {
        self.serve_queue();
        self.keep_time();
    }

    fn serve_queue(&mut self) {
        while !self.closed
            && self.admits_first()
            && let Some(first) = self.queue.iter().position(|waiter| waiter.for_room)
        {
            let promise = match self.idle.pop() {
                Some(connection) => Promise::Connection(connection),
                None if self.policy.grow.is_some() => return self.call_workers(),
                None if self.may_open() => {
                    self.backoff.began = self.now;
                    Promise::Room
                }
                None => return,
            };
            let waiter = self.queue.remove(first);
            *self.wakes.entry(waiter.number).or_default() += usize::from(waiter.armed);
            self.promised.push((waiter.number, promise));
        }
    }

    pub(super) fn claim(&mut self, waiter: Token) -> Option<Promise> {
        let at = self.promised.iter().position(|&(promised, _)| promised == waiter)?;
        Some(self.promised.remove(at).1)
    }

    pub(super) fn wait(
        &mut self,
        (busy, for_promise): (Busy, bool),
        (rank, key, caller): (Rank, Option<u32>, u64),
        waiter: Option<Token>,
        willing: Option<Token>,
    ) -> Got {
        let timed = matches!(busy, Busy::BackingOff { next_try, .. } if next_try < Moment::NEVER);
        let timed = (busy != Busy::KeyOpening).then_some(timed);
        let at = waiter.and_then(|waiter| self.queue.iter().position(|queued| queued.number == waiter));
        if let Some(at) = at.filter(|&at| busy == Busy::KeyOpening || self.queue[at].for_room) {
            self.queue[at].armed |= willing.is_some();
            self.queue[at].for_promise = for_promise;
            self.queue[at].timed = timed;
            self.keep_time();
            return Got::Busy(busy, false);
        }
        let newcomer = busy != Busy::KeyOpening && waiter.is_none();
        if newcomer
            && willing.is_some()
            && self.policy.max_waiting.is_some_and(|limit| self.ahead(self.queue.len(), rank) >= limit.get())
        {
            return Got::Busy(Busy::Crowded, false);
        }
        if let Some(number) = willing {
            let turn = waiter.map_or(number, |waiter| self.turns[&waiter].1);
            let at =
                self.queue.partition_point(|queued| (queued.rank, queued.turn, queued.number) < (rank, turn, number));
            let for_room = busy != Busy::KeyOpening;
            let before = waiter.is_some_and(|waiter| self.has_followed(waiter));
            self.turns.insert(number, (rank, turn));
            self.wishes.insert(number, (key, caller));
            let followed = before || !for_room;
            let waiter = Waiter { rank, turn, number, key, for_room, for_promise, followed, timed, armed: true };
            self.queue.insert(at, waiter);
        }
        self.keep_time();
        self.call_workers();
        Got::Busy(busy, willing.is_some())
    }

    /// A waiter goes. What it was promised goes to the next, or comes out to be closed.
    pub(super) fn leave(&mut self, waiter: Token, token: Token) -> Option<u32> {
        self.queue.retain(|queued| queued.number != waiter);
        self.keep_time();
        self.failed.retain(|&failed| failed != waiter);
        let promise = self.claim(waiter)?;
        let (key, _) = self.wishes[&waiter];
        self.promote_key_waiters(key, |waiter| waiter.for_promise);
        let Promise::Connection(connection) = promise else {
            self.serve();
            return None;
        };
        let name = connection.name;
        // Still counted while it is decided upon.
        self.returning.push(Returning { token, connection, closing: Some(CloseReason::Surplus), in_transit: None });
        if !self.has_use() {
            self.serve();
            return Some(name);
        }
        let connection = self.take_returning(token).connection;
        self.push_idle(connection);
        self.serve();
        None
    }

    // --- borrowing -------------------------------------------------------------------------------------------------

    /// Finds the connection that is lent under a key, or about to be.
    pub(super) fn filed(&self, key: u32) -> Filed {
        let about = self.opening.iter().map(|opening| opening.purpose);
        let about = about.chain(self.checking.iter().map(|checking| checking.purpose));
        match self.lent.iter().find(|loan| loan.key == Some(key)) {
            Some(loan) if loan.opener.is_none() => Filed::Lent(loan.connection.name),
            None if about.map(Purpose::key).all(|filed| filed != Some(key)) => Filed::Nowhere,
            Some(_) | None => Filed::Pending,
        }
    }

    pub(super) fn ask(
        &mut self,
        (rank, key, caller): (Rank, Option<u32>, u64),
        waiter: Option<Token>,
        willing: Option<Token>,
        token: Token,
    ) -> Got {
        if let Err(refusal) = self.ensure_open() {
            return Got::Refused(refusal);
        }
        self.renew_backoff();
        self.answer((rank, key, caller), waiter, willing, token)
    }

    /// Answers without a look at the time: the fast path lends an idle connection so.
    pub(super) fn answer(
        &mut self,
        (rank, key, caller): (Rank, Option<u32>, u64),
        waiter: Option<Token>,
        willing: Option<Token>,
        token: Token,
    ) -> Got {
        if let Some(at) = self.failed.iter().position(|&failed| Some(failed) == waiter) {
            self.failed.remove(at);
            return Got::ConnectFailed;
        }
        match key.map_or(Filed::Nowhere, |key| self.filed(key)) {
            Filed::Lent(name) => return Got::Lent(name),
            Filed::Pending => return self.wait((Busy::KeyOpening, false), (rank, key, caller), waiter, willing),
            Filed::Nowhere => {}
        }
        let purpose = Purpose::Loan { key, caller };
        match waiter.and_then(|waiter| self.claim(waiter)) {
            Some(Promise::Connection(connection)) => return self.lend(connection, purpose, token),
            Some(Promise::Room) => {
                let opened_in = self.next_opening();
                self.opening.push(Opening { token, purpose, opened_in });
                return Got::Reserved;
            }
            None => {}
        }
        if self.admits(rank)
            && let Some(connection) = self.idle.pop()
        {
            return self.lend(connection, purpose, token);
        }
        if self.admits(rank) && self.may_open() && self.policy.grow.is_none() {
            self.backoff.began = self.now;
            let opened_in = self.next_opening();
            self.opening.push(Opening { token, purpose, opened_in });
            return Got::Reserved;
        }
        if let Some((name, closing)) = self.next_deferred_return(token, caller) {
            return Got::FinishReturn(name, closing);
        }
        let place = self.queue.iter().position(|queued| Some(queued.number) == waiter && queued.for_room);
        let end = place.unwrap_or_else(|| self.queue.partition_point(|queued| queued.rank <= rank));
        let first = !self.queue[..end].iter().any(|queued| queued.for_room && queued.timed.is_some());
        // What another caller gets who wants the same, and is ahead, serves both.
        let same = self.queue[..end].iter().position(|queued| {
            queued.for_room && queued.rank <= rank && self.have_same_hash(queued.number, key, caller)
        });
        let (end, as_rank) = same.map_or((end, rank), |same| (same, self.queue[same].rank));
        let ahead = self.ahead(end, as_rank);
        let own = self.returning.iter().any(|returning| returning.in_transit == Some(caller));
        let waits = self.occupied() <= self.maxconn && !own;
        let newcomer = rank == Rank::Priority && place.is_none();
        let soon_free = if waits { self.in_transit() } else { 0 } + self.room_for_workers(usize::from(newcomer));
        let limited = self.policy.reserve > 0 && as_rank == Rank::Normal;
        let lacking = if limited { (self.busy() + self.policy.reserve).saturating_sub(self.maxconn) } else { 0 };
        let in_transit = soon_free > ahead + lacking;
        let undecided = waiter.is_some_and(|waiter| self.has_followed(waiter)) && self.is_undecided(caller);
        let busy = match () {
            () if self.is_promised_to_another(key, caller) => Busy::KeyOpening,
            () if self.is_backing_off() && self.has_room() && self.admits(rank) => Busy::BackingOff {
                next_try: if first { self.next_try() } else { Moment::NEVER },
                comes: in_transit && self.policy.grow.is_some(),
            },
            () if in_transit || undecided => Busy::InTransit,
            () => Busy::Full,
        };
        self.wait((busy, busy == Busy::KeyOpening), (rank, key, caller), waiter, willing)
    }

    /// Counts the waiters for room among the first in the queue that are served before a newcomer of this rank.
    fn ahead(&self, end: usize, rank: Rank) -> usize {
        self.queue[..end].iter().filter(|queued| queued.for_room && queued.rank <= rank).count()
    }

    pub(super) fn in_transit(&self) -> usize {
        let opening = self.opening.iter().filter(|opening| opening.purpose == Purpose::Rest).count();
        let checking = self.checking.iter().filter(|checking| checking.purpose == Purpose::Rest).count();
        opening + checking + self.returning.iter().filter(|returning| returning.in_transit.is_some()).count()
    }

    pub(super) fn lend(&mut self, connection: Connection, purpose: Purpose, token: Token) -> Got {
        let name = connection.name;
        if connection.is_fresh(self.now) {
            self.begin_loan(connection, purpose);
            return Got::Lent(name);
        }
        let over = self.now >= connection.end;
        let check = if over { Check::Expired(connection.why) } else { Check::Required };
        self.checking.push(Checking { token, purpose, connection });
        Got::Check(name, check)
    }

    pub(super) fn begin_loan(&mut self, connection: Connection, purpose: Purpose) {
        if let Purpose::Loan { key, caller } = purpose {
            let since = self.now;
            self.lent.push(Loan { key, caller, connection, since, opener: None, reported: false });
            self.wake_key_waiters(key);
        }
    }

    // --- opening ---------------------------------------------------------------------------------------------------

    /// Reserves room for a connection that is to lie idle.
    pub(super) fn reserve(&mut self, token: Token) -> Result<(), Refusal> {
        self.ensure_open()?;
        match () {
            () if !self.has_room() => Err(Refusal::Exhausted),
            () => {
                let opened_in = self.next_opening();
                self.backoff.began = self.now;
                self.opening.push(Opening { token, purpose: Purpose::Rest, opened_in });
                Ok(())
            }
        }
    }

    pub(super) fn note_connect(&mut self, took: Span, failed: bool) {
        self.stats.connections_num += 1;
        self.stats.connections_time.add(took);
        if failed {
            self.stats.connections_errors += 1;
            self.suspect_all();
            return;
        }
        self.connects.push(took);
        if self.refill.at > Moment::START {
            (self.refill.at, self.refill.pause) = (Moment::START, Span::ZERO);
        }
    }

    pub(super) fn fulfil(&mut self, token: Token, name: u32) -> Result<(), Refusal> {
        let at = self.opening.iter().position(|opening| opening.token == token).expect("it is open");
        let refusal = match self.opening[at].purpose {
            _ if self.closed => self.ensure_open().err(),
            Purpose::Rest => (self.occupied() > self.maxconn).then_some(Refusal::Exhausted),
            Purpose::Loan { .. } => None,
        };
        if let Some(refusal) = refusal {
            self.stats.closed[CloseReason::Unplaced as usize] += 1;
            return Err(refusal);
        }
        let Opening { purpose, opened_in, .. } = self.opening.remove(at);
        let end = self.now.after(self.policy.max_lifetime.jittered(&mut self.rng));
        let drained = opened_in <= self.drained;
        let (end, why) = if drained { (Moment::START, CloseReason::Drained) } else { (end, CloseReason::Lifetime) };
        let (since, fresh_until) = (self.now, Moment::START);
        let connection = Connection { name, opened_in, end, why, since, fresh_until, suspect: false };
        match purpose {
            Purpose::Rest => self.become_idle(connection),
            Purpose::Loan { key, caller } => {
                let opener = Some(token);
                self.lent.push(Loan { key, caller, connection, since, opener, reported: false });
            }
        }
        self.note_connected();
        Ok(())
    }

    /// A reservation goes, spent or unspent.
    pub(super) fn end_reservation(&mut self, token: Token) {
        if let Some(at) = self.opening.iter().position(|opening| opening.token == token) {
            let purpose = self.opening.remove(at).purpose;
            self.key_gone(purpose.key());
        } else if let Some(loan) = self.lent.iter_mut().find(|loan| loan.opener == Some(token)) {
            loan.opener = None;
            let key = loan.key;
            self.wake_key_waiters(key);
        }
    }

    /// A reservation goes since the server is full, if a connection may come back.
    pub(super) fn leave_to_loans(&mut self, token: Token) -> bool {
        let Some(opening) = self.opening.iter().find(|opening| opening.token == token) else { return false };
        let waits = self.some_may_come_back() && !self.closed;
        if waits {
            self.back_off(opening.opened_in, true);
            self.end_reservation(token);
        }
        waits
    }

    /// A reservation goes since its opener has failed. What it had filed comes out to be closed.
    pub(super) fn fail_reservation(&mut self, token: Token, filed: Token) -> Option<u32> {
        if let Some(opening) = self.opening.iter().find(|opening| opening.token == token) {
            self.back_off(opening.opened_in, false);
        }
        let at = self.lent.iter().position(|loan| loan.opener == Some(token));
        let Some(at) = at else {
            self.end_reservation(token);
            return None;
        };
        let Loan { key, connection, .. } = self.lent.remove(at);
        let name = connection.name;
        if !self.has_open_loans() {
            // It was closed with the others.
            return None;
        }
        let closing = Some(CloseReason::Unplaced);
        self.returning.push(Returning { token: filed, connection, closing, in_transit: None });
        self.key_gone(key);
        Some(name)
    }
}
