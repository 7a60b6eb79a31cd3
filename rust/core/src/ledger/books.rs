//! The books, as other people's code reads and edits them.

use std::sync::Arc;

use super::Ledger;
use super::search::Found;
use crate::key::{Candidates, Key, LoanKey, Want};
use crate::slot::State;
use crate::stats::{ConnectError, Counts};

impl<H, W> Ledger<H, W> {
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
}
