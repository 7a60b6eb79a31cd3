//! What is claimed, in every schedule.

use super::acts::{Act, Start};
use super::caller::{Caller, Patience};
use super::combinations::{combinations, prove};
use super::explorer::{Explored, Profile, note};
use super::world::World;

/// How far three threads are explored. `PGPOOL_PROFILE=nightly` takes minutes.
pub(super) fn profile() -> Profile {
    match std::env::var("PGPOOL_PROFILE").as_deref() {
        Ok("nightly") => Profile::NIGHTLY,
        _ => Profile::QUICK,
    }
}

/// Proves each of these combinations, and tells how much that was.
pub(super) fn prove_all(what: &str, combinations: &[Vec<Act>], starts: &[Start], profile: Profile) -> Explored {
    let mut sum = Explored::default();
    let mut whole = 0;
    for acts in combinations {
        let explored = prove(acts, starts, profile);
        whole += usize::from(!explored.more);
        sum.add(explored);
    }
    println!("{} {what}, {whole} of them exhaustive, in all: {}", combinations.len(), sum.told(profile));
    sum
}

#[test]
fn no_two_calls_at_once_lose_a_slot_or_a_waiter_in_any_schedule() {
    let pairs = combinations(Act::UNSHARED, 2);
    assert_eq!(pairs.len(), 45);
    let explored = prove_all("pairs", &pairs, &Start::ALL, Profile::EXHAUSTIVE);
    assert!(!explored.more);
}

#[test]
fn no_three_calls_at_once_lose_a_slot_or_a_waiter_in_a_schedule_explored() {
    let triples = combinations(Act::UNSHARED, 3);
    assert_eq!(triples.len(), 165);
    prove_all("triples", &triples, &Start::ALL, profile());
}

/// Explores a scenario of its own: in all its schedules, unless there are very many.
pub(super) fn claim(claim: &str, scenario: impl Fn() + Clone + Send + Sync + 'static) {
    let profile = match profile() {
        Profile::QUICK => Profile { schedules: 10_000, ..Profile::QUICK },
        nightly => Profile { schedules: 1_000_000, ..nightly },
    };
    let explored = profile.explore(claim, scenario);
    println!("{claim}: {}", explored.told(profile));
}

/// Makes a pool that keeps nothing except for waiters, to be filled.
fn full(limit: usize) -> World {
    World::new(0, limit)
}

/// Borrows before the threads start.
fn lender(world: &World, thread: usize) -> (Caller<'_>, u32) {
    let mut caller = Caller::new(world, thread);
    let name = caller.borrow(Patience::Endless).expect("there is room");
    (caller, name)
}

/// Joins the queue before the threads start.
pub(super) fn waiter(world: &World, thread: usize) -> Caller<'_> {
    let mut caller = Caller::new(world, thread);
    caller.join();
    caller
}

/// Waits until it is served, and gives back.
pub(super) fn be_served(mut caller: Caller<'_>) {
    let name = caller.wait(Patience::Endless).expect("it waits until it is served");
    caller.give_back(name, false);
}

/// Lets one thread act, and others wait until they are served.
fn all_are_served<'w>(act: impl FnOnce() + Send + 'w, waiters: [Caller<'w>; 2]) {
    shuttle::thread::scope(|scope| {
        scope.spawn(act);
        for caller in waiters {
            scope.spawn(move || be_served(caller));
        }
    });
}

/// Waits, and maybe in vain. What it got, it gives back.
pub(super) fn try_to_be_served(mut caller: Caller<'_>, patience: Patience) {
    if let Some(name) = caller.wait(patience) {
        caller.give_back(name, false);
    }
}

#[test]
fn two_callers_of_one_key_open_one_connection() {
    claim("two callers of one key open one connection", || {
        let world = World::new(0, 2);
        shuttle::thread::scope(|scope| {
            for thread in [1, 2] {
                let mut caller = Caller::by_key(&world, thread);
                let world = &world;
                scope.spawn(move || {
                    assert_eq!(caller.borrow(Patience::Endless), Some(1));
                    // The second gives back, when both have had it.
                    if world.model.state().sharers() == 2 {
                        caller.give_back(1, false);
                    }
                });
            }
        });
        assert_eq!(world.model.state().opened(), 1);
        world.end();
    });
}

#[test]
fn waiters_are_served_in_their_order_whichever_caller_gives_back() {
    claim("waiters are served in their order, whichever caller gives back", || {
        let world = full(2);
        let lenders = [1, 2].map(|thread| lender(&world, thread));
        let waiters = [3, 4].map(|thread| waiter(&world, thread));
        let give_back = move || {
            for (mut caller, name) in lenders {
                caller.give_back(name, false);
            }
        };
        all_are_served(give_back, waiters);
        world.end();
    });
}

#[test]
fn a_promise_to_a_waiter_that_leaves_goes_to_the_next() {
    for (patience, how) in [(Patience::Timeout, "whose time is up"), (Patience::Interrupt, "that is interrupted")] {
        claim(&format!("a promise to a waiter {how} goes to the next"), move || {
            let world = full(1);
            world.model.state().careless = true;
            let (mut caller, name) = lender(&world, 1);
            let (leaves, stays) = (waiter(&world, 2), waiter(&world, 3));
            shuttle::thread::scope(|scope| {
                scope.spawn(move || caller.give_back(name, false));
                scope.spawn(move || try_to_be_served(leaves, patience));
                scope.spawn(move || be_served(stays));
            });
            world.end();
        });
    }
}

#[test]
fn a_newcomer_never_overtakes_a_waiter() {
    claim("a newcomer never overtakes a waiter", || {
        let world = full(1);
        let (mut caller, name) = lender(&world, 1);
        let (waits, mut comes) = (waiter(&world, 2), Caller::new(&world, 3));
        shuttle::thread::scope(|scope| {
            scope.spawn(move || caller.give_back(name, false));
            scope.spawn(move || be_served(waits));
            scope.spawn(move || {
                if let Some(name) = comes.borrow(Patience::Timeout) {
                    comes.give_back(name, false);
                }
            });
        });
        world.end();
    });
}

#[test]
fn a_gentle_close_is_woken_by_the_last_return() {
    claim("a gentle close is woken by the last return, and the waiter is told", || {
        let world = full(2);
        let lenders = [1, 2].map(|thread| lender(&world, thread));
        let waits = waiter(&world, 3);
        shuttle::thread::scope(|scope| {
            for (mut caller, name) in lenders {
                scope.spawn(move || caller.give_back(name, false));
            }
            scope.spawn(move || try_to_be_served(waits, Patience::Endless));
            scope.spawn(|| world.close_gently(4));
        });
        world.end();
    });
}

#[test]
fn a_gentle_close_waits_for_connects() {
    claim("a gentle close waits for those that connect", || {
        let world = World::new(1, 3);
        let mut opens = Caller::new(&world, 1);
        let mut fails = Caller::new(&world, 2);
        let (room, other) = (world.reserve(1, opens.want()), world.reserve(2, fails.want()));
        let mut comes = Caller::new(&world, 3);
        shuttle::thread::scope(|scope| {
            let world = &world;
            scope.spawn(move || {
                let name = world.connect();
                if let Some(name) = opens.fulfil(room, name) {
                    opens.give_back(name, false);
                }
            });
            scope.spawn(move || fails.fail(other));
            scope.spawn(move || {
                if let Some(name) = comes.borrow(Patience::Endless) {
                    comes.give_back(name, false);
                }
            });
            scope.spawn(|| world.close_gently(4));
        });
        world.end();
    });
}

#[test]
fn a_failed_connect_lets_the_first_waiter_try() {
    claim("a failed connect lets the first waiter try", || {
        let world = full(1);
        let mut fails = Caller::new(&world, 1);
        let room = world.reserve(1, fails.want());
        let waiters = [2, 3].map(|thread| waiter(&world, thread));
        all_are_served(move || fails.fail(room), waiters);
        world.end();
    });
}

#[test]
fn a_waiter_for_a_key_has_its_place_in_the_queue_when_the_connect_fails() {
    claim("a waiter for a key has its place in the queue when the connect fails", || {
        let world = full(1);
        let mut fails = Caller::by_key(&world, 1);
        let room = world.reserve(1, fails.want());
        let mut first = Caller::by_key(&world, 2);
        first.join();
        let second = waiter(&world, 3);
        all_are_served(move || fails.fail(room), [first, second]);
        assert_eq!(world.model.state().granted[1], 2, "it came before the other");
        world.end();
    });
}

#[test]
fn an_interrupted_connect_gives_its_room_to_the_first_waiter() {
    claim("an interrupted connect gives its room to the first waiter", || {
        let world = full(1);
        let interrupted = Caller::new(&world, 1);
        let room = world.reserve(1, interrupted.want());
        let waiters = [2, 3].map(|thread| waiter(&world, thread));
        let interrupt = move || {
            note(1, "is interrupted while it connects");
            drop((room, interrupted));
        };
        all_are_served(interrupt, waiters);
        world.end();
    });
}

#[test]
fn a_close_during_a_connect_leaves_nothing_open_and_no_caller_waiting() {
    claim("a close during a connect leaves nothing open and no caller waiting", || {
        let world = full(1);
        let mut opens = Caller::new(&world, 1);
        let room = world.reserve(1, opens.want());
        let waiters = [2, 3].map(|thread| waiter(&world, thread));
        shuttle::thread::scope(|scope| {
            let world = &world;
            scope.spawn(move || {
                let name = world.connect();
                if let Some(name) = opens.fulfil(room, name) {
                    opens.give_back(name, false);
                }
            });
            scope.spawn(move || world.close(4));
            for caller in waiters {
                scope.spawn(move || try_to_be_served(caller, Patience::Endless));
            }
        });
        world.end();
    });
}

#[test]
fn a_lowered_limit_is_never_passed_again() {
    claim("a lowered limit is never passed again", || {
        let world = full(2);
        let lenders = [1, 2].map(|thread| lender(&world, thread));
        let waits = waiter(&world, 3);
        shuttle::thread::scope(|scope| {
            let world = &world;
            for (mut caller, name) in lenders {
                scope.spawn(move || caller.give_back(name, false));
            }
            scope.spawn(move || be_served(waits));
            scope.spawn(move || world.resize(4, 1));
        });
        world.end();
    });
}

#[test]
fn a_raised_limit_serves_the_waiters() {
    claim("a raised limit serves the waiters", || {
        let world = full(1);
        let (mut caller, name) = lender(&world, 1);
        let waiters = [2, 3].map(|thread| waiter(&world, thread));
        shuttle::thread::scope(|scope| {
            let world = &world;
            for caller in waiters {
                scope.spawn(move || be_served(caller));
            }
            scope.spawn(move || world.resize(4, 3));
        });
        // No caller has given back: what the waiters got is new.
        caller.give_back(name, false);
        drop(caller);
        world.end();
    });
}
