//! Growth by workers: one thing that can go wrong a test.

use std::num::NonZeroUsize;

use super::props::{Queued, TestWaker, Thing, World, by_key, connect_error, counts, must_reserve, show};
use crate::{Busy, CheckOut, CloseReason, ConnectFailure, Growth, Policy, Reserve, Span};

/// A pool with room, in which this many workers connect for the waiters; and what calls them.
fn growing(minconn: usize, maxconn: usize, workers: usize) -> (World, TestWaker) {
    let world = World::with(minconn, maxconn, Policy { grow: NonZeroUsize::new(workers), ..Policy::default() });
    let calls = world.waker();
    world.ledger.set_workers(calls.clone());
    (world, calls)
}

fn join(world: &World) -> Queued<'_> {
    world.queue(world.any(), &[Busy::InTransit])
}

fn come(world: &World, worker: u64) -> Growth<'_, Thing, TestWaker> {
    world.ledger.begin_growth(worker).expect("there is something to open")
}

/// The worker puts a connection into the pool, by `_connect()`.
fn connect(world: &World, worker: u64, name: u32) {
    let Ok(Reserve::Pending(slot)) = world.ledger.reserve(None, worker) else { panic!("it has a slot") };
    world.ledger.fulfil(slot, name as usize, &world.thing(name), world.now()).expect("the pool is open");
}

#[test]
fn as_many_workers_are_called_as_callers_wait_and_no_more_than_may_connect() {
    let (world, calls) = growing(0, 9, 2);
    assert_eq!((0..4).map(|_| (join(&world), calls.wakes()).1).collect::<Vec<_>>(), [1, 1, 1, 1]);
    let _waiters: Vec<_> = (0..4).map(|_| join(&world)).collect();
    assert_eq!(calls.wakes(), 2);
    let (first, second) = (come(&world, 1), come(&world, 2));
    assert!(world.ledger.begin_growth(3).is_none(), "it was not called");
    assert_eq!(counts(&world), (0, 0, 2, 0, 4));
    drop((first, second));
}

#[test]
fn a_waiter_gets_what_comes_back_before_the_connect_ends() {
    let (world, _calls) = growing(1, 2, 1);
    connect_first(&world, 1);
    let mut waiter = join(&world);
    let growth = come(&world, 5);
    assert!(world.give_back(1));
    assert_eq!((waiter.wakes(), waiter.claim()), (1, 1));
    connect(&world, 5, 2);
    let end = growth.end(None, world.now());
    assert!((end.surplus.is_none(), end.next.is_none()) == (true, true), "it is one of minconn");
    assert_eq!(world.idle(), [2]);
}

/// Lends a connection that a worker opens.
fn connect_first(world: &World, name: u32) {
    let mut waiter = join(world);
    let growth = come(world, 5);
    connect(world, 5, name);
    assert!(growth.end(None, world.now()).next.is_none());
    assert_eq!((waiter.wakes(), waiter.claim()), (1, name));
}

#[test]
fn a_connection_opened_in_vain_is_closed_if_the_pool_keeps_none_beyond_minconn() {
    let (world, _calls) = growing(0, 2, 1);
    connect_first(&world, 1);
    let mut waiter = join(&world);
    let growth = come(&world, 5);
    assert!(world.give_back(1));
    assert_eq!(waiter.claim(), 1);
    connect(&world, 5, 2);
    let surplus = growth.end(None, world.now()).surplus.expect("nobody waits for it");
    assert_eq!((surplus.connection().name, surplus.closing()), (2, Some(CloseReason::Surplus)));
    drop(surplus);
    assert_eq!(counts(&world), (0, 1, 0, 0, 0));
}

#[test]
fn one_worker_opens_one_connection_after_the_other_in_the_order_of_the_waiters() {
    let (world, calls) = growing(0, 3, 1);
    let mut waiters = [join(&world), join(&world), join(&world)];
    let mut growth = Some(come(&world, 5));
    for (name, waiter) in (1..).zip(&mut waiters) {
        connect(&world, 5, name);
        growth = growth.expect("callers wait").end(None, world.now()).next;
        assert_eq!(waiter.claim(), name);
    }
    assert!(growth.is_none(), "nobody waits any more");
    assert_eq!(calls.wakes(), 1);
}

#[test]
fn nothing_is_opened_that_nobody_waits_for_by_the_time() {
    let (world, _calls) = growing(0, 2, 1);
    drop(join(&world));
    assert!(world.ledger.begin_growth(5).is_none());
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}

#[test]
fn a_newcomer_does_not_overtake_a_waiter_for_a_worker() {
    let (world, _calls) = growing(0, 1, 1);
    let mut waiter = join(&world);
    assert!(world.is_full(), "the room is the waiter's");
    let growth = come(&world, 5);
    assert!(world.is_full());
    connect(&world, 5, 1);
    assert!(world.is_full());
    assert_eq!(waiter.claim(), 1);
    drop(growth.end(None, world.now()));
}

#[test]
fn a_caller_whose_key_a_waiter_ahead_wants_waits_for_what_that_one_gets() {
    let (world, _calls) = growing(0, 1, 1);
    let mut first = world.queue(world.ask(2, 1), &[Busy::InTransit]);
    assert!(world.is_full(), "what comes is not for others");
    let mut second = world.queue(world.ask(2, 2), &[Busy::InTransit]);
    let growth = come(&world, 5);
    connect(&world, 5, 1);
    assert!(growth.end(None, world.now()).next.is_none());
    assert_eq!((first.claim(), second.wakes(), second.claim()), (1, 1, 1));
}

#[test]
fn a_caller_whose_key_a_waiter_ahead_wants_is_refused_if_that_one_waits_for_a_loan() {
    let (world, _calls) = growing(0, 1, 1);
    connect_first(&world, 1);
    let _waits = world.join_for(2, 1);
    assert_eq!(show(&by_key(&world, 2, 2)), "Full, waiting: false");
    drop(world.ledger.set_maxconn(2));
    assert_eq!(show(&by_key(&world, 2, 2)), "InTransit, waiting: false", "it waits for a worker now");
    let _second = world.join_for(3, 3);
    let shown = [3, 4].map(|caller| show(&by_key(&world, 3, caller)));
    assert_eq!(shown, ["Full, waiting: false"; 2], "nothing comes for a second");
}

#[test]
fn a_failed_connect_is_the_answer_to_all_that_waited_if_nothing_is_open() {
    let (world, calls) = growing(0, 4, 1);
    let mut waiters = [join(&world), join(&world)];
    let growth = come(&world, 5);
    let mut later = join(&world);
    let end = growth.end(Some((world.thing(8), connect_error("no"), ConnectFailure::Other)), world.now());
    assert!(end.told && end.next.is_some());
    for waiter in &mut waiters {
        assert_eq!((waiter.wakes(), show(&waiter.ask_again())), (1, "connect failed: 8".to_owned()));
    }
    assert_eq!((later.wakes(), calls.wakes()), (0, 1), "the next connect is for the one that came later");
    assert_eq!(world.ledger.connect_error().expect("there was one").text, "no");
    connect(&world, 5, 1);
    drop(end);
    assert_eq!(later.claim(), 1);
}

#[test]
fn a_failed_connect_is_the_answer_to_the_first_alone_if_a_connection_may_come_back() {
    let (world, _calls) = growing(1, 4, 1);
    connect_first(&world, 1);
    let (mut first, mut second) = (join(&world), join(&world));
    let failed = come(&world, 5).end(Some((world.thing(8), connect_error("no"), ConnectFailure::Other)), world.now());
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    assert_eq!(show(&first.ask_again()), "connect failed: 8");
    assert!(world.give_back(1));
    assert_eq!(second.claim(), 1);
    drop(failed);
    assert_eq!(counts(&world), (0, 1, 0, 0, 0));
}

#[test]
fn where_no_worker_comes_the_first_waiter_opens_its_connection_itself() {
    let (world, calls) = growing(0, 2, 1);
    calls.lose(true);
    let mut waiter = join(&world);
    assert_eq!((waiter.wakes(), show(&waiter.ask_again())), (1, "reserved".to_owned()));
    assert!(world.ledger.begin_growth(5).is_none(), "it comes too late");
}

#[test]
fn a_worker_that_dies_or_opens_nothing_lets_the_first_waiter_try() {
    let (world, _calls) = growing(0, 2, 1);
    let mut waiters = [join(&world), join(&world)];
    drop(come(&world, 5));
    let reservation = must_reserve(waiters[0].ask_again());
    drop(reservation.fail(connect_error("no"), None));
    assert!(come(&world, 5).end(None, world.now()).next.is_none());
    drop(must_reserve(waiters[1].ask_again()));
}

#[test]
fn a_worker_that_never_comes_is_replaced() {
    let (world, calls) = growing(0, 2, 1);
    let _first = join(&world);
    world.pass(2.0);
    let _second = join(&world);
    assert_eq!(calls.wakes(), 2);
    drop(come(&world, 5));
}

#[test]
fn a_worker_that_borrows_while_it_connects_does_not_wait_for_itself() {
    let (world, _calls) = growing(0, 2, 1);
    let _waiter = join(&world);
    let growth = come(&world, 5);
    let nested = world.check_out(&crate::Want::Any(world.ledger.next_number(), 5));
    assert!(matches!(nested, Ok(CheckOut::Reserved(_))), "{}", show(&nested));
    drop((nested, growth));
}

#[test]
fn a_refill_serves_a_waiter_and_no_worker_connects_beside_it() {
    let (world, calls) = growing(1, 2, 1);
    let refill = world.take_refill();
    let mut waiter = join(&world);
    assert_eq!(calls.wakes(), 0);
    world.open_idle(1);
    drop(refill);
    assert_eq!((waiter.claim(), calls.wakes()), (1, 0));
}

#[test]
fn a_dead_connection_is_replaced_by_a_worker_too() {
    let policy = Policy { check_after: Span::ZERO, grow: NonZeroUsize::new(1), ..Policy::default() };
    let world = World::with(1, 2, policy);
    world.ledger.set_workers(world.waker());
    world.open_idle(1);
    let Ok(next) = world.must_check().next(CloseReason::Lost, world.now()) else { panic!("the pool is open") };
    assert!(matches!(next, CheckOut::AskAgain));
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}

#[test]
fn a_pool_that_closes_or_is_made_anew_needs_no_worker() {
    let (world, _calls) = growing(0, 2, 2);
    let (waiter, other) = (join(&world), join(&world));
    let growth = come(&world, 5);
    drop(world.ledger.close());
    assert!(world.ledger.begin_growth(6).is_none());
    assert!(growth.end(None, world.now()).next.is_none());
    drop((waiter, other));
    world.ledger.reset();
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}
