//! The reserve: what callers with and without priority get, and in what order.

use super::props::{Queued, World, show};
use crate::{Busy, CheckOut, Policy, Rank};

fn reserving(reserve: usize, maxconn: usize) -> World {
    World::with(maxconn, maxconn, Policy { reserve, ..Policy::default() })
}

/// Says what a caller of this rank is told that does not wait.
fn told(world: &World, rank: Rank) -> String {
    show(&world.ledger.check_out_as(rank, &world.any(), None, None, world.now()))
}

fn join(world: &World, rank: Rank) -> Queued<'_> {
    world.queue_as(rank, world.any(), &[Busy::Full])
}

#[test]
fn a_caller_without_priority_leaves_the_reserve_vacant() {
    let world = reserving(1, 3).lending([1, 2]);
    assert_eq!(told(&world, Rank::Normal), "Full, waiting: false");
    let priority = world.ledger.check_out_as(Rank::Priority, &world.any(), None, None, world.now());
    assert!(matches!(priority, Ok(CheckOut::Reserved(_))));
}

#[test]
fn a_caller_without_priority_leaves_the_reserve_idle() {
    let world = World::new(3, 3).resting([1, 2, 3]);
    world.ledger.set_policy(Policy { reserve: 1, ..Policy::default() });
    assert!(world.ledger.lend_idle(0, world.now()).is_none(), "the fast path lends nothing");
    assert_eq!([world.borrow(), world.borrow()], [3, 2]);
    assert_eq!(told(&world, Rank::Normal), "Full, waiting: false");
    let under = |rank| world.ledger.lend_idle_as(rank, None, 0, world.now());
    assert!(under(Rank::Normal).is_none());
    assert_eq!(under(Rank::Priority).map(|(_, lent)| lent.name), Some(1));
    assert_eq!(told(&world, Rank::Priority), "Full, waiting: false");
}

#[test]
fn waiters_with_priority_are_served_first_and_each_rank_in_order() {
    let world = reserving(1, 3).lending([1, 2]);
    let mut normal = [join(&world, Rank::Normal), join(&world, Rank::Normal)];
    world.fill(must_reserve_as_priority(&world), 3);
    let mut priority = [join(&world, Rank::Priority), join(&world, Rank::Priority)];
    assert!(world.give_back(1) && world.give_back(2));
    assert_eq!(priority.each_mut().map(Queued::claim), [1, 2]);
    assert!(world.give_back(3), "it is kept in reserve");
    assert_eq!((normal[0].wakes(), world.idle()), (0, vec![3]));
    assert!(world.give_back(1) && world.give_back(2));
    assert_eq!(normal.each_mut().map(Queued::claim), [1, 2], "the reserve is left");
    assert_eq!(world.idle(), [3]);
}

fn must_reserve_as_priority(world: &World) -> crate::Reservation<'_, super::props::Thing, super::props::TestWaker> {
    match world.ledger.check_out_as(Rank::Priority, &world.any(), None, None, world.now()) {
        Ok(CheckOut::Reserved(room)) => room,
        other => panic!("there is no room: {}", show(&other)),
    }
}

#[test]
fn what_comes_back_above_the_reserve_is_not_kept_for_a_waiter_that_may_not_have_it() {
    let world = World::with(0, 3, Policy { reserve: 2, ..Policy::default() }).lending([1]);
    world.fill(must_reserve_as_priority(&world), 2);
    let mut normal = join(&world, Rank::Normal);
    assert!(!world.give_back(2), "the caller closes it");
    assert_eq!(normal.wakes(), 0);
    assert!(world.give_back(1), "now it may have one");
    assert_eq!(normal.claim(), 1);
}

#[test]
fn max_waiting_counts_those_that_are_served_before() {
    let policy = Policy { reserve: 1, max_waiting: std::num::NonZeroUsize::new(1), ..Policy::default() };
    let world = World::with(2, 2, policy).lending([1]);
    world.fill(must_reserve_as_priority(&world), 2);
    let _normal = join(&world, Rank::Normal);
    let crowded = |rank| {
        let answer = world.ledger.check_out_as(rank, &world.any(), None, Some(world.waker()), world.now());
        matches!(answer, Ok(CheckOut::Busy(Busy::Crowded, None)))
    };
    assert!(crowded(Rank::Normal));
    let _priority = join(&world, Rank::Priority);
    assert!(crowded(Rank::Priority));
}

#[test]
fn workers_open_no_more_than_their_waiters_may_take() {
    let policy = Policy { reserve: 1, grow: std::num::NonZeroUsize::new(5), ..Policy::default() };
    let world = World::with(0, 2, policy);
    let workers = world.waker();
    world.ledger.set_workers(workers.clone());
    let full = [Busy::Full, Busy::InTransit];
    let _normal = [world.queue(world.any(), &full), world.queue(world.any(), &full)];
    assert_eq!(workers.wakes(), 1);
    let _first = world.ledger.begin_growth(5).expect("one waits");
    let _priority = world.queue_as(Rank::Priority, world.any(), &full);
    assert_eq!(workers.wakes(), 1, "it gets what is being opened");
    let _next = world.queue_as(Rank::Priority, world.any(), &full);
    assert_eq!(workers.wakes(), 2, "and this one the reserve");
}
