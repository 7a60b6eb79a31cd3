//! Looking for a key. Where Python must compare, the search stops and gives out candidates.

use std::sync::Arc;

use super::Ledger;
use crate::key::{Ask, Candidate, Candidates, Key, Want};
use crate::slot::State;

/// What a search for a user's key found.
pub(super) enum Found<H> {
    Slot(u32),
    Nothing,
    Compare(Candidates<H>),
}

impl<H, W> Ledger<H, W> {
    pub(super) fn find_wanted(&self, want: &Want<'_, H>) -> Found<H> {
        match want {
            Want::Any(_) => Found::Nothing,
            Want::Number(number) => self.numbered(*number).map_or(Found::Nothing, Found::Slot),
            Want::Key(ask) => self.find(ask),
        }
    }

    pub(super) fn numbered(&self, number: u64) -> Option<u32> {
        let filed = |&index: &u32| matches!(self.table.get(index).key, Key::Automatic(filed) if filed == number);
        self.table.in_state(State::Lent).chain(self.table.in_state(State::Opening)).find(filed)
    }

    pub(super) fn find(&self, ask: &Ask<H>) -> Found<H> {
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
}
