//! What a loan is filed under. Two keys are never compared here: Python does that, outside the lock.

use std::sync::Arc;

use crate::error::Refusal;
use crate::slot::SlotId;
use crate::wait::Wish;

/// What a slot is filed under.
#[derive(Debug)]
pub(crate) enum Key<H> {
    /// Nothing: the slot is idle, or is being opened to become so.
    None,
    /// A number of the pool's own. It never meets a user's key, not even an equal integer.
    Automatic(u64),
    /// A user's key.
    User(UserKey<H>),
}

impl<H> Clone for Key<H> {
    fn clone(&self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Automatic(number) => Self::Automatic(*number),
            Self::User(key) => Self::User(key.clone()),
        }
    }
}

impl<H> Key<H> {
    pub(crate) fn tag(&self) -> Option<KeyTag> {
        match self {
            Key::None => None,
            Key::Automatic(number) => Some(KeyTag::Number(*number)),
            Key::User(key) => Some(KeyTag::Hash(key.hash)),
        }
    }

    pub(crate) fn to_loan_key(&self) -> Option<LoanKey<H>> {
        match self {
            Key::None => None,
            Key::Automatic(number) => Some(LoanKey::Automatic(*number)),
            Key::User(key) => Some(LoanKey::User(Arc::clone(&key.handle))),
        }
    }
}

/// A user's key: its hash, which the ledger may compare, and its handle, which it may not.
#[derive(Debug)]
pub struct UserKey<H> {
    /// What `hash(key)` gave.
    pub hash: isize,
    /// Where the key object lives; equal addresses mean the same object.
    pub address: usize,
    /// The key object itself.
    pub handle: Arc<H>,
}

impl<H> Clone for UserKey<H> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, address: self.address, handle: Arc::clone(&self.handle) }
    }
}

/// A key's handle as it leaves the ledger, to be shown or compared.
#[derive(Debug)]
pub enum LoanKey<H> {
    /// A number of the pool's own.
    Automatic(u64),
    /// A user's key.
    User(Arc<H>),
}

/// A question after a user's key, with what the asker has learnt so far by comparing.
///
/// Ask; where the ledger answers with candidates, compare each with the key (unlocked), note the outcome with
/// [`Ask::matched`] or [`Ask::none_matched`], and ask again.
#[derive(Debug)]
pub struct Ask<H> {
    pub(crate) key: UserKey<H>,
    pub(crate) caller: Caller,
    pub(crate) matched: Option<SlotId>,
    /// Every slot that was filed up to this generation has been compared and is not it.
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

    /// Notes that this candidate's key equals ours.
    pub fn matched(&mut self, candidate: &Candidate<H>) {
        self.matched = Some(candidate.slot);
    }

    /// Notes that none of these candidates' keys equals ours.
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

/// Slots to be compared before the ledger can answer.
#[derive(Debug)]
pub struct Candidates<H> {
    /// In the order in which they were filed.
    pub list: Vec<Candidate<H>>,
    pub(crate) seen: u64,
}

/// Who asks: a number that no two running callers share. A caller that would wait for itself is told so.
pub type Caller = u64;

/// No caller has this number.
pub(crate) const NO_CALLER: Caller = 0;

/// What a connection is wanted for, or filed under.
#[derive(Debug)]
pub enum Want<H> {
    /// A fresh automatic number, which [`crate::Pool::next_number`] has just given out.
    Any(u64, Caller),
    /// An automatic number that was given out before.
    Number(u64, Caller),
    /// A user's key.
    Key(Ask<H>),
}

/// What can be said of a key without comparing it. Keys that are equal have equal marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyTag {
    Number(u64),
    Hash(isize),
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

    /// Tells which caller wants it.
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

/// Why there is no answer. Nothing has changed in the ledger.
#[derive(Debug)]
pub enum Unanswered<H> {
    /// And there will be none.
    Refused(Refusal),
    /// Yet: compare these with the key, note the outcome in the [`Ask`], and ask again.
    Compare(Candidates<H>),
}

impl<H> From<Refusal> for Unanswered<H> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
