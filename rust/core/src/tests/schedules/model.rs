//! What the tests know of the pool without asking it: which threads hold what, what is open, which threads wait.
//!
//! A thread notes what came of a step before another can take the mutex, so the model is exact at each moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::explorer::note;

/// The model, shared by the threads of one schedule. A note in it is no step: no other thread goes on meanwhile.
#[derive(Clone)]
pub(super) struct Model(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) limit: usize,
    /// The highest limit there was.
    pub(super) highest: usize,
    pub(super) closed: bool,
    /// Whether it was closed gently: every return is accepted.
    pub(super) gently: bool,
    /// How many slots were taken when a thread looked last.
    pub(super) taken: usize,
    /// Whether a connection may be closed by being dropped, as when its borrower is interrupted.
    pub(super) careless: bool,
    /// Each connection that was ever opened, and whether it is open.
    connections: BTreeMap<u32, bool>,
    /// Which thread holds which connection.
    holders: Vec<(usize, u32)>,
    /// The threads that wait for room, in the order in which they came.
    queue: Vec<usize>,
    /// The thread that opens the connection for the one key.
    key_opener: Option<usize>,
    key_holders: Vec<usize>,
    /// The threads that got room, in that order.
    pub(super) granted: Vec<usize>,
    /// Handles that have not been dropped.
    pub(super) handles: usize,
}

impl Model {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State { limit, highest: limit, ..State::default() })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a test that panics has failed")
    }
}

impl State {
    // --- the server --------------------------------------------------------------------------------------------

    /// Opens a connection.
    pub(super) fn connect(&mut self) -> u32 {
        let name = u32::try_from(self.connections.len()).expect("few") + 1;
        self.connections.insert(name, true);
        name
    }

    /// Closes a connection, which must not have been closed before.
    pub(super) fn disconnect(&mut self, name: u32) {
        let open = self.connections.insert(name, false);
        assert_eq!(open, Some(true), "connection {name} was closed twice");
    }

    /// Notes that the last handle of a connection is gone, which closes it unless a thread has.
    pub(super) fn collected(&mut self, name: u32) {
        if self.connections[&name] {
            assert!(self.careless, "connection {name} was dropped, not closed");
            self.disconnect(name);
        }
    }

    /// Names the connections that are open.
    pub(super) fn open(&self) -> Vec<u32> {
        self.connections.iter().filter_map(|(&name, &open)| open.then_some(name)).collect()
    }

    pub(super) fn opened(&self) -> usize {
        self.connections.len()
    }

    // --- which threads hold what ----------------------------------------------------------------------------------------

    /// Notes that a thread got a connection: no other has it, except those that asked for the same key.
    pub(super) fn hold(&mut self, thread: usize, name: u32, by_key: bool) {
        note(thread, "gets a connection");
        for &(other, held) in &self.holders {
            let shared = by_key && self.key_holders.contains(&other);
            assert_eq!(
                held == name,
                shared,
                "thread {thread} got {name}, thread {other} has {held}; one key: {shared}"
            );
        }
        assert!(self.closed || self.connections[&name], "connection {name} is lent and closed");
        self.holders.push((thread, name));
        if by_key {
            self.key_holders.push(thread);
            self.key_opener = self.key_opener.filter(|&opener| opener != thread);
        }
    }

    /// Notes that a connection went back, whichever threads held it.
    pub(super) fn give_back(&mut self, name: u32) {
        let gone = |&(thread, held): &(usize, u32)| (held == name).then_some(thread);
        let gone: Vec<_> = self.holders.iter().filter_map(gone).collect();
        self.holders.retain(|&(_, held)| held != name);
        self.key_holders.retain(|thread| !gone.contains(thread));
    }

    /// Says whether a thread still holds a connection: another with its key may have given it back.
    pub(super) fn holds(&self, thread: usize) -> bool {
        self.holders.iter().any(|&(holder, _)| holder == thread)
    }

    /// Counts the threads that hold the connection of the key.
    pub(super) fn sharers(&self) -> usize {
        self.key_holders.len()
    }

    /// Counts the connections that threads hold.
    pub(super) fn held(&self) -> usize {
        let mut names: Vec<_> = self.holders.iter().map(|&(_, name)| name).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    // --- waiting ---------------------------------------------------------------------------------------------

    /// Notes that a thread got a connection or room that it had not waited for: no other waits for it.
    pub(super) fn served_at_once(&self, thread: usize) {
        assert!(self.queue.is_empty(), "thread {thread} overtook {:?}, which wait", self.queue);
    }

    /// Notes that a thread has room to open a connection.
    pub(super) fn grant(&mut self, thread: usize, by_key: bool) {
        note(thread, "gets room");
        self.granted.push(thread);
        if by_key {
            let busy = self.key_opener.or(self.key_holders.first().copied());
            assert_eq!(busy, None, "the key is opened twice: by thread {thread}, and this one");
            self.key_opener = Some(thread);
        }
    }

    /// Notes that nothing came of the room that a thread had.
    pub(super) fn give_up_room(&mut self, thread: usize) {
        self.key_opener = self.key_opener.filter(|&opener| opener != thread);
    }

    /// Notes that a thread waits for room, after all others.
    pub(super) fn join(&mut self, thread: usize) {
        assert!(!self.queue.contains(&thread), "thread {thread} was woken for nothing");
        self.queue.push(thread);
    }

    /// Notes that a thread does not wait any more.
    pub(super) fn leave(&mut self, thread: usize) {
        self.queue.retain(|&waiter| waiter != thread);
    }

    /// Notes that a thread was woken: since it is its turn, or since the pool was closed.
    pub(super) fn woken(&mut self, thread: usize) {
        if let Some(turn) = self.queue.iter().position(|&waiter| waiter == thread) {
            assert!(self.closed || turn == 0, "thread {thread} was served before {:?}", &self.queue[..turn]);
            self.queue.remove(turn);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }
}
