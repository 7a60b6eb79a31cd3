//! How a caller asks for a key, and how the ledger asks back where Python must compare.

use std::sync::Arc;

use crate::caller::Caller;
use crate::key::{Key, KeyTag, UserKey};
use crate::refusal::Refusal;
use crate::slot::SlotId;

/// A question for a user's key, with what the caller has learnt so far by comparing.
///
/// Ask. Where the ledger answers with candidates, compare each with the key (without the mutex), note the outcome with
/// [`Ask::matched`] or [`Ask::none_matched`], and ask again.
#[derive(Debug)]
pub struct Ask<H> {
    pub(crate) key: UserKey<H>,
    pub(crate) caller: Caller,
    pub(crate) matched: Option<SlotId>,
    /// The caller has compared every slot that was filed up to this generation, and none matches.
    pub(crate) seen: u64,
}

impl<H> Ask<H> {
    /// Asks for `key` on behalf of `caller`.
    #[must_use]
    pub fn new(key: UserKey<H>, caller: Caller) -> Self {
        Self { key, caller, matched: None, seen: 0 }
    }

    /// Shows the key that is asked for.
    #[must_use]
    pub fn key(&self) -> &UserKey<H> {
        &self.key
    }

    /// Notes that this candidate's key equals the key that is asked for.
    pub fn matched(&mut self, candidate: &Candidate<H>) {
        self.matched = Some(candidate.slot);
    }

    /// Notes that none of these candidates' keys equals the key that is asked for.
    pub fn none_matched(&mut self, candidates: &Candidates<H>) {
        self.matched = None;
        self.seen = candidates.seen;
    }
}

/// A slot whose key has the same hash as the key that was asked for.
#[derive(Debug)]
pub struct Candidate<H> {
    pub(crate) slot: SlotId,
    /// Its key.
    pub key: Arc<H>,
}

/// Slots that the caller must compare before the ledger can answer.
#[derive(Debug)]
pub struct Candidates<H> {
    /// The slots, in the order in which they were filed.
    pub list: Vec<Candidate<H>>,
    pub(crate) seen: u64,
}

/// What a caller wants a connection for, or what a loan is filed under.
#[derive(Debug)]
pub enum Want<H> {
    /// A fresh automatic number, which [`crate::SharedLedger::next_number`] has just given out.
    Any(u64, Caller),
    /// An automatic number that was given out before.
    Number(u64, Caller),
    /// A user's key.
    Key(Ask<H>),
}

impl<H> Want<H> {
    pub(crate) fn tag(&self) -> KeyTag {
        match self {
            Want::Any(number, _) | Want::Number(number, _) => KeyTag::Number(*number),
            Want::Key(ask) => KeyTag::Hash(ask.key.hash),
        }
    }

    pub(crate) fn wish(&self) -> Wish {
        Wish { tag: self.tag(), caller: self.caller() }
    }

    /// Names the caller that wants it.
    #[must_use]
    pub fn caller(&self) -> Caller {
        match self {
            Want::Any(_, caller) | Want::Number(_, caller) => *caller,
            Want::Key(ask) => ask.caller,
        }
    }

    pub(crate) fn to_key(&self) -> Key<H> {
        match self {
            Want::Any(number, _) | Want::Number(number, _) => Key::Automatic(*number),
            Want::Key(ask) => Key::User(ask.key.clone()),
        }
    }
}

/// What a waiter wants, and which caller it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) tag: KeyTag,
    pub(crate) caller: Caller,
}

/// Why the ledger does not answer. Nothing has changed in it.
#[derive(Debug)]
pub enum Unanswered<H> {
    /// The ledger refuses.
    Refused(Refusal),
    /// The caller must compare these with the key, note the outcome in the [`Ask`], and ask again.
    Compare(Candidates<H>),
}

impl<H> From<Refusal> for Unanswered<H> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
