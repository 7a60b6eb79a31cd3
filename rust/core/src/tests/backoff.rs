//! Connects that are held back once one has failed: one thing that can go wrong a test.

use std::num::NonZeroUsize;

use super::props::{Queued, TestWaker, Thing, World, connect_error, counts, seconds, show};
use crate::{Busy, CheckOut, Chore, ConnectError, ConnectFailure, Policy, Reservation, Reserve};

/// A pool that waits for 1 s after a failed connect, and for 4 s at most.
fn world(minconn: usize, maxconn: usize) -> World {
    let reconnect_backoff = Some((seconds(1.0), seconds(4.0)));
    World::with(minconn, maxconn, Policy { reconnect_backoff, has_housekeeper: true, ..Policy::default() })
}

/// A connect fails, as the server cannot be reached.
fn fail(world: &World, reservation: Reservation<'_, Thing, TestWaker>) {
    // Tell the time.
    world.ledger.may_open(world.now());
    assert!(reservation.fail(connect_error("no"), Some(world.thing(50))).is_none());
}

/// What a caller is told that does not wait: in how many seconds it may try, if it is the first.
fn held_back(world: &World) -> f64 {
    match world.check_out(&world.any()) {
        Ok(CheckOut::Busy(Busy::BackingOff { next_try, .. }, None)) => next_try.since(world.now()).as_secs_f64(),
        other => panic!("it is not held back: {}", show(&other)),
    }
}

fn join(world: &World) -> Queued<'_> {
    let waker = world.waker();
    match world.ledger.check_out(&world.any(), None, Some(waker), world.now()) {
        Ok(CheckOut::Busy(Busy::BackingOff { next_try, .. }, Some(place))) => {
            drop(place);
            world.queue(world.any(), &[Busy::BackingOff { next_try, comes: false }])
        }
        other => panic!("it is not held back: {}", show(&other)),
    }
}

fn may_connect<'w>(waiter: &mut Queued<'w>) -> Reservation<'w, Thing, TestWaker> {
    match waiter.wait_on() {
        Ok(CheckOut::Reserved(reservation)) => reservation,
        other => panic!("it may not connect: {}", show(&other)),
    }
}

#[test]
fn the_pause_doubles_from_the_shortest_to_the_longest_less_up_to_a_tenth() {
    let world = world(0, 9);
    for longest in [1.0, 2.0, 4.0, 4.0] {
        fail(&world, world.reserve());
        let pause = held_back(&world);
        assert!(pause <= longest && pause >= longest * 0.9, "{pause} of {longest}");
        world.pass(pause);
    }
}

#[test]
fn a_caller_wakes_no_waiter_that_would_be_told_to_ask_never() {
    let reconnect_backoff = Some((seconds(1e300), seconds(1e300)));
    let world = World::with(0, 3, Policy { reconnect_backoff, ..Policy::default() });
    fail(&world, world.reserve());
    assert_eq!(join(&world).wakes(), 0);
}

#[test]
fn one_caller_at_a_time_connects_after_a_failure_and_each_success_lets_one_more_begin() {
    let world = world(0, 99);
    fail(&world, world.reserve());
    world.pass(1.0);
    let mut name = 0;
    for at_once in [1, 2, 4, 8] {
        let opening: Vec<_> = (0..at_once).map(|_| world.reserve()).collect();
        held_back(&world);
        for reservation in opening {
            name += 1;
            world.fill(reservation, name);
        }
    }
}

#[test]
fn connects_that_had_begun_before_the_failure_lengthen_no_pause() {
    let world = world(0, 9);
    let opening: Vec<_> = (0..5).map(|_| world.reserve()).collect();
    for reservation in opening {
        fail(&world, reservation);
    }
    assert!(held_back(&world) <= 1.0);
}

#[test]
fn a_connect_that_fails_late_holds_nothing_back_once_another_has_succeeded() {
    let world = world(0, 9);
    let hangs = world.reserve();
    world.open([1]);
    fail(&world, hangs);
    drop(world.reserve());
    let (hangs, fails) = (world.reserve(), world.reserve());
    fail(&world, fails);
    world.pass(4.0);
    world.open([2]);
    fail(&world, hangs);
    drop(world.reserve());
}

#[test]
fn an_idle_connection_is_lent_all_the_while() {
    let world = world(1, 3).resting([1]);
    let opening = (world.borrow(), world.reserve()).1;
    assert!(world.give_back(1));
    fail(&world, opening);
    assert_eq!(world.borrow(), 1);
    held_back(&world);
    let mut waiter = join(&world);
    assert!(world.give_back(1));
    assert_eq!((waiter.wakes(), waiter.claim()), (1, 1));
}

#[test]
fn a_connect_that_hangs_holds_the_others_back_for_the_longest_pause_at_most() {
    let world = world(0, 9);
    fail(&world, world.reserve());
    world.pass(1.0);
    let hangs = world.reserve();
    assert!((held_back(&world) - 4.0).abs() < 1e-9);
    let mut waiter = join(&world);
    world.pass(4.0);
    let next = may_connect(&mut waiter);
    held_back(&world);
    world.fill(next, 1);
    drop(world.reserve());
    drop(hangs);
}

#[test]
fn the_first_waiter_is_told_when_to_ask_again_and_no_other_is_woken_for_that() {
    let world = world(0, 1);
    let opening = world.reserve();
    let mut waiters = [world.join(), world.join()];
    fail(&world, opening);
    assert_eq!(waiters.each_ref().map(Queued::wakes), [1, 0]);
    assert!(matches!(waiters[0].wait_on(), Ok(CheckOut::Busy(Busy::BackingOff { .. }, None))));
    assert!(matches!(waiters[1].wait_on(), Ok(CheckOut::Busy(Busy::BackingOff { next_try, .. }, None))
        if next_try == crate::Moment::NEVER));
    world.pass(1.0);
    let reservation = may_connect(&mut waiters[0]);
    fail(&world, reservation);
    assert_eq!(waiters.each_ref().map(Queued::wakes), [2, 1]);
}

#[test]
fn the_next_waiter_keeps_the_time_when_the_first_leaves_or_its_connect_is_interrupted() {
    let world = world(0, 9);
    fail(&world, world.reserve());
    let (first, mut second, third) = (join(&world), join(&world), join(&world));
    drop(first.leave());
    assert_eq!((second.wakes(), third.wakes()), (1, 0));
    world.pass(1.0);
    drop(may_connect(&mut second));
    assert_eq!(third.wakes(), 1, "it has the room");
    assert_eq!(counts(&world), (0, 0, 1, 0, 0));
}

#[test]
fn a_newcomer_does_not_overtake_the_waiter_whose_turn_it_is() {
    let world = world(0, 9);
    fail(&world, world.reserve());
    let mut waiter = join(&world);
    world.pass(1.0);
    held_back(&world);
    assert_eq!(waiter.wakes(), 1);
    drop(may_connect(&mut waiter));
}

#[test]
fn callers_that_find_their_connections_dead_connect_one_at_a_time_too() {
    let check_after = seconds(0.0);
    let reconnect_backoff = Some((seconds(1.0), seconds(4.0)));
    let world = World::with(2, 2, Policy { check_after, reconnect_backoff, ..Policy::default() }).resting([1, 2]);
    let (first, second) = (world.must_check(), world.must_check());
    let Ok(CheckOut::Reserved(reservation)) = first.next(crate::CloseReason::Lost, world.now()) else { panic!() };
    fail(&world, reservation);
    assert!(matches!(second.next(crate::CloseReason::Lost, world.now()), Ok(CheckOut::AskAgain)));
    held_back(&world);
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}

#[test]
fn the_housekeeper_opens_what_is_missing_only_when_it_may() {
    let world = world(2, 4);
    world.housekeeper();
    fail(&world, world.reserve());
    let due = world.rest();
    assert!(due > 0.8 && due <= 1.0, "{due}");
    world.pass(1.0);
    let refill = world.take_refill();
    assert!((held_back(&world) - 4.0).abs() < 1e-9, "the refill is the one that connects");
    let Ok(Reserve::New(reservation)) = world.ledger.reserve(None, 7) else { panic!() };
    held_back(&world);
    world.fill(reservation, 1);
    drop(refill);
    assert!(matches!(world.ledger.chore(7, true, world.now()), Chore::Open(_)));
}

#[test]
fn workers_connect_one_at_a_time_and_tell_one_waiter_that_they_have_failed() {
    let reconnect_backoff = Some((seconds(1.0), seconds(4.0)));
    let grow = NonZeroUsize::new(3);
    let world = World::with(0, 9, Policy { grow, reconnect_backoff, ..Policy::default() });
    let calls = world.waker();
    world.ledger.set_workers(calls.clone());
    let mut waiters = [(); 3].map(|()| world.queue(world.any(), &[Busy::InTransit]));
    assert_eq!(calls.wakes(), 3);
    let growths = [1, 2, 3].map(|worker| world.ledger.begin_growth(worker).expect("it was called"));
    for growth in growths {
        let end = growth.end(Some((world.thing(8), connect_error("no"), ConnectFailure::Outage)), world.now());
        assert!(end.next.is_none(), "connects are held back");
    }
    assert!(waiters.iter_mut().all(|waiter| matches!(waiter.ask_again(), Ok(CheckOut::ConnectFailed(_)))));
    let mut waiters = [join(&world), join(&world)];
    world.pass(1.0);
    assert!(waiters[0].wait_on().is_ok());
    assert_eq!(calls.wakes(), 4, "one worker is called");
    let growth = world.ledger.begin_growth(1).expect("it was called");
    drop(growth.end(Some((world.thing(8), connect_error("no"), ConnectFailure::Outage)), world.now()));
    assert!(matches!(waiters[0].wait_on(), Ok(CheckOut::ConnectFailed(_))));
    assert!(matches!(waiters[1].wait_on(), Ok(CheckOut::Busy(Busy::BackingOff { .. }, None))));
}

#[test]
fn a_pool_that_was_closed_or_belongs_to_a_child_begins_afresh() {
    let world = world(0, 2);
    fail(&world, world.reserve());
    let waiter = join(&world);
    world.ledger.set_closed(true);
    assert_eq!(waiter.wakes(), 1);
    world.ledger.set_closed(false);
    drop(waiter);
    let opening = world.reserve();
    fail(&world, opening);
    world.ledger.enter_process(5, 1);
    drop(world.reserve());
    assert!(world.ledger.last_failure().is_none());
}

/// A connect fails, as the server has too many connections. Says whether the caller may wait for one of this pool's.
fn is_left_to_loans(world: &World, reservation: Reservation<'_, Thing, TestWaker>) -> bool {
    let why = ConnectError { at: world.now(), ..connect_error("full") };
    reservation.leave_to_loans(why, world.thing(50)).is_ok()
}

#[test]
fn a_caller_waits_for_a_loan_of_this_pool_if_the_server_is_full_and_tries_again_after_a_short_pause() {
    let world = World::new(0, 3).lending([1, 2]);
    assert!(is_left_to_loans(&world, world.reserve()));
    let mut waiters = [join(&world), join(&world)];
    assert!(world.give_back(1));
    assert_eq!((waiters[0].wakes(), waiters[0].claim()), (1, 1));
    assert_eq!(waiters[1].wakes(), 1, "it is the first now, and is told when to try");
    assert!(matches!(waiters[1].wait_on(), Ok(CheckOut::Busy(Busy::BackingOff { .. }, None))));
    world.pass(0.25);
    drop(may_connect(&mut waiters[1]));
}

#[test]
fn a_full_server_is_an_error_if_no_connection_of_this_pool_may_come_back() {
    let world = World::new(1, 3).resting([1]);
    let lent = world.borrow();
    let opening = world.reserve();
    assert!(world.give_back(lent));
    assert!(!is_left_to_loans(&world, opening));
    assert_eq!(world.borrow(), lent);
    drop(world.reserve());
}

#[test]
fn a_full_server_holds_nobody_back_once_the_pause_is_over_and_nobody_waits() {
    let world = World::new(0, 9).lending([1]);
    assert!(is_left_to_loans(&world, world.reserve()));
    held_back(&world);
    world.pass(0.25);
    drop([world.reserve(), world.reserve()]);
    assert!(world.ledger.last_failure().is_none());
}
