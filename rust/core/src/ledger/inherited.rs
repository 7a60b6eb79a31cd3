//! What the process that this one was forked from had lent. Those connections are the parent's, which goes on using them. A
//! borrower that goes on in the child may return one here, once, and nothing happens.

use std::sync::Arc;

use super::Ledger;
use crate::key::Key;
use crate::question::{Candidate, Candidates, Unanswered, Want};
use crate::slot::{SlotId, State};

/// A loan of the parent's. The ledger keeps its handle, so that no connection of this process gets the same address.
pub(crate) struct Inherited<H> {
    loan: SlotId,
    address: usize,
    connection: Arc<H>,
    key: Key<H>,
}

impl<H, W> Ledger<H, W> {
    /// Gives the parent's loans, with those that the parent had inherited itself.
    pub(super) fn loans_to_inherit(&mut self) -> Vec<Inherited<H>> {
        let lent = self.table.in_state(State::Lent).filter_map(|index| {
            let slot = self.table.get(index);
            let (loan, connection) = (self.table.id(index), slot.connection.clone()?);
            Some(Inherited { loan, address: slot.address, connection, key: slot.key.clone() })
        });
        let lent: Vec<_> = lent.collect();
        let mut all = std::mem::take(&mut self.inherited);
        all.extend(lent);
        all
    }

    pub(crate) fn has_inherited(&self) -> bool {
        !self.inherited.is_empty()
    }

    /// Forgets all inherited loans.
    pub(super) fn forget_all_inherited(&mut self) {
        for Inherited { connection, key, .. } in std::mem::take(&mut self.inherited) {
            self.after.handles.push(connection);
            self.after.drop_key_later(key);
        }
    }

    /// Forgets one inherited loan; says whether there was one.
    pub(crate) fn forget_inherited(
        &mut self,
        address: Option<usize>,
        filed: Option<&Want<H>>,
    ) -> Result<bool, Unanswered<H>> {
        let at = |inherited: &Inherited<H>| address.is_none_or(|address| inherited.address == address);
        let found = match filed {
            Some(want) => self.find_inherited(want)?.filter(|&found| at(&self.inherited[found])),
            None => self.inherited.iter().rposition(at).filter(|_| address.is_some()),
        };
        let Some(found) = found else { return Ok(false) };
        let Inherited { connection, key, .. } = self.inherited.remove(found);
        self.after.handles.push(connection);
        self.after.drop_key_later(key);
        Ok(true)
    }

    fn find_inherited(&self, want: &Want<H>) -> Result<Option<usize>, Unanswered<H>> {
        let Want::Key(ask) = want else {
            let same = |inherited: &Inherited<H>| inherited.key.tag() == Some(want.tag());
            return Ok(self.inherited.iter().position(same));
        };
        let users = |inherited: &Inherited<H>| match &inherited.key {
            Key::User(key) if key.hash == ask.key.hash => Some((inherited.loan, key.clone())),
            _ => None,
        };
        let same = |inherited: &Inherited<H>| {
            users(inherited).is_some_and(|(loan, key)| key.address == ask.key.address || ask.matched == Some(loan))
        };
        if let Some(found) = self.inherited.iter().position(same) {
            return Ok(Some(found));
        }
        let unseen = self.inherited.iter().filter_map(users).filter(|(loan, _)| loan.generation > ask.seen);
        let list: Vec<_> = unseen.map(|(slot, key)| Candidate { slot, key: key.handle }).collect();
        if list.is_empty() {
            Ok(None)
        } else {
            Err(Unanswered::Compare(Candidates { list, seen: self.table.generation() }))
        }
    }

    pub(super) fn inherited_handles(&self) -> impl Iterator<Item = &H> {
        self.inherited.iter().flat_map(|inherited| {
            let key = match &inherited.key {
                Key::User(key) => Some(&*key.handle),
                Key::Automatic(_) | Key::None => None,
            };
            key.into_iter().chain(std::iter::once(&*inherited.connection))
        })
    }
}
