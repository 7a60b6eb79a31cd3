//! What other people's code reads and edits: `_pool`, `_used` and the rest.

use std::sync::Arc;

use super::Ledger;
use crate::key::LoanKey;
use crate::question::{Unanswered, Want};
use crate::refusal::Refusal;
use crate::slot::{SlotId, State};
use crate::stats::{ConnectError, Counts};

impl<H, W> Ledger<H, W> {
    /// Lists the idle connections, the next to be lent last.
    pub(crate) fn idle(&self) -> Vec<Arc<H>> {
        self.idle.iter().filter_map(|&index| self.table.get(index).connection.clone()).collect()
    }

    pub(crate) fn is_idle(&self, address: usize) -> bool {
        self.table.is_in_state(address, State::Idle)
    }

    /// Lists the loans, in no order, each with its generation.
    pub(crate) fn lent(&self) -> Vec<(u64, LoanKey<H>, Arc<H>)> {
        let loan = |index: u32| {
            let slot = self.table.get(index);
            Some((slot.generation, slot.key.to_loan_key()?, slot.connection.clone()?))
        };
        self.table.in_state(State::Lent).filter_map(loan).collect()
    }

    /// Replaces the list of idle connections, if it still is what the caller saw.
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
                self.attach(index, address, connection);
                self.table.get_mut(index).mark_idle(self.now, self.policy.check_after);
                index
            };
            self.idle.push(index);
        }
        for index in old {
            self.empty(index);
        }
        self.serve();
        true
    }

    /// Inserts a loan that was made elsewhere, in an open pool or a closed one. It replaces one under the same key, or
    /// fulfils the reservation that was made for it.
    pub(crate) fn insert_loan(
        &mut self,
        want: &Want<H>,
        address: usize,
        connection: &Arc<H>,
    ) -> Result<(), Unanswered<H>> {
        if let Some(index) = self.find(want)? {
            if self.table.get(index).state == State::Opening {
                self.fill(index, address, connection);
                return Ok(());
            }
            self.empty(index);
        }
        let index = self.table.occupy(State::Idle);
        self.attach(index, address, Arc::clone(connection));
        self.file(index, want);
        self.begin_loan(index);
        Ok(())
    }

    /// Finds the connection that is lent under a key.
    pub(crate) fn loan(&self, want: &Want<H>) -> Result<Option<Arc<H>>, Unanswered<H>> {
        let filed = self.find(want)?.map(|index| self.table.get(index));
        Ok(filed.filter(|slot| slot.state == State::Lent).and_then(|slot| slot.connection.clone()))
    }

    /// Removes a loan, and gives its connection.
    pub(crate) fn remove_loan(&mut self, want: &Want<H>) -> Result<Option<Arc<H>>, Unanswered<H>> {
        let filed = self.find(want)?;
        Ok(filed.filter(|&index| self.table.get(index).state == State::Lent).and_then(|index| {
            let connection = self.table.get(index).connection.clone();
            self.vacate(index);
            connection
        }))
    }

    /// Says whether a slot is as it was when this id was given out.
    pub(crate) fn is_current(&self, slot: SlotId) -> bool {
        self.table.find(slot).is_some()
    }

    /// Says whether a slot holds the connection at `address`.
    pub(crate) fn holds(&self, address: usize) -> bool {
        self.table.holds(address)
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
            lent: self.table.count(State::Lent),
            promised: self.table.count(State::Promised),
            opening: self.table.count(State::Opening),
            checking: self.table.count(State::Checking),
            returning: self.table.count(State::Returning),
            waiting: self.queue.waiting(),
            minconn: self.minconn,
            maxconn: self.maxconn,
            closed: self.closed,
            unopened: self.ensure_open() == Err(Refusal::Unopened),
            unclosed: self.unclosed(),
        }
    }

    pub(crate) fn for_each_handle(&self, mut visit: impl FnMut(&H)) {
        self.table.for_each_handle(&mut visit);
        self.last_failure().into_iter().for_each(|error| visit(error));
        self.inherited_handles().for_each(visit);
    }
}
