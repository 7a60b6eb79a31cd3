//! Looking a key up. Where Python must compare keys, the lookup stops and gives candidates.

use std::sync::Arc;

use super::Ledger;
use crate::key::Key;
use crate::question::{Ask, Candidate, Candidates, Unanswered, Want};
use crate::slot::State;

impl<H, W> Ledger<H, W> {
    /// Finds the slot that is filed under what a caller wants: it is lent, or about to be.
    pub(super) fn find(&self, want: &Want<H>) -> Result<Option<u32>, Unanswered<H>> {
        match want {
            Want::Any(..) => Ok(None),
            Want::Number(number, _) => Ok(self.numbered(*number)),
            Want::Key(ask) => self.keyed(ask),
        }
    }

    fn numbered(&self, number: u64) -> Option<u32> {
        // Most often it is fresh from `_getkey`, and no slot can have it.
        if number > self.last_filed {
            return None;
        }
        let filed = |&index: &u32| matches!(self.table.get(index).key, Key::Automatic(filed) if filed == number);
        [State::Lent, State::Opening, State::Checking]
            .into_iter()
            .flat_map(|state| self.table.in_state(state))
            .find(filed)
    }

    fn keyed(&self, ask: &Ask<H>) -> Result<Option<u32>, Unanswered<H>> {
        let same_object =
            |&index: &u32| matches!(&self.table.get(index).key, Key::User(key) if key.address == ask.key.address);
        if let Some(index) = self.table.filed_under(ask.key.hash).find(same_object) {
            return Ok(Some(index));
        }
        if let Some(index) = ask.matched.and_then(|slot| self.table.find(slot)) {
            return Ok(Some(index));
        }
        let unseen = |&index: &u32| self.table.get(index).generation > ask.seen;
        let candidate = |index: u32| match &self.table.get(index).key {
            Key::User(key) => Some(Candidate { slot: self.table.id(index), key: Arc::clone(&key.handle) }),
            Key::Automatic(_) | Key::None => None,
        };
        let list: Vec<_> = self.table.filed_under(ask.key.hash).filter(unseen).filter_map(candidate).collect();
        if list.is_empty() {
            Ok(None)
        } else {
            Err(Unanswered::Compare(Candidates { list, seen: self.table.generation() }))
        }
    }
}
