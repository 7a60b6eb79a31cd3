//! What a thread does, in ten acts; a few of them at once; and the pool in which they start.

use super::caller::{Caller, Patience};
use super::limited::Places;
use super::things::{Parker, Thing};
use super::world::World;
use crate::{Policy, Reservation, Span};

/// What one thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Borrows a connection, waits for it if it must, and gives it back.
    CheckOut,
    /// Gives back a connection that it has had since before.
    Return,
    /// The same as a checkout, but its time may be up at any moment.
    Timeout,
    /// The same, but it may be interrupted at any moment.
    Interrupt,
    /// Closes the pool.
    Close,
    /// Borrows under the one key that there is, and gives back.
    SameKey,
    /// Sets another limit.
    Resize,
    /// Has had room since before; opens its connection, and gives it back.
    Fulfil,
    /// Has had room since before; its connect fails.
    Fail,
    /// Tells the pool that others wait for its room, and then that none do.
    Press,
}

impl Act {
    pub(super) const ALL: [Self; 10] = [
        Self::CheckOut,
        Self::Return,
        Self::Timeout,
        Self::Interrupt,
        Self::Close,
        Self::SameKey,
        Self::Resize,
        Self::Fulfil,
        Self::Fail,
        Self::Press,
    ];
    /// Those of a pool that shares no limit.
    pub(super) const UNSHARED: &[Self] = Self::ALL.split_at(9).0;

    /// Names one act and several, for the claims.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::CheckOut => ("a checkout", "checkouts"),
            Self::Return => ("a return", "returns"),
            Self::Timeout => ("a timeout", "timeouts"),
            Self::Interrupt => ("an interrupt", "interrupts"),
            Self::Close => ("a close", "closes"),
            Self::SameKey => ("a checkout by key", "checkouts by one key"),
            Self::Resize => ("a resize", "resizes"),
            Self::Fulfil => ("a connect", "connects"),
            Self::Press => ("a press", "presses"),
            Self::Fail => ("a failed connect", "failed connects"),
        }
    }

    /// Says whether its thread has a slot before it starts.
    fn has_slot(self) -> bool {
        matches!(self, Self::Return | Self::Fulfil | Self::Fail)
    }
}

/// What the threads find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// There is no room but theirs, one slot at least. The pool keeps what comes back.
    Kept,
    /// There is no room but theirs, one slot at least. The pool keeps what comes back only for waiters.
    Bare,
    /// Room for one more, with a connection in it. A limit that is set is lowered here, and raised elsewhere.
    Roomy,
    /// The pool shares a limit, which they have reached. The grantor has one place more, some time. The pool keeps what comes back.
    Limited,
    /// The same, but the grantor is dead, so that each caller gives up some time. The pool keeps only what a waiter wants.
    Orphaned,
}

impl Start {
    pub(super) const ALL: [Self; 3] = [Self::Kept, Self::Bare, Self::Roomy];
    pub(super) const LIMITED: [Self; 2] = [Self::Limited, Self::Orphaned];
}

/// What a thread has before it starts.
enum Has<'w> {
    Nothing,
    Connection(u32),
    Room(Reservation<'w, Thing, Parker>),
}

/// Lets each act run in a thread of its own, once, in the schedule that the model checker has chosen.
pub(super) fn play(acts: &[Act], start: Start) {
    let slots = acts.iter().filter(|act| act.has_slot()).count();
    let (minconn, limit) = match start {
        Start::Kept => (slots.max(1), slots.max(1)),
        Start::Bare => (0, slots.max(1)),
        Start::Roomy => (1, slots.max(1) + 1),
        Start::Limited | Start::Orphaned => (0, slots.max(1) + 1),
    };
    let mut world = World::new(minconn, limit);
    if Start::LIMITED.contains(&start) {
        world.limit(slots);
    }
    if start == Start::Limited {
        world.ledger.set_policy(Policy { max_idle: Span::from_millis(1), ..Policy::default() });
    }
    world.model.state().careless = acts.contains(&Act::Interrupt);
    let target = if start == Start::Roomy { limit - 1 } else { limit + 1 };
    let mut key_is_free = start == Start::Kept && acts.contains(&Act::SameKey);
    let mut ready = Vec::new();
    for (thread, &act) in (1..).zip(acts) {
        let by_key = act == Act::SameKey || act.has_slot() && std::mem::take(&mut key_is_free);
        let mut caller = if by_key { Caller::by_key(&world, thread) } else { Caller::new(&world, thread) };
        let has = prepare(&world, &mut caller, act, thread);
        ready.push((caller, act, has));
    }
    if start == Start::Roomy || start == Start::Kept && slots == 0 {
        world.open_idle();
    }
    shuttle::thread::scope(|scope| {
        let world = &world;
        let grantor = world.places.as_ref().filter(|_| start == Start::Limited);
        if let Some(places) = grantor {
            scope.spawn(|| places.serve(world));
        } else if let Some(places) = &world.places {
            places.die();
        }
        let callers: Vec<_> = ready
            .into_iter()
            .map(|(caller, act, has)| scope.spawn(move || perform(world, caller, act, has, target)))
            .collect();
        if let Some(places) = grantor {
            callers.into_iter().for_each(|caller| caller.join().expect("a test that panics has failed"));
            places.end();
        }
    });
    world.end();
}

fn prepare<'w>(world: &'w World, caller: &mut Caller<'w>, act: Act, thread: usize) -> Has<'w> {
    if !act.has_slot() {
        return Has::Nothing;
    }
    let room = world.reserve(thread, caller.want());
    if act != Act::Return {
        return Has::Room(room);
    }
    let name = world.connect();
    caller.fulfil(room, name).map_or(Has::Nothing, Has::Connection)
}

fn perform<'w>(world: &'w World, mut caller: Caller<'w>, act: Act, has: Has<'w>, target: usize) {
    let thread = caller.thread();
    let got = match (act, has) {
        (Act::Close, _) => return world.close(thread),
        (Act::Resize, _) => return world.resize(thread, target),
        (Act::Press, _) => return world.press(thread),
        (Act::Fail, Has::Room(room)) => return caller.fail(room),
        (Act::Fulfil, Has::Room(room)) => {
            let name = world.connect();
            caller.fulfil(room, name)
        }
        (_, Has::Connection(name)) => Some(name),
        (Act::Timeout, _) => caller.borrow(Patience::Timeout),
        (Act::Interrupt, _) => caller.borrow(Patience::Interrupt),
        _ if world.places.as_ref().is_some_and(Places::is_dead) => caller.borrow(Patience::Timeout),
        _ => caller.borrow(Patience::Endless),
    };
    if let Some(name) = got {
        caller.give_back(name, act == Act::Interrupt);
    }
}
