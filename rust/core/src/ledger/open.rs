//! Opening a connection: a caller reserves room before it fills it.

use std::sync::Arc;

use super::{Ledger, Return, Seeker};
use crate::caller::Caller;
use crate::close_reason::CloseReason;
use crate::key::Key;
use crate::question::{Unanswered, Want};
use crate::refusal::Refusal;
use crate::slot::{Health, SlotId, State};
use crate::stats::{ConnectError, ConnectFailure};

/// The answer to a caller that asks for a slot to open a connection in.
#[derive(Clone, Copy)]
pub(crate) enum ReserveDecision {
    /// A caller further up has reserved the slot, and waits for this connection.
    Pending(SlotId),
    /// The reservation is new.
    New(SlotId),
    /// The caller asks the grantor, and then again.
    Seek(Seeker),
}

impl<H, W> Ledger<H, W> {
    /// Finds the slot that a connection for `want` is to be opened in; without `want`, one that will be idle. `seeks` says that the
    /// caller has not asked the grantor.
    pub(crate) fn reserve(
        &mut self,
        want: Option<&Want<H>>,
        caller: Caller,
        seeks: bool,
    ) -> Result<ReserveDecision, Unanswered<H>> {
        self.ensure_open()?;
        let filed = want.map_or(Ok(None), |want| self.find(want))?;
        if let (Some(index), Some(want)) = (filed, want)
            && self.fills_in(index, want)
        {
            if let Some(connection) = self.table.detach(index) {
                // The hook connects once more. The new connection replaces the first, as in a dict.
                self.after.handles.push(connection);
                self.stats.count_closed(CloseReason::Unplaced);
                self.table.advance(index, State::Opening);
            }
            return Ok(ReserveDecision::Pending(self.table.id(index)));
        }
        if want.is_none()
            && let Some(slot) = self.slot_of_worker(caller)
        {
            return Ok(ReserveDecision::Pending(slot));
        }
        if !self.has_room() {
            if seeks && self.lacks_grant() && self.may_seek() {
                return Ok(ReserveDecision::Seek(self.begin_seek(want.map(Want::tag), caller)));
            }
            return Err(if self.lacks_grant() { Refusal::Limited } else { Refusal::Exhausted }.into());
        }
        let index = self.begin_connect();
        if let Some(want) = want {
            self.file(index, want);
            // If one is lent under this key already, the new one replaces it, as in a dict.
            let lent = filed.filter(|&filed| self.table.get(filed).state == State::Lent);
            self.table.set_replaces(index, lent.map(|lent| self.table.id(lent)));
        } else {
            self.begin_transit(index, caller);
        }
        Ok(ReserveDecision::New(self.table.id(index)))
    }

    /// Says whether the caller asks on behalf of the opener of this slot: it is the opener, or another thread to which a hook
    /// has handed its work. Only the hook can know an automatic number. A caller that names a user's key may mean another
    /// connection, if there is room for one.
    fn fills_in(&self, index: u32, want: &Want<H>) -> bool {
        let slot = self.table.get(index);
        slot.opener.is_some_and(|opener| {
            let opening = slot.state == State::Opening;
            opener == want.caller() && slot.state != State::Checking
                || opening && (matches!(want, Want::Number(..)) || !self.has_room())
        })
    }

    /// Notes that this caller begins to open the slot's connection now.
    pub(super) fn begin_opening(&mut self, index: u32, opener: Caller) {
        let slot = self.table.get_mut(index);
        slot.health = Health { opened_in: slot.generation, ..Health::NONE };
        self.table.set_opener(index, opener);
    }

    /// Puts an opened connection into its slot. If the ledger refuses it, the caller closes it.
    pub(crate) fn fulfil(&mut self, slot: SlotId, address: usize, connection: &Arc<H>) -> Result<(), Refusal> {
        let placed = self.place(slot, address, connection);
        if placed.is_err() {
            self.stats.count_closed(CloseReason::Unplaced);
        }
        placed
    }

    fn place(&mut self, slot: SlotId, address: usize, connection: &Arc<H>) -> Result<(), Refusal> {
        self.ensure_open()?;
        let opening = self.table.find(slot).filter(|&index| self.table.get(index).state == State::Opening);
        let index = opening.ok_or(Refusal::Exhausted)?;
        if matches!(self.table.get(index).key, Key::None) && self.table.occupied() > self.maxconn {
            return Err(Refusal::Exhausted);
        }
        self.fill(index, address, connection);
        Ok(())
    }

    /// Puts a connection into a slot that is reserved for it. Other callers get it when its opener has finished.
    pub(super) fn fill(&mut self, index: u32, address: usize, connection: &Arc<H>) {
        self.attach(index, address, Arc::clone(connection));
        let replaced = self.table.get(index).replaces.and_then(|slot| self.table.find(slot));
        if matches!(self.table.get(index).key, Key::None) {
            self.become_idle(index);
        } else {
            self.begin_loan(index);
            if let Some(replaced) = replaced {
                self.stats.count_closed(CloseReason::Unplaced);
                self.vacate(replaced);
            }
        }
        self.note_connected();
    }

    /// Ends a reservation. A fulfilled one is a loan like any other from now on; an unfulfilled one gives its room back.
    pub(crate) fn end_reservation(&mut self, slot: SlotId) {
        let Some(index) = self.table.reserved(slot) else { return };
        if self.table.get(index).state == State::Opening {
            self.vacate(index);
        } else {
            self.table.clear_opener(index);
            self.wake_key_waiters(self.table.get(index).key.tag());
        }
    }

    /// Ends a reservation whose opener has failed since the server has too many connections, if one of this pool's may come back: the
    /// caller may wait for it. `false`: there is none, and nothing has changed.
    pub(crate) fn leave_to_loans(&mut self, slot: SlotId, why: Arc<ConnectError>, error: Arc<H>) -> bool {
        let reserved = self.table.reserved(slot).filter(|&index| self.table.get(index).state == State::Opening);
        let Some(index) = reserved.filter(|_| self.some_may_come_back() && !self.closed) else {
            self.after.handles.push(error);
            return false;
        };
        self.connect_error = Some(why);
        self.back_off(self.table.get(index).health.opened_in, error, ConnectFailure::Full);
        self.vacate(index);
        true
    }

    /// Ends a reservation whose opener has failed. A connection that it has filed all the same comes out, to be closed. `outage` is
    /// the error if the server cannot be reached.
    pub(crate) fn fail_reservation(
        &mut self,
        slot: SlotId,
        why: Arc<ConnectError>,
        outage: Option<Arc<H>>,
    ) -> Option<Return<H>> {
        self.connect_error = Some(why);
        let reserved = self.table.reserved(slot);
        let opening = reserved.filter(|&index| self.table.get(index).state == State::Opening);
        match (opening, outage) {
            (Some(index), Some(error)) => {
                self.back_off(self.table.get(index).health.opened_in, error, ConnectFailure::Outage);
            }
            (_, outage) => self.after.handles.extend(outage),
        }
        let index = reserved?;
        // closeall has closed what was filed with the others.
        if opening.is_some() || !self.has_open_loans() {
            self.vacate(index);
            return None;
        }
        self.end_loan(index);
        self.begin_discard(index, CloseReason::Unplaced)
    }
}
