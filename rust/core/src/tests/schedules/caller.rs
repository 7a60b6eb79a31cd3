//! A caller of the pool, step by step, as the binding is one; and how its wait may end.

use std::sync::Arc;

use super::explorer::note;
use super::things::{Parker, Thing};
use super::world::{NOW, World};
use crate::{
    Ask, Busy, CheckOut, ConnectError, LoanKey, Rank, Refusal, Reservation, Seek, Unanswered, UserKey, Waiter, Want,
};

/// When a caller stops waiting. Whatever it says, that is at a moment of the model checker's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// When it has been served.
    Endless,
    /// When its time is up: it asks once more, and leaves.
    Timeout,
    /// When it is interrupted: it drops whatever it has.
    Interrupt,
}

/// What the pool answered.
enum Answer<'w> {
    Lent(u32),
    Room(Reservation<'w, Thing, Parker>),
    Seek(Seek<'w, Thing, Parker>),
    Wait,
    Closed,
}

/// A thread that wants a connection.
pub(super) struct Caller<'w> {
    world: &'w World,
    thread: usize,
    want: Want<Thing>,
    parker: Parker,
    place: Option<Waiter<'w, Thing, Parker>>,
}

impl<'w> Caller<'w> {
    /// Makes a caller that wants a connection of its own.
    pub(super) fn new(world: &'w World, thread: usize) -> Self {
        let want = Want::Any(world.ledger.next_number(), thread as u64);
        Self { world, thread, want, parker: world.parker(thread), place: None }
    }

    /// Makes a caller that wants the connection that is filed under the one key that there is.
    pub(super) fn by_key(world: &'w World, thread: usize) -> Self {
        let key = UserKey { hash: 7, address: (1 << 32) + thread, handle: world.thing(0) };
        let want = Want::Key(Ask::new(key, thread as u64));
        Self { world, thread, want, parker: world.parker(thread), place: None }
    }

    pub(super) fn want(&self) -> &Want<Thing> {
        &self.want
    }

    pub(super) fn thread(&self) -> usize {
        self.thread
    }

    fn keyed(&self) -> bool {
        matches!(self.want, Want::Key(_))
    }

    /// Does what getconn does.
    pub(super) fn borrow(&mut self, patience: Patience) -> Option<u32> {
        if let Some(name) = self.lend_idle() {
            return Some(name);
        }
        let answer = self.ask(true);
        self.go_on(answer, patience)
    }

    /// Joins the queue, which is all that getconn does in a full pool before it waits.
    pub(super) fn join(&mut self) {
        assert!(matches!(self.ask(true), Answer::Wait), "the pool is not full");
    }

    /// Does what getconn does once it has joined the queue.
    pub(super) fn wait(&mut self, patience: Patience) -> Option<u32> {
        self.go_on(Answer::Wait, patience)
    }

    fn go_on(&mut self, answer: Answer<'w>, patience: Patience) -> Option<u32> {
        let got = self.until_served(answer, patience);
        // A waiter that was served is forgotten; one that was not gives up its place.
        if let Some(place) = self.place.take() {
            self.world.model.state().leave(self.thread);
            self.give_up(place);
        }
        got
    }

    fn until_served(&mut self, mut answer: Answer<'w>, patience: Patience) -> Option<u32> {
        let mut expired = false;
        loop {
            match answer {
                Answer::Lent(name) => return Some(name),
                Answer::Room(room) if patience == Patience::Interrupt => {
                    note(self.thread, "is interrupted before it connects");
                    drop(room);
                    self.world.model.state().give_up_room(self.thread);
                    self.world.look();
                    return None;
                }
                Answer::Room(room) => {
                    let name = self.world.connect();
                    return self.fulfil(room, name);
                }
                Answer::Seek(seek) if patience == Patience::Interrupt => {
                    note(self.thread, "is interrupted while it seeks");
                    drop(seek);
                    self.world.look();
                    return None;
                }
                Answer::Seek(seek) => {
                    answer = self.seek(seek, !expired);
                    continue;
                }
                Answer::Closed => return None,
                Answer::Wait if expired => return None,
                Answer::Wait => match patience {
                    Patience::Endless => self.parker.park(),
                    Patience::Timeout => expired = true,
                    Patience::Interrupt => {
                        note(self.thread, "is interrupted while it waits");
                        self.world.model.state().leave(self.thread);
                        drop(self.place.take());
                        self.world.look();
                        return None;
                    }
                },
            }
            answer = self.ask(!expired);
        }
    }

    /// Does what getconn does first.
    fn lend_idle(&self) -> Option<u32> {
        let (ledger, caller) = (&self.world.ledger, self.thread as u64);
        let lent = match &self.want {
            Want::Key(ask) => {
                let UserKey { hash, address, handle } = ask.key();
                let key = UserKey { hash: *hash, address: *address, handle: Arc::clone(handle) };
                ledger.lend_idle_as(Rank::Normal, Some(key), caller, NOW)?.1
            }
            _ => ledger.lend_idle(caller, NOW)?.1,
        };
        let name = lent.name;
        let mut state = self.world.model.state();
        state.served_at_once(self.thread);
        state.hold(self.thread, name, self.keyed());
        drop(state);
        self.world.look();
        Some(name)
    }

    fn ask(&mut self, willing: bool) -> Answer<'w> {
        let answer = loop {
            let waker = willing.then(|| self.parker.clone());
            match self.world.ledger.check_out(&self.want, self.place.as_ref(), waker, NOW) {
                Err(Unanswered::Compare(candidates)) => self.compare(&candidates),
                answer => break answer,
            }
        };
        self.answered(answer, false)
    }

    /// Asks the grantor, and then again.
    fn seek(&mut self, seek: Seek<'w, Thing, Parker>, willing: bool) -> Answer<'w> {
        let granted = self.world.take_place();
        note(self.thread, if granted { "seeks and is granted" } else { "seeks and is refused" });
        let waker = willing.then(|| self.parker.clone());
        match seek.check_out_as(granted, Rank::Normal, &self.want, self.place.as_ref(), waker, NOW) {
            Err(Unanswered::Compare(candidates)) => {
                self.compare(&candidates);
                self.ask(willing)
            }
            answer => self.answered(answer, true),
        }
    }

    /// Notes the pool's answer. A caller that has sought came before the waiters.
    fn answered(
        &mut self,
        answer: Result<CheckOut<'w, Thing, Parker>, Unanswered<Thing>>,
        has_sought: bool,
    ) -> Answer<'w> {
        let (world, thread, keyed) = (self.world, self.thread, self.keyed());
        let first = self.place.is_none() && !has_sought;
        let answer = match answer {
            Ok(CheckOut::Lent(connection)) => {
                let mut state = world.model.state();
                if first && !keyed {
                    state.served_at_once(thread);
                }
                state.hold(thread, connection.name, keyed);
                Answer::Lent(connection.name)
            }
            Ok(CheckOut::Reserved(room)) => {
                let mut state = world.model.state();
                if first {
                    state.served_at_once(thread);
                }
                state.grant(thread, keyed);
                Answer::Room(room)
            }
            Ok(CheckOut::Busy(busy, joined)) => {
                note(thread, if busy == Busy::KeyOpening { "waits for the key" } else { "waits for room" });
                self.joined(busy, joined);
                Answer::Wait
            }
            Err(Unanswered::Refused(Refusal::Closed)) => {
                assert!(world.model.state().closed, "an open pool says that it is closed");
                Answer::Closed
            }
            Err(Unanswered::Refused(refusal)) => panic!("{refusal}"),
            Ok(CheckOut::Seek(seek)) => {
                world.model.state().served_at_once(thread);
                Answer::Seek(seek)
            }
            Ok(CheckOut::ConnectFailed(_)) => Answer::Closed,
            Ok(CheckOut::Check(_) | CheckOut::FinishReturn(_) | CheckOut::AskAgain) | Err(Unanswered::Compare(_)) => {
                panic!("there is no such thing here")
            }
        };
        world.look();
        answer
    }

    fn joined(&mut self, busy: Busy, joined: Option<Waiter<'w, Thing, Parker>>) {
        let Some(joined) = joined else { return };
        if busy != Busy::KeyOpening && !self.keyed() {
            self.world.model.state().join(self.thread);
        }
        self.world.look();
        if let Some(before) = self.place.replace(joined) {
            self.give_up(before);
        }
    }

    /// Compares keys: there is only one.
    fn compare(&mut self, candidates: &crate::Candidates<Thing>) {
        let Want::Key(ask) = &mut self.want else { panic!("only keys are compared") };
        ask.matched(&candidates.list[0]);
    }

    fn give_up(&self, place: Waiter<'w, Thing, Parker>) {
        if let Some(surplus) = place.leave() {
            note(self.thread, "leaves and closes what it was promised");
            self.world.look();
            self.world.discard(surplus);
        }
    }

    /// Puts a connection into the room that was reserved for it.
    pub(super) fn fulfil(&mut self, room: Reservation<'w, Thing, Parker>, name: u32) -> Option<u32> {
        let thing = self.world.thing(name);
        let filled = self.world.ledger.fulfil(room.slot(), name as usize, &thing, NOW);
        match filled {
            Ok(()) => self.world.model.state().hold(self.thread, name, self.keyed()),
            Err(refusal) => {
                note(self.thread, "is refused, and closes its connection");
                let mut state = self.world.model.state();
                assert_eq!((refusal, state.closed), (Refusal::Closed, true), "only a closed pool refuses a connection");
                state.disconnect(name);
                state.give_up_room(self.thread);
            }
        }
        self.world.look();
        drop(room);
        self.world.look();
        filled.is_ok().then_some(name)
    }

    /// Gives up the room that was reserved, since the connect has failed.
    pub(super) fn fail(&mut self, room: Reservation<'w, Thing, Parker>) {
        note(self.thread, "fails to connect");
        // It takes two steps, and others may have the key after the first.
        self.world.model.state().give_up_room(self.thread);
        let filed = room.fail(ConnectError { text: "no".to_owned(), at: NOW }, Some(self.world.thing(0)));
        assert!(filed.is_none(), "nothing was filed");
        self.world.look();
    }

    /// Does what putconn does first.
    fn take_back_clean(&self, name: u32) -> bool {
        let ledger = &self.world.ledger;
        if !self.keyed() {
            return ledger.take_back_clean(name as usize, NOW);
        }
        match ledger.loan_at(name as usize) {
            Some((loan, LoanKey::User(_))) => ledger.take_back_any_clean(loan, None, NOW).is_some(),
            _ => false,
        }
    }

    /// Does what putconn does.
    pub(super) fn give_back(&mut self, name: u32, close: bool) {
        let world = self.world;
        if !close && self.take_back_clean(name) {
            note(self.thread, "gives its connection back");
            world.model.state().give_back(name);
            world.look();
            return;
        }
        let begun = loop {
            let filed = self.keyed().then_some(&self.want);
            match world.ledger.begin_return(Some(name as usize), filed, close, NOW) {
                Err(Unanswered::Compare(candidates)) => self.compare(&candidates),
                Err(Unanswered::Refused(refusal)) => break Err(refusal),
                Ok(returning) => break Ok(returning),
            }
        };
        match begun {
            Ok(mut returning) => {
                note(self.thread, "begins to give its connection back");
                world.model.state().give_back(name);
                world.look();
                if returning.closing().is_none() && returning.keep(NOW) {
                    note(self.thread, "has given its connection back");
                    world.look();
                    drop(returning);
                    world.look();
                } else {
                    note(self.thread, "closes its connection");
                    world.discard(returning);
                }
            }
            Err(refusal) => {
                note(self.thread, "may not give its connection back");
                let mut state = world.model.state();
                // With one key, one of them gives it back, and the others are told that it is not theirs any more.
                assert!(!state.gently, "a return to a gently closed pool is refused: {refusal}");
                let expected = if state.closed { refusal == Refusal::Closed } else { !state.holds(self.thread) };
                assert!(expected, "{refusal}");
                if state.closed {
                    state.give_back(name);
                }
            }
        }
    }
}
