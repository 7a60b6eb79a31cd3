//! Loans, waiters, limits and closing: one thing that can go wrong a test.

use super::props::{Queued, World, connect_error, counts, show};
use crate::{Policy, Refusal};

#[test]
fn the_last_connection_that_came_back_is_lent_first() {
    let world = World::new(3, 3).lending([1, 2, 3]);
    assert!(world.give_back(1) && world.give_back(3) && world.give_back(2));
    assert_eq!(world.idle(), [1, 3, 2]);
    assert_eq!([world.borrow(), world.borrow(), world.borrow()], [2, 3, 1]);
    assert_eq!(world.lent(), [2, 3, 1]);
}

#[test]
fn with_fifo_the_connection_that_has_been_idle_for_longest_is_lent_first() {
    let world = World::with(3, 3, Policy { fifo: true, ..Policy::default() }).lending([1, 2, 3]);
    assert!(!world.take_back_clean(1), "the fast path takes nothing back");
    assert!(world.give_back(1) && world.give_back(3) && world.give_back(2));
    assert_eq!([world.borrow(), world.borrow(), world.borrow()], [1, 3, 2]);
}

#[test]
fn no_more_than_maxconn_are_opened_however_slow_connects_are() {
    let world = World::new(0, 2);
    let (first, second) = (world.reserve(), world.reserve());
    assert!(world.is_full());
    world.fulfil(&first, 1).expect("open");
    assert!(world.is_full());
    drop((first, second));
    assert_eq!(counts(&world), (0, 1, 0, 0, 0), "the one that was spent frees nothing");
    world.open([2]);
}

#[test]
fn a_reservation_that_is_dropped_unspent_gives_its_room_back() {
    let world = World::new(0, 1);
    drop(world.reserve());
    drop(world.reserve().fail(connect_error("the server is down"), None));
    assert_eq!(world.ledger.connect_error().expect("there was one").text, "the server is down");
    world.open([1]);
}

#[test]
fn a_spent_reservation_is_not_followed_to_the_next_user_of_its_slot() {
    let world = World::new(1, 1);
    let reservation = world.reserve();
    world.fulfil(&reservation, 1).expect("open");
    drop(world.begin_return(1).expect("lent"));
    let next = world.reserve();
    assert_eq!(world.fulfil(&reservation, 9), Err(Refusal::Exhausted));
    drop(reservation);
    assert_eq!(counts(&world), (0, 0, 1, 0, 0));
    drop(next);
}

#[test]
fn a_slot_is_taken_until_its_connection_is_closed() {
    let world = World::new(0, 1).lending([1]);
    let returning = world.begin_return(1).expect("lent");
    assert!(returning.closing().is_some());
    assert!(world.is_full());
    drop(returning);
    assert_eq!(*world.dropped.lock().expect("no panic"), [1], "no handle of it is left");
    world.open([2]);
}

#[test]
fn what_is_not_lent_cannot_be_returned() {
    let world = World::new(1, 2).lending([1]);
    assert!(world.begin_return(7).is_err_and(|refusal| refusal == Refusal::Unkeyed));
    assert!(world.give_back(1));
    assert!(world.begin_return(1).is_err_and(|refusal| refusal == Refusal::Unkeyed));
}

#[test]
fn a_waiter_gets_what_comes_back_and_a_newcomer_does_not() {
    let world = World::new(0, 1).lending([1]);
    let mut waiter = world.join();
    assert!(world.give_back(1), "kept for the waiter, although minconn is 0");
    assert_eq!(waiter.wakes(), 1);
    assert!(world.ledger.lend_idle(0, world.now()).is_none());
    assert!(world.is_full());
    assert_eq!(waiter.claim(), 1);
}

#[test]
fn waiters_are_served_in_the_order_in_which_they_came() {
    let world = World::new(0, 2).lending([1, 2]);
    let mut waiters = [world.join(), world.join(), world.join()];
    for (turn, connection) in [1, 2, 1].into_iter().enumerate() {
        assert!(world.give_back(connection));
        assert_eq!(waiters.iter().map(Queued::wakes).sum::<usize>(), turn + 1);
        assert_eq!(waiters[turn].claim(), connection);
    }
}

#[test]
fn a_waiter_that_leaves_hands_its_promise_to_the_next() {
    let world = World::new(0, 1).lending([1]);
    let (first, mut second) = (world.join(), world.join());
    assert!(world.give_back(1));
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    assert!(first.leave().is_none());
    assert_eq!((second.wakes(), second.claim()), (1, 1));
}

#[test]
fn a_waiter_that_is_dropped_loses_neither_a_promised_connection_nor_promised_room() {
    let world = World::new(0, 1).lending([1]);
    let waiter = world.join();
    assert!(world.give_back(1));
    drop(waiter);
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
    let reservation = world.reserve();
    let waiter = world.join();
    drop(reservation);
    assert_eq!(counts(&world), (0, 0, 1, 0, 0));
    drop(waiter);
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}

#[test]
fn a_failed_connect_lets_the_first_waiter_try() {
    let world = World::new(0, 1);
    let reservation = world.reserve();
    let mut waiter = world.join();
    drop(reservation.fail(connect_error("no"), None));
    assert_eq!((waiter.wakes(), show(&waiter.ask_again())), (1, "reserved".to_owned()));
}

#[test]
fn a_lowered_maxconn_holds_again_as_soon_as_it_can() {
    let world = World::new(4, 4).lending([1, 2, 3, 4]);
    assert!(world.give_back(1) && world.give_back(2));
    let retired = world.ledger.set_maxconn(1);
    assert_eq!(retired.iter().map(|retired| retired.connection().name).collect::<Vec<_>>(), [1, 2]);
    drop(retired);
    assert!(!world.give_back(3), "4 is still lent");
    assert!(world.give_back(4));
    assert_eq!(counts(&world), (1, 0, 0, 0, 0));
}

#[test]
fn closing_wakes_everybody_and_gives_idle_connections_before_lent_ones() {
    let world = World::new(2, 4).lending([1, 2, 3, 4]);
    assert!(world.give_back(2) && world.give_back(1));
    let closing = world.ledger.close().expect("it is open");
    assert_eq!(closing.iter().map(|connection| connection.name).collect::<Vec<_>>(), [2, 1, 3, 4]);
    assert!(world.ledger.close().is_err_and(|refusal| refusal == Refusal::Closed));
    assert!(world.ledger.lend_idle(0, world.now()).is_none());
    assert!(world.begin_return(3).is_err_and(|refusal| refusal == Refusal::Closed));
    assert!(!world.take_back_clean(3));
}

#[test]
fn a_connection_that_was_being_opened_or_returned_comes_back_to_a_closed_pool() {
    let world = World::new(2, 2).lending([1]);
    let mut returning = world.begin_return(1).expect("lent");
    let reservation = world.reserve();
    assert!(world.ledger.close().expect("it is open").is_empty());
    assert!(!returning.keep(world.now()));
    assert_eq!(world.fulfil(&reservation, 2), Err(Refusal::Closed));
    drop((returning, reservation));
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}

#[test]
fn one_object_lent_twice_is_returned_twice() {
    let world = World::new(2, 2).resting([5, 5]);
    assert!(world.begin_return(5).is_err());
    assert_eq!(world.idle(), [5, 5]);
    assert_eq!([world.borrow(), world.borrow()], [5, 5]);
}

#[test]
fn a_pool_made_anew_forgets_and_stale_guards_do_no_harm() {
    let world = World::new(2, 3).lending([1, 2]);
    let reservation = world.reserve();
    let mut returning = world.begin_return(1).expect("lent");
    world.ledger.reset();
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
    assert!(!returning.keep(world.now()));
    drop((returning, reservation));
    world.open([4, 5, 6]);
    assert_eq!(counts(&world), (0, 3, 0, 0, 0));
}

#[test]
fn the_greatest_of_limits_is_no_limit_and_no_overflow() {
    let world = World::new(2, 2).lending([1, 2]);
    assert!(world.give_back(1));
    let mut returning = world.begin_return(2).expect("lent");
    assert!(world.ledger.set_maxconn(usize::MAX).is_empty());
    assert!(returning.keep(world.now()));
    assert_eq!(world.idle(), [1, 2]);
}

#[test]
fn a_pool_made_anew_is_open_and_remembers_nothing() {
    let world = World::new(0, 1);
    drop(world.reserve().fail(connect_error("no"), None));
    world.ledger.close().expect("it is open");
    world.ledger.reset();
    assert_eq!((world.ledger.counts().closed, world.ledger.last_number()), (false, 0));
    assert!(world.ledger.connect_error().is_none());
    world.open([1]);
}
