//! The slots, and the three ways to find one: by id, by the connection's address, by the hash of a key.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::caller::{Caller, NO_CALLER};
use crate::key::Key;
use crate::slot::{Health, Slot, SlotId, State};
use crate::time::Moment;

/// The handles that a vacated slot held. The caller drops them after the unlock.
pub(crate) struct Displaced<H> {
    pub(crate) connection: Option<Arc<H>>,
    pub(crate) key: Key<H>,
    pub(crate) note: Option<Arc<H>>,
}

/// All slots, counted by state.
pub(crate) struct Table<H> {
    slots: Vec<Slot<H>>,
    vacant: Vec<u32>,
    counts: [usize; State::COUNT],
    /// The last generation given out.
    generation: u64,
    by_address: HashMap<usize, u32, BuildHasherDefault<AddressHasher>>,
    by_hash: BTreeSet<(isize, u32)>,
    /// How many slots have an alias.
    aliases: usize,
}

impl<H> Table<H> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            counts: [0; State::COUNT],
            generation: 0,
            by_address: HashMap::default(),
            by_hash: BTreeSet::new(),
            aliases: 0,
        }
    }

    #[inline]
    pub(crate) fn count(&self, state: State) -> usize {
        self.counts[state as usize]
    }

    /// Counts the slots that are used.
    #[inline]
    pub(crate) fn occupied(&self) -> usize {
        self.slots.len() - self.counts[State::Vacant as usize]
    }

    /// Tells the last generation given out. What is filed from now on has a later one: see [`Table::file`].
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> &Slot<H> {
        &self.slots[index as usize]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Slot<H> {
        &mut self.slots[index as usize]
    }

    pub(crate) fn id(&self, index: u32) -> SlotId {
        SlotId { index, generation: self.get(index).generation }
    }

    /// Finds the slot that `id` names, unless it has moved since.
    pub(crate) fn find(&self, id: SlotId) -> Option<u32> {
        let slot = self.slots.get(id.index as usize)?;
        (slot.generation == id.generation).then_some(id.index)
    }

    /// Finds the slot that lends the connection at `address`; of several, the latest loan.
    pub(crate) fn lent_at(&self, address: usize) -> Option<u32> {
        self.lent_at_if(address, |_| true)
    }

    /// Finds the latest loan of the connection at `address` that fits.
    pub(crate) fn lent_at_if(&self, address: usize, is: impl Fn(&Slot<H>) -> bool) -> Option<u32> {
        let lent = |&index: &u32| self.get(index).state == State::Lent && is(self.get(index));
        self.at(address).filter(lent).max_by_key(|&index| self.get(index).generation)
    }

    /// Finds the one slot that holds the connection at `address`; none if there are several. It tries `guess` first.
    #[inline]
    pub(crate) fn only_at(&self, address: usize, guess: u32) -> Option<u32> {
        let guessed = self.slots.get(guess as usize);
        if self.aliases == 0 && guessed.is_some_and(|slot| slot.address == address && slot.connection.is_some()) {
            return Some(guess);
        }
        let index = *self.by_address.get(&address)?;
        self.get(index).alias.is_none().then_some(index)
    }

    /// Says whether a slot holds the connection at `address`.
    pub(crate) fn holds(&self, address: usize) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Says whether a slot in this state holds the connection at `address`.
    pub(crate) fn is_in_state(&self, address: usize, state: State) -> bool {
        self.at(address).any(|index| self.get(index).state == state)
    }

    fn at(&self, address: usize) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.by_address.get(&address).copied(), |&index| self.get(index).alias)
    }

    /// Finds the slots that are filed under a user's key with this hash.
    pub(crate) fn filed_under(&self, hash: isize) -> impl Iterator<Item = u32> + '_ {
        self.by_hash.range((hash, 0)..=(hash, u32::MAX)).map(|&(_, index)| index)
    }

    /// Iterates over the slots that are in `state`.
    pub(crate) fn in_state(&self, state: State) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.slots).filter(move |(_, slot)| slot.state == state).map(|(index, _)| index)
    }

    /// Iterates over the slots that are used.
    pub(crate) fn occupied_mut(&mut self) -> impl Iterator<Item = &mut Slot<H>> + '_ {
        self.slots.iter_mut().filter(|slot| slot.state != State::Vacant)
    }

    /// Iterates over the slots that have a connection.
    pub(crate) fn connected(&self) -> impl Iterator<Item = &Slot<H>> + '_ {
        self.slots.iter().filter(|slot| slot.connection.is_some())
    }

    /// As [`Table::connected`].
    pub(crate) fn connected_mut(&mut self) -> impl Iterator<Item = &mut Slot<H>> + '_ {
        self.slots.iter_mut().filter(|slot| slot.connection.is_some())
    }

    /// Moves a slot to another state, with a new generation.
    #[expect(clippy::inline_always, reason = "the fast path is a tenth slower without")]
    #[inline(always)]
    pub(crate) fn advance(&mut self, index: u32, next: State) -> &mut Slot<H> {
        self.generation += 1;
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.state.may_become(next), "{:?} may not become {next:?}", slot.state);
        self.counts[slot.state as usize] -= 1;
        self.counts[next as usize] += 1;
        slot.state = next;
        slot.generation = self.generation;
        slot
    }

    /// Takes a vacant slot into use, empty.
    pub(crate) fn occupy(&mut self, state: State) -> u32 {
        let index = if let Some(index) = self.vacant.pop() {
            index
        } else {
            self.slots.push(Slot {
                state: State::Vacant,
                generation: 0,
                address: 0,
                connection: None,
                key: Key::None,
                opener: None,
                reserved_in: 0,
                replaces: None,
                alias: None,
                since: Moment::START,
                health: Health::NONE,
                borrower: NO_CALLER,
                shared: false,
                note: None,
                overdue: false,
                in_transit: false,
            });
            self.counts[State::Vacant as usize] += 1;
            // More than four thousand million slots do not fit into memory.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        };
        let slot = self.advance(index, state);
        slot.health = Health { opened_in: slot.generation, ..Health::NONE };
        index
    }

    /// Empties a slot and gives what it held.
    #[must_use = "handles are dropped after the unlock, not here"]
    pub(crate) fn vacate(&mut self, index: u32) -> Displaced<H> {
        let key = self.unfile(index);
        let connection = self.detach(index);
        self.clear_opener(index);
        let slot = self.advance(index, State::Vacant);
        slot.replaces = None;
        slot.overdue = false;
        let note = slot.note.take();
        self.vacant.push(index);
        Displaced { connection, key, note }
    }

    /// Puts a connection into a slot that has none.
    pub(crate) fn attach(&mut self, index: u32, address: usize, connection: Arc<H>) {
        let alias = self.by_address.insert(address, index);
        self.aliases += usize::from(alias.is_some());
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.connection.is_none(), "a slot holds one connection");
        slot.address = address;
        slot.connection = Some(connection);
        slot.alias = alias;
    }

    /// Files a slot that has no key under `key`, with a new generation: a caller that has compared all keys up to the last
    /// generation has not compared this one.
    pub(crate) fn file(&mut self, index: u32, key: Key<H>) {
        if let Key::User(key) = &key {
            self.by_hash.insert((key.hash, index));
        }
        self.generation += 1;
        let generation = self.generation;
        let slot = &mut self.slots[index as usize];
        debug_assert!(matches!(slot.key, Key::None), "a slot has one key");
        slot.key = key;
        slot.generation = generation;
        slot.shared = false;
    }

    /// Takes a slot's key away and gives it back.
    #[must_use = "handles are dropped after the unlock, not here"]
    pub(crate) fn unfile(&mut self, index: u32) -> Key<H> {
        let key = std::mem::replace(&mut self.slots[index as usize].key, Key::None);
        if let Key::User(key) = &key {
            self.by_hash.remove(&(key.hash, index));
        }
        key
    }

    /// Notes which caller opens the slot, and that its reservation names it by its present generation.
    pub(crate) fn set_opener(&mut self, index: u32, opener: Caller) {
        let slot = &mut self.slots[index as usize];
        slot.opener = Some(opener);
        slot.reserved_in = slot.generation;
    }

    /// Notes that the opener has finished with the slot.
    pub(crate) fn clear_opener(&mut self, index: u32) {
        self.slots[index as usize].opener = None;
    }

    /// Finds the slot that a reservation was made for, whether it is still empty or has been filled since.
    pub(crate) fn reserved(&self, id: SlotId) -> Option<u32> {
        let slot = self.slots.get(id.index as usize)?;
        let reserved = slot.opener.is_some() && slot.reserved_in == id.generation;
        if reserved { Some(id.index) } else { self.find(id).filter(|_| slot.state == State::Opening) }
    }

    /// Takes the connection out of its slot, to make room for another.
    #[must_use = "handles are dropped after the unlock, not here"]
    pub(crate) fn detach(&mut self, index: u32) -> Option<Arc<H>> {
        let connection = self.slots[index as usize].connection.take();
        if connection.is_some() {
            self.unlink(index);
        }
        connection
    }

    pub(crate) fn set_replaces(&mut self, index: u32, replaces: Option<SlotId>) {
        self.slots[index as usize].replaces = replaces;
    }

    /// Takes a slot out of its chain of aliases.
    fn unlink(&mut self, index: u32) {
        let Slot { address, alias, .. } = self.slots[index as usize];
        let chain = self.at(address).count();
        self.aliases -= usize::from(chain > 1);
        self.slots[index as usize].alias = None;
        let before = self.at(address).find(|&other| self.get(other).alias == Some(index));
        match (before, alias) {
            (Some(before), _) => self.slots[before as usize].alias = alias,
            (None, Some(alias)) => drop(self.by_address.insert(address, alias)),
            (None, None) => drop(self.by_address.remove(&address)),
        }
    }

    /// Visits every handle.
    pub(crate) fn for_each_handle(&self, mut visit: impl FnMut(&H)) {
        for slot in &self.slots {
            if let Some(connection) = &slot.connection {
                visit(connection);
            }
            if let Key::User(key) = &slot.key {
                visit(&key.handle);
            }
            if let Some(note) = &slot.note {
                visit(note);
            }
        }
    }
}

/// Spreads the bits of an address. Users do not choose addresses, so nothing stronger is needed.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(usize::from(byte));
        }
    }

    #[inline]
    fn write_usize(&mut self, address: usize) {
        // 2^64 divided by the golden ratio; the rotation brings the well mixed bits to where the map looks.
        self.0 = (self.0 ^ address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
