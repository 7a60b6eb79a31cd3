//! The key that a loan is filed under. The ledger never compares two keys: Python does that, outside the mutex.

use std::sync::Arc;

/// The key of a slot.
#[derive(Debug)]
pub(crate) enum Key<H> {
    /// The slot has no key: it is idle, or is being opened to become so.
    None,
    /// The key is a number of the pool's own. It never equals a user's key, not even an equal integer.
    Automatic(u64),
    /// The key is a user's.
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
    /// Where the key object lives. Equal addresses mean the same object.
    pub address: usize,
    /// The key object itself.
    pub handle: Arc<H>,
}

impl<H> Clone for UserKey<H> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, address: self.address, handle: Arc::clone(&self.handle) }
    }
}

/// A key as it leaves the ledger, to be shown or compared.
#[derive(Debug)]
pub enum LoanKey<H> {
    /// The key is a number of the pool's own.
    Automatic(u64),
    /// The key is a user's.
    User(Arc<H>),
}

/// What the ledger knows of a key without comparing it. Equal keys have equal tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyTag {
    Number(u64),
    Hash(isize),
}
