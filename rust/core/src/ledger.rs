//! The policy: who gets which slot, and when. Plain `&mut self`; no lock, no clock, nothing that can block.
//!
//! Nothing here drops a handle or wakes a waiter. Handles that are displaced and wakers whose turn has come are
//! laid into [`After`], which [`crate::pool`] takes out of the ledger and acts on once the mutex is free.

use std::sync::Arc;

use crate::error::Refusal;
use crate::key::{Ask, Candidate, Candidates, Key, LoanKey, Want};
use crate::slot::{SlotId, State};
use crate::stats::{ConnectError, Counts};
use crate::table::{Leavings, Table};
use crate::wait::{Queue, WaiterId};

/// What is to be done once the mutex is free.
pub(crate) struct After<H, W> {
    /// To be woken.
    pub(crate) wakes: Vec<W>,
    /// To be dropped, and nothing else.
    pub(crate) handles: Vec<Arc<H>>,
    pub(crate) wakers: Vec<W>,
}

impl<H, W> Default for After<H, W> {
    fn default() -> Self {
        Self { wakes: Vec::new(), handles: Vec::new(), wakers: Vec::new() }
    }
}

impl<H, W> After<H, W> {
    fn drop_later(&mut self, Leavings { connection, key }: Leavings<H>) {
        self.handles.extend(connection);
        self.drop_key_later(key);
    }

    fn drop_key_later(&mut self, key: Key<H>) {
        if let Key::User(key) = key {
            self.handles.push(key.handle);
        }
    }
}

/// The answer to a borrower.
pub(crate) enum CheckOut<H> {
    /// Here it is.
    Lent(Arc<H>),
    /// Open one, in this slot.
    Reserved(SlotId),
    /// Compare these with the key, then ask again.
    Compare(Candidates<H>),
    /// Wait; or not, if no waker was offered.
    Busy(Busy, Option<WaiterId>),
    /// No.
    Refused(Refusal),
}

/// What keeps a borrower from getting a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Every slot is taken.
    Full,
    /// Another caller is opening the connection for this very key.
    KeyOpening,
}

/// A borrower's place among those who wait, if it has one, and its waker, if it is willing to wait.
pub(crate) struct Place<W> {
    pub(crate) waiter: Option<WaiterId>,
    pub(crate) waker: Option<W>,
}

/// How a connection that comes back is named.
#[derive(Debug)]
pub enum Returned<'a, H> {
    /// By the address of the connection object alone.
    Connection(usize),
    /// By an automatic number, and by the connection's address if it was given.
    Number(u64, Option<usize>),
    /// By a user's key, and by the connection's address if it was given.
    Key(&'a Ask<H>, Option<usize>),
}

/// The answer to somebody who returns a connection.
pub(crate) enum Return<H> {
    /// It is yours to look at; `keep` says whether there is a use for it.
    Begun { slot: SlotId, connection: Arc<H>, keep: bool },
    /// Compare these with the key, then ask again.
    Compare(Candidates<H>),
    /// No.
    Refused(Refusal),
}

/// The answer to somebody who asks for a slot to open a connection in.
pub(crate) enum Reserve<H> {
    /// The slot is reserved already, by a caller further up who waits for just this.
    Pending(SlotId),
    /// A new reservation.
    New(SlotId),
    /// Compare these with the key, then ask again.
    Compare(Candidates<H>),
    /// No.
    Refused(Refusal),
}

/// What a search for a user's key found.
enum Found<H> {
    Slot(u32),
    Nothing,
    Compare(Candidates<H>),
}

/// The whole state of a pool.
pub(crate) struct Ledger<H, W> {
    table: Table<H>,
    /// A stack: the last that came back goes out first.
    idle: Vec<u32>,
    queue: Queue<W>,
    minconn: usize,
    maxconn: usize,
    closed: bool,
    /// The last automatic number given out.
    last_number: u64,
    /// The slot that was lent last. Most loans are short, so it is the likeliest to come back next.
    last_lent: u32,
    /// Why the last connect that failed did so.
    connect_error: Option<Arc<ConnectError>>,
    pub(crate) after: After<H, W>,
}

impl<H, W> Ledger<H, W> {
    pub(crate) fn new() -> Self {
        Self {
            table: Table::new(),
            idle: Vec::new(),
            queue: Queue::new(),
            minconn: 0,
            maxconn: 0,
            closed: false,
            last_number: 0,
            last_lent: 0,
            connect_error: None,
            after: After::default(),
        }
    }

    // --- the fast path ---------------------------------------------------------------------------------------

    /// Lends the connection that came back last. `None` says only that the slow path must decide.
    #[inline]
    pub(crate) fn lend(&mut self) -> Option<Arc<H>> {
        if self.closed {
            return None;
        }
        let index = self.idle.pop()?;
        self.last_number += 1;
        self.table.advance(index, State::Lent);
        self.table.refile(index, Key::Automatic(self.last_number));
        self.last_lent = index;
        self.table.get(index).connection.clone()
    }

    /// Takes back a connection that is clean. `false` says only that the slow path must decide.
    #[inline]
    pub(crate) fn keep(&mut self, address: usize) -> bool {
        let Some(index) = self.table.only_at(address, self.last_lent) else { return false };
        let slot = self.table.get(index);
        let plain = slot.state == State::Lent && matches!(slot.key, Key::Automatic(_));
        if !plain || self.closed || self.queue.len() > 0 || !self.has_use_for_another() {
            return false;
        }
        self.table.refile(index, Key::None);
        self.table.advance(index, State::Idle);
        self.idle.push(index);
        true
    }

    // --- borrowing -------------------------------------------------------------------------------------------

    /// Gives out the next automatic number.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Answers a borrower, who may have a place among the waiting and may be willing to take one.
    pub(crate) fn check_out(&mut self, want: &Want<'_, H>, place: Place<W>) -> CheckOut<H> {
        let Place { waiter, mut waker } = place;
        let answer = self.answer(want, waiter, &mut waker);
        self.after.wakers.extend(waker);
        answer
    }

    fn answer(&mut self, want: &Want<'_, H>, waiter: Option<WaiterId>, waker: &mut Option<W>) -> CheckOut<H> {
        if self.closed {
            return CheckOut::Refused(Refusal::Closed);
        }
        match self.find_wanted(want) {
            Found::Compare(candidates) => return CheckOut::Compare(candidates),
            Found::Slot(index) => match &self.table.get(index).connection {
                Some(connection) => return CheckOut::Lent(Arc::clone(connection)),
                None if self.table.get(index).opener.is_some_and(|opener| want.caller() == Some(opener)) => {
                    return CheckOut::Refused(Refusal::Reentrant);
                }
                None => return self.wait(Busy::KeyOpening, want, waiter, waker),
            },
            Found::Nothing => {}
        }
        if let Some(index) = waiter.and_then(|waiter| self.claim(waiter)) {
            return self.hand_out(index, want);
        }
        if waiter.is_some_and(|waiter| self.queue.has_place(waiter)) {
            return self.wait(Busy::Full, want, waiter, waker);
        }
        if let Some(index) = self.idle.pop() {
            return self.hand_out(index, want);
        }
        if self.has_room() {
            let index = self.table.occupy(State::Opening);
            return self.hand_out(index, want);
        }
        self.wait(Busy::Full, want, waiter, waker)
    }

    /// Files a slot for its borrower: with a connection it is lent, without one it is a reservation.
    fn hand_out(&mut self, index: u32, want: &Want<'_, H>) -> CheckOut<H> {
        self.table.file(index, want.to_key());
        if let Some(connection) = self.table.get(index).connection.clone() {
            self.table.advance(index, State::Lent);
            self.nudge(want.hash());
            CheckOut::Lent(connection)
        } else {
            self.table.set_opener(index, want.caller());
            CheckOut::Reserved(self.table.id(index))
        }
    }

    fn wait(&mut self, busy: Busy, want: &Want<'_, H>, waiter: Option<WaiterId>, waker: &mut Option<W>) -> CheckOut<H> {
        let stays = |queue: &Queue<W>, waiter| busy == Busy::KeyOpening || queue.has_place(waiter);
        if let Some(waiter) = waiter.filter(|&waiter| stays(&self.queue, waiter))
            && self.queue.rearm(waiter, waker)
        {
            return CheckOut::Busy(busy, Some(waiter));
        }
        // A follower whose key did not come to be, or a newcomer: to the end of the queue.
        let joined = waker.take().map(|waker| match busy {
            Busy::Full => self.queue.join(want.hash(), waker),
            Busy::KeyOpening => self.queue.follow(want.hash(), waker),
        });
        CheckOut::Busy(busy, joined)
    }

    /// Takes what was promised to this waiter, which then has no place any more.
    fn claim(&mut self, waiter: WaiterId) -> Option<u32> {
        let promised = self.queue.claim(waiter)?;
        self.table.find(promised)
    }

    /// Lets a waiter go, and hands on what it was promised. What nobody has a use for is given back to be closed.
    pub(crate) fn leave(&mut self, waiter: WaiterId) -> Option<(SlotId, Arc<H>)> {
        let waker = self.queue.remove(waiter);
        self.after.wakers.extend(waker);
        let index = self.claim(waiter)?;
        if self.table.get(index).state == State::Opening {
            self.vacate(index);
            return None;
        }
        self.rest_or_retire(index)
    }

    // --- opening ---------------------------------------------------------------------------------------------

    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle.
    pub(crate) fn reserve(&mut self, want: Option<&Want<'_, H>>) -> Reserve<H> {
        if self.closed {
            return Reserve::Refused(Refusal::Closed);
        }
        if let Some(want) = want {
            match self.find_wanted(want) {
                Found::Compare(candidates) => return Reserve::Compare(candidates),
                Found::Slot(index) if self.table.get(index).state == State::Opening => {
                    return Reserve::Pending(self.table.id(index));
                }
                // One is lent under this key already: the new one is filed beside it, and both can be returned.
                Found::Slot(_) | Found::Nothing => {}
            }
        }
        if !self.has_room() {
            return Reserve::Refused(Refusal::Exhausted);
        }
        let index = self.table.occupy(State::Opening);
        if let Some(want) = want {
            self.table.file(index, want.to_key());
            self.table.set_opener(index, want.caller());
        }
        Reserve::New(self.table.id(index))
    }

    /// Puts an opened connection into its slot. Refused, the connection is the caller's to close.
    pub(crate) fn fulfil(&mut self, slot: SlotId, address: usize, connection: &Arc<H>) -> Result<(), Refusal> {
        let reserved = self.table.find(slot).filter(|&index| self.table.get(index).state == State::Opening);
        let Some(index) = reserved else { return Err(Refusal::Closed) };
        if self.closed {
            return Err(Refusal::Closed);
        }
        self.table.attach(index, address, Arc::clone(connection));
        self.table.set_opener(index, None);
        if matches!(self.table.get(index).key, Key::None) {
            self.rest(index);
        } else {
            self.table.advance(index, State::Lent);
            let hash = self.hash_at(index);
            self.nudge(hash);
        }
        Ok(())
    }

    /// Gives a reservation's room back, unless it has been spent.
    pub(crate) fn fail(&mut self, slot: SlotId, why: Option<Arc<ConnectError>>) {
        if why.is_some() {
            self.connect_error = why;
        }
        if let Some(index) = self.table.find(slot).filter(|&index| self.table.get(index).state == State::Opening) {
            self.vacate(index);
        }
    }

    // --- returning -------------------------------------------------------------------------------------------

    /// Takes a lent connection out of its borrower's hands.
    pub(crate) fn begin_return(&mut self, returned: &Returned<'_, H>, close: bool) -> Return<H> {
        if self.closed {
            return Return::Refused(Refusal::Closed);
        }
        let (filed, address) = match *returned {
            Returned::Connection(address) => (self.table.lent_at(address), Some(address)),
            Returned::Number(number, address) => (self.numbered(number), address),
            Returned::Key(ask, address) => match self.find(ask) {
                Found::Compare(candidates) => return Return::Compare(candidates),
                Found::Slot(index) => (Some(index), address),
                Found::Nothing => (None, address),
            },
        };
        let lent = |&index: &u32| self.table.get(index).state == State::Lent;
        let fits = |&index: &u32| address.is_none_or(|address| self.table.get(index).address == address);
        let Some(index) = filed.filter(lent).filter(fits) else {
            let known = address.is_some_and(|address| self.table.lent_at(address).is_some());
            return Return::Refused(if known { Refusal::WrongKey } else { Refusal::Unkeyed });
        };
        let Some(connection) = self.table.get(index).connection.clone() else {
            return Return::Refused(Refusal::Unkeyed);
        };
        let keep = !close && self.has_use_for_another();
        self.unfile(index);
        self.table.advance(index, State::Returning);
        Return::Begun { slot: self.table.id(index), connection, keep }
    }

    /// Takes a clean connection back for good. `false`: there is no use for it, close it and discard it.
    pub(crate) fn keep_returned(&mut self, slot: SlotId) -> bool {
        let Some(index) = self.table.find(slot) else { return false };
        if self.closed || !self.has_use_for_another() {
            return false;
        }
        self.rest(index);
        true
    }

    /// Gives up a connection that is being returned, and frees its slot.
    pub(crate) fn discard(&mut self, slot: SlotId) {
        if let Some(index) = self.table.find(slot) {
            self.vacate(index);
        }
    }

    // --- limits and the end ----------------------------------------------------------------------------------

    pub(crate) fn set_minconn(&mut self, minconn: usize) {
        self.minconn = minconn;
    }

    /// Sets the limit. Idle connections above it, the oldest first, are given back to be closed.
    pub(crate) fn set_maxconn(&mut self, maxconn: usize) -> Vec<(SlotId, Arc<H>)> {
        self.maxconn = maxconn;
        let surplus = self.table.occupied().saturating_sub(maxconn + self.table.count(State::Returning));
        let retired: Vec<u32> = self.idle.drain(..surplus.min(self.idle.len())).collect();
        let retired = retired.into_iter().filter_map(|index| self.retire(index)).collect();
        self.serve();
        retired
    }

    /// Opens or closes the pool without touching what is in it.
    pub(crate) fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
        if closed {
            self.dismiss_waiters();
        }
    }

    /// Closes the pool and gives every connection to be closed: idle ones first, then lent ones, each as listed.
    pub(crate) fn close(&mut self) -> Result<Vec<Arc<H>>, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        self.set_closed(true);
        let lent = self.lent().into_iter().map(|(_, connection)| connection);
        Ok(self.idle().into_iter().chain(lent).collect())
    }

    /// Empties the pool and opens it. What was in it is dropped; who waits, asks anew.
    pub(crate) fn reset(&mut self) {
        self.dismiss_waiters();
        self.idle.clear();
        for state in [State::Opening, State::Idle, State::Lent, State::Returning] {
            for index in self.table.in_order(state) {
                let leavings = self.table.vacate(index);
                self.after.drop_later(leavings);
            }
        }
        self.closed = false;
        self.last_number = 0;
        self.connect_error = None;
    }

    fn dismiss_waiters(&mut self) {
        self.after.wakes.extend(self.queue.drain());
        for index in self.table.in_order(State::Promised) {
            self.table.advance(index, State::Idle);
            self.idle.push(index);
        }
        // Room that was promised and will not be claimed: nobody has filed it yet.
        let unclaimed = |&index: &u32| {
            let slot = self.table.get(index);
            matches!(slot.key, Key::None) && slot.opener.is_none()
        };
        for index in self.table.in_state(State::Opening).filter(unclaimed).collect::<Vec<_>>() {
            let leavings = self.table.vacate(index);
            self.after.drop_later(leavings);
        }
    }

    // --- the books, as other people's code sees and edits them -----------------------------------------------

    /// Lists the idle connections, the next to be lent last.
    pub(crate) fn idle(&self) -> Vec<Arc<H>> {
        self.idle.iter().filter_map(|&index| self.table.get(index).connection.clone()).collect()
    }

    /// Lists the loans, the oldest first.
    pub(crate) fn lent(&self) -> Vec<(LoanKey<H>, Arc<H>)> {
        let lent = self.table.in_order(State::Lent).into_iter().map(|index| self.table.get(index));
        let loan = |key: &Key<H>| match key {
            Key::User(key) => Some(LoanKey::User(Arc::clone(&key.handle))),
            Key::Automatic(number) => Some(LoanKey::Automatic(*number)),
            Key::None => None,
        };
        lent.filter_map(|slot| Some((loan(&slot.key)?, slot.connection.clone()?))).collect()
    }

    /// Replaces the list of idle connections, if it still is what the editor saw.
    pub(crate) fn replace_idle(&mut self, seen: &[usize], mut wanted: Vec<(usize, Arc<H>)>) -> bool {
        if !self.idle.iter().map(|&index| self.table.get(index).address).eq(seen.iter().copied()) {
            self.after.handles.extend(wanted.drain(..).map(|(_, connection)| connection));
            return false;
        }
        let mut old: Vec<u32> = self.idle.drain(..).collect();
        for (address, connection) in wanted {
            let index = if let Some(at) = old.iter().position(|&index| self.table.get(index).address == address) {
                self.after.handles.push(connection);
                old.remove(at)
            } else {
                let index = self.table.occupy(State::Idle);
                self.table.attach(index, address, connection);
                index
            };
            self.idle.push(index);
        }
        for index in old {
            let leavings = self.table.vacate(index);
            self.after.drop_later(leavings);
        }
        self.serve();
        true
    }

    /// Enters a loan that was made elsewhere. It takes the place of one under the same key.
    pub(crate) fn enter_loan(
        &mut self,
        want: &Want<'_, H>,
        address: usize,
        connection: Arc<H>,
    ) -> Result<(), Candidates<H>> {
        match self.find_wanted(want) {
            Found::Compare(candidates) => {
                self.after.handles.push(connection);
                return Err(candidates);
            }
            Found::Slot(index) if self.table.get(index).state == State::Opening => {
                let slot = self.table.id(index);
                // Closed or not, the books say what they are told to say.
                let _ = self.fulfil(slot, address, &connection);
                self.after.handles.push(connection);
                return Ok(());
            }
            Found::Slot(index) => {
                let leavings = self.table.vacate(index);
                self.after.drop_later(leavings);
            }
            Found::Nothing => {}
        }
        let index = self.table.occupy(State::Lent);
        self.table.attach(index, address, connection);
        self.table.file(index, want.to_key());
        self.nudge(want.hash());
        Ok(())
    }

    /// Strikes a loan out of the books, and gives its key and connection.
    pub(crate) fn strike_loan(&mut self, want: &Want<'_, H>) -> Result<Option<Arc<H>>, Candidates<H>> {
        match self.find_wanted(want) {
            Found::Compare(candidates) => Err(candidates),
            Found::Slot(index) if self.table.get(index).state == State::Lent => {
                let connection = self.table.get(index).connection.clone();
                self.vacate(index);
                Ok(connection)
            }
            Found::Slot(_) | Found::Nothing => Ok(None),
        }
    }

    pub(crate) fn last_number(&self) -> u64 {
        self.last_number
    }

    pub(crate) fn set_last_number(&mut self, number: u64) {
        self.last_number = number;
    }

    pub(crate) fn connect_error(&self) -> Option<Arc<ConnectError>> {
        self.connect_error.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            idle: self.table.count(State::Idle),
            lent: self.table.count(State::Lent) + self.table.count(State::Promised),
            opening: self.table.count(State::Opening),
            returning: self.table.count(State::Returning),
            waiting: self.queue.len(),
            minconn: self.minconn,
            maxconn: self.maxconn,
            closed: self.closed,
        }
    }

    pub(crate) fn for_each_handle(&self, visit: impl FnMut(&H)) {
        self.table.for_each_handle(visit);
    }

    // --- what the above is made of ---------------------------------------------------------------------------

    fn has_room(&self) -> bool {
        self.table.occupied() < self.maxconn
    }

    /// Says whether a connection that comes back has a use: for one who waits, or to be one of minconn idle ones.
    #[inline]
    fn has_use_for_another(&self) -> bool {
        let wanted = self.queue.len() > 0 || self.idle.len() < self.minconn;
        wanted && self.table.occupied() <= self.maxconn
    }

    fn find_wanted(&self, want: &Want<'_, H>) -> Found<H> {
        match want {
            Want::Any(_) => Found::Nothing,
            Want::Number(number) => self.numbered(*number).map_or(Found::Nothing, Found::Slot),
            Want::Key(ask) => self.find(ask),
        }
    }

    fn numbered(&self, number: u64) -> Option<u32> {
        let filed = |&index: &u32| matches!(self.table.get(index).key, Key::Automatic(filed) if filed == number);
        self.table.in_state(State::Lent).chain(self.table.in_state(State::Opening)).find(filed)
    }

    fn find(&self, ask: &Ask<H>) -> Found<H> {
        let same_object =
            |&index: &u32| matches!(&self.table.get(index).key, Key::User(key) if key.address == ask.key.address);
        if let Some(index) = self.table.filed_under(ask.key.hash).find(same_object) {
            return Found::Slot(index);
        }
        if let Some(index) = ask.matched.and_then(|slot| self.table.find(slot)) {
            return Found::Slot(index);
        }
        let unseen = |&index: &u32| self.table.get(index).generation > ask.seen;
        let candidate = |index: u32| match &self.table.get(index).key {
            Key::User(key) => Some(Candidate { slot: self.table.id(index), key: Arc::clone(&key.handle) }),
            Key::Automatic(_) | Key::None => None,
        };
        let list: Vec<_> = self.table.filed_under(ask.key.hash).filter(unseen).filter_map(candidate).collect();
        if list.is_empty() {
            Found::Nothing
        } else {
            Found::Compare(Candidates { list, seen: self.table.generation() })
        }
    }

    fn hash_at(&self, index: u32) -> Option<isize> {
        match &self.table.get(index).key {
            Key::User(key) => Some(key.hash),
            Key::Automatic(_) | Key::None => None,
        }
    }

    fn unfile(&mut self, index: u32) {
        let key = self.table.unfile(index);
        self.after.drop_key_later(key);
    }

    /// Wakes those who want a key with this hash: what they asked for may be there now, or never come.
    fn nudge(&mut self, hash: Option<isize>) {
        if let Some(hash) = hash {
            self.queue.nudge(hash, &mut self.after.wakes);
        }
    }

    /// Frees a slot, and serves who waits for it.
    fn vacate(&mut self, index: u32) {
        let hash = self.hash_at(index);
        let leavings = self.table.vacate(index);
        self.after.drop_later(leavings);
        self.nudge(hash);
        self.serve();
    }

    /// Lays a connection to rest, and serves who waits for it.
    fn rest(&mut self, index: u32) {
        self.table.advance(index, State::Idle);
        self.idle.push(index);
        self.serve();
    }

    /// Lays a connection to rest if there is a use for it; gives it back to be closed if there is none.
    fn rest_or_retire(&mut self, index: u32) -> Option<(SlotId, Arc<H>)> {
        if self.closed || self.has_use_for_another() {
            self.rest(index);
            return None;
        }
        self.retire(index)
    }

    fn retire(&mut self, index: u32) -> Option<(SlotId, Arc<H>)> {
        self.table.advance(index, State::Returning);
        let connection = self.table.get(index).connection.clone()?;
        Some((self.table.id(index), connection))
    }

    /// Promises what is free to those who wait, in their order. After it, nothing is free or nobody waits.
    fn serve(&mut self) {
        while self.queue.len() > 0 && !self.closed {
            let index = if let Some(index) = self.idle.pop() {
                self.table.advance(index, State::Promised);
                index
            } else if self.has_room() {
                self.table.occupy(State::Opening)
            } else {
                return;
            };
            let slot = self.table.id(index);
            self.after.wakes.extend(self.queue.promise(slot));
        }
    }
}
