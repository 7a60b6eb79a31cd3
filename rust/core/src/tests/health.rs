//! Health: which connections are lent at once, which after a check, and which not at all.

use super::props::{
    TestWaker, Thing, World, by_key, connect_error, counts, must_check, must_reserve, resolve_key, seconds, show,
};
use crate::{Check, CheckOut, Checking, CloseReason, Policy, Refusal, Reserve};

/// A pool that checks what has been idle for half a second, with connections of these names idle.
fn checked<const N: usize>(minconn: usize, maxconn: usize, names: [u32; N]) -> World {
    World::with(minconn, maxconn, Policy { check_after: seconds(0.5), ..Policy::default() }).resting(names)
}

/// A pool whose connections live for ten seconds at most.
fn mortal() -> World {
    World::with(1, 1, Policy { max_lifetime: seconds(10.0), ..Policy::default() })
}

fn looked_at(checking: &Checking<'_, Thing, TestWaker>) -> (u32, Check) {
    (checking.connection().name, checking.kind())
}

#[test]
fn a_connection_that_was_used_a_moment_ago_is_lent_without_a_check() {
    let world = checked(1, 1, [1]);
    world.pass(0.499);
    assert_eq!(world.borrow(), 1);
    world.pass(60.0);
    assert!(world.give_back(1));
    world.pass(0.499);
    assert_eq!(world.borrow(), 1, "it is idleness that counts, not age");
}

#[test]
fn a_connection_that_has_been_idle_for_check_after_is_lent_once_it_has_been_checked() {
    let world = checked(1, 1, [1]);
    world.pass(0.5);
    let checking = world.must_check();
    assert_eq!(looked_at(&checking), (1, Check::Required));
    assert_eq!((counts(&world), world.ledger.counts().checking), ((0, 0, 0, 0, 0), 1));
    checking.lend(world.now()).expect("the pool is open");
    drop(checking);
    assert_eq!(world.lent(), [1]);
    assert!(world.give_back(1));
    assert_eq!(world.borrow(), 1);
}

#[test]
fn a_dead_connection_gives_way_to_the_next_and_the_last_to_a_new_one() {
    let world = checked(3, 3, [1, 2, 3]);
    world.pass(1.0);
    let mut answer = world.check_out(&world.any()).map_err(|_| Refusal::Closed);
    for name in [3, 2, 1] {
        let checking = must_check(answer);
        assert_eq!(looked_at(&checking), (name, Check::Required));
        answer = checking.next(CloseReason::Lost, world.now());
    }
    let Ok(CheckOut::Reserved(room)) = answer else { panic!("{}", show(&answer)) };
    assert_eq!(counts(&world), (0, 0, 1, 0, 0));
    world.fill(room, 4);
    assert_eq!((world.lent(), world.closed(CloseReason::Lost)), (vec![4], 3));
}

#[test]
fn after_a_death_all_that_were_open_are_checked_and_no_newer_one() {
    let world = checked(4, 4, [1, 2, 3]);
    world.pass(1.0);
    world.must_check().lend(world.now()).expect("the pool is open");
    assert!(world.give_back(3));
    let lost = world.begin_return(world.borrow()).map(|mut lost| lost.close_for(CloseReason::Lost));
    lost.expect("it is lent");
    world.open_idle(4);
    assert_eq!(world.borrow(), 4);
    let second = world.must_check();
    second.lend(world.now()).expect("the pool is open");
    assert!(world.give_back(2));
    assert_eq!(world.borrow(), 2, "it has passed since then");
    assert_eq!(looked_at(&world.must_check()), (1, Check::Required));
}

#[test]
fn a_new_connection_in_the_place_of_one_that_is_over_has_a_life_of_its_own() {
    let world = mortal().resting([1]);
    world.pass(10.0);
    let answer = world.must_check().next(CloseReason::Lifetime, world.now());
    world.fill(must_reserve(answer), 2);
    world.pass(8.9);
    assert!(world.give_back(2));
}

#[test]
fn an_interrupted_check_discards_the_connection_and_serves_the_waiter() {
    let world = checked(1, 1, [1]);
    world.pass(1.0);
    let checking = world.must_check();
    let mut waiter = world.join();
    drop(checking);
    assert_eq!((waiter.wakes(), world.closed(CloseReason::Unclean)), (1, 1));
    assert_eq!(show(&waiter.ask_again()), "reserved");
}

#[test]
fn callers_that_ask_for_a_key_whose_connection_is_checked_wait_and_get_that_connection() {
    let world = checked(1, 3, [1]);
    world.pass(1.0);
    let checking = must_check(by_key(&world, 2, 1));
    assert!(by_key(&world, 2, 1).is_err_and(|refusal| refusal == Refusal::Reentrant), "it would wait for itself");
    let mut waiter = world.follow(2, 2);
    checking.lend(world.now()).expect("the pool is open");
    assert_eq!((waiter.wakes(), waiter.claim()), (1, 1));
}

#[test]
fn a_check_that_connects_under_the_key_of_what_it_looks_at_opens_another_one_and_leaves_that_alone() {
    let world = checked(1, 2, [1]);
    world.pass(1.0);
    let checking = must_check(by_key(&world, 2, 1));
    let reserved = resolve_key(&mut world.ask(2, 1), |want| world.ledger.reserve(Some(want), 1));
    assert!(matches!(reserved, Ok(Reserve::New(_))), "it is not filled in where something lies already");
    drop(reserved);
    checking.lend(world.now()).expect("the pool is open");
    assert_eq!((world.lent(), counts(&world)), (vec![1], (0, 1, 0, 0, 0)));
}

#[test]
fn a_key_moves_on_with_its_borrower_from_a_dead_connection_to_the_next_and_to_a_new_one() {
    let world = checked(2, 2, [1, 2]);
    world.pass(1.0);
    let dead = must_check(by_key(&world, 2, 1));
    let mut waiter = world.follow(2, 2);
    let next = must_check(dead.next(CloseReason::Lost, world.now()));
    assert_eq!((looked_at(&next), waiter.wakes()), ((1, Check::Required), 0));
    let room = must_reserve(next.next(CloseReason::Lost, world.now()));
    assert_eq!(show(&by_key(&world, 2, 3)), "KeyOpening, waiting: false");
    world.fill(room, 3);
    assert_eq!((waiter.wakes(), waiter.claim()), (1, 3));
}

#[test]
fn a_connection_whose_room_was_used_for_another_is_forgotten() {
    let world = checked(1, 1, [1]);
    world.pass(1.0);
    let room = must_reserve(world.must_check().next(CloseReason::Lost, world.now()));
    assert_eq!(*world.dropped.lock().expect("no panic"), [1]);
    drop(room.fail(connect_error("the server is down"), None));
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}

#[test]
fn a_lent_connection_stays_its_borrowers_however_old_it_is_and_is_closed_when_it_comes_back() {
    let world = mortal().lending([1]);
    world.pass(10.0);
    assert_eq!(world.lent(), [1]);
    assert!(!world.take_back_clean(1), "the fast path keeps none that is too old");
    assert_eq!(world.begin_return(1).expect("it is lent").closing(), Some(CloseReason::Lifetime));
}

#[test]
fn an_idle_connection_that_is_too_old_is_not_lent() {
    let world = mortal().resting([1]);
    world.pass(10.0);
    let over = world.must_check();
    assert_eq!(looked_at(&over), (1, Check::Expired(CloseReason::Lifetime)));
    assert_eq!(show(&over.next(CloseReason::Lifetime, world.now())), "reserved");
    assert_eq!((world.closed(CloseReason::Lifetime), world.ledger.stats(world.now()).0.connections_lost), (1, 0));
}

#[test]
fn draining_replaces_what_is_open_wherever_it_is_and_nothing_that_is_opened_later() {
    let world = World::new(4, 4).lending([1, 2, 3]);
    let opening = world.reserve();
    assert!(world.give_back(1));
    let mut returning = world.begin_return(2).expect("it is lent");
    let drained = world.ledger.drain(7);
    assert_eq!(drained.iter().map(|drained| drained.connection().name).collect::<Vec<_>>(), [1]);
    assert_eq!(drained[0].closing(), Some(CloseReason::Drained));
    assert!(!returning.keep(world.now()));
    assert_eq!(returning.closing(), Some(CloseReason::Drained));
    drop((drained, returning));
    world.fulfil(&opening, 4).expect("the pool is open");
    world.open([5]);
    for (name, closing) in [(3, Some(CloseReason::Drained)), (4, Some(CloseReason::Drained)), (5, None)] {
        assert_eq!(world.begin_return(name).expect("it is lent").closing(), closing, "{name}");
    }
}

#[test]
fn a_connection_that_is_invalidated_with_the_older_ones_spares_the_newer_ones() {
    let world = World::new(4, 4).lending([1, 2, 3, 4]);
    assert!(world.give_back(1));
    world.ledger.invalidate(world.loan(3), true);
    for (name, closing) in [(2, Some(CloseReason::Drained)), (3, Some(CloseReason::Lost)), (4, None)] {
        assert_eq!(world.begin_return(name).expect("it is lent").closing(), closing, "{name}");
    }
    assert_eq!(looked_at(&world.must_check()), (1, Check::Expired(CloseReason::Drained)));
}

#[test]
fn a_connection_under_a_check_when_the_pool_is_closed_is_closed_by_the_caller_that_checks_it() {
    let world = checked(3, 3, [1, 2, 3]);
    world.pass(1.0);
    let (lent, next, idle) = (world.must_check(), world.must_check(), world.check_idle());
    assert!(world.ledger.close().expect("it is open").is_empty(), "none of them is the closer's");
    assert_eq!(lent.lend(world.now()), Err(CloseReason::WithPool));
    assert!(idle.put_back(world.now()).is_err());
    assert!(next.next(CloseReason::Lost, world.now()).is_err_and(|refusal| refusal == Refusal::Closed));
    drop(lent);
    idle.discard(CloseReason::WithPool);
    assert_eq!((counts(&world), world.ledger.counts().open()), ((0, 0, 0, 0, 0), 0));
}

#[test]
fn a_check_from_before_the_pool_was_made_anew_does_no_harm() {
    let world = checked(2, 2, [1, 2]);
    world.pass(1.0);
    let (first, second) = (world.must_check(), world.must_check());
    world.ledger.reset();
    world.open([3, 4]);
    assert!(first.lend(world.now()).is_err());
    drop(first);
    assert!(second.next(CloseReason::Lost, world.now()).is_err());
    assert_eq!((world.lent(), world.closed(CloseReason::Lost)), (vec![3, 4], 0));
}

#[test]
fn a_check_of_an_idle_connection_is_no_use_of_it() {
    let world = World::with(0, 2, Policy { check_after: seconds(0.5), max_idle: seconds(10.0), ..Policy::default() })
        .resting([1]);
    world.pass(9.0);
    let slot = world.ledger.idle_slots()[0];
    let checking = world.ledger.begin_idle_check(slot, 7, world.now()).expect("it is idle");
    assert!(world.ledger.begin_idle_check(slot, 7, world.now()).is_none(), "it is looked at already");
    checking.put_back(world.now()).expect("the pool is open");
    drop(checking);
    assert_eq!(world.idle(), [1]);
    world.pass(1.0);
    assert_eq!(world.take_return().closing(), Some(CloseReason::Idle));
}

#[test]
fn of_two_slots_with_one_object_a_dead_one_is_let_go_alone() {
    let world = checked(2, 2, [5, 5]);
    world.pass(1.0);
    let dead = world.must_check();
    let next = must_check(dead.next(CloseReason::Lost, world.now()));
    next.lend(world.now()).expect("the pool is open");
    drop(next);
    assert_eq!((world.lent(), counts(&world)), (vec![5], (0, 1, 0, 0, 0)));
    assert!(world.take_back_clean(5), "it has no alias any more");
}

#[test]
fn a_lowered_maxconn_lets_a_borrower_that_checks_have_its_connection_and_no_more_than_that() {
    let world = checked(2, 2, [1, 2]);
    world.pass(1.0);
    let (first, second) = (world.must_check(), world.must_check());
    drop(world.ledger.set_maxconn(0));
    first.lend(world.now()).expect("the pool is open");
    let answer = second.next(CloseReason::Lost, world.now());
    assert!(matches!(answer, Ok(CheckOut::Reserved(_))), "{}", show(&answer));
    drop(answer);
    assert!(!world.give_back(2));
    assert!(world.is_full());
}

#[test]
fn an_idle_connection_that_is_checked_while_maxconn_is_lowered_is_not_put_back_above_it() {
    let world = checked(2, 2, [1, 2]);
    let slots = world.ledger.idle_slots();
    let looks: Vec<_> = slots.iter().map(|&slot| world.ledger.begin_idle_check(slot, 7, world.now())).collect();
    drop(world.ledger.set_maxconn(1));
    for checking in looks.into_iter().flatten() {
        let _refused = checking.put_back(world.now());
    }
    assert_eq!(counts(&world), (1, 0, 0, 0, 0));
}

#[test]
fn an_idle_connection_that_is_checked_while_another_takes_its_place_is_not_put_back_above_minconn() {
    let world = checked(1, 2, [1]);
    let checking = world.check_idle();
    world.open([2]);
    assert!(world.give_back(2));
    let _refused = checking.put_back(world.now());
    drop(checking);
    assert_eq!(counts(&world), (1, 0, 0, 0, 0), "max_idle is 0");
}

#[test]
fn a_promise_that_is_handed_back_is_no_use_of_the_connection() {
    let world = checked(1, 1, [1]);
    world.borrow();
    let waiter = world.join();
    assert!(world.give_back(1));
    world.pass(60.0);
    assert!(world.check_out(&world.any()).is_ok(), "another caller tells the time");
    assert!(waiter.leave().is_none());
    assert_eq!(looked_at(&world.must_check()), (1, Check::Required), "it has been idle for a minute");
}

#[test]
fn a_connection_that_is_invalidated_with_the_older_ones_takes_those_along_that_are_being_opened() {
    let world = World::new(2, 2);
    let opening = world.reserve();
    world.open([2]);
    world.ledger.invalidate(world.loan(2), true);
    world.fulfil(&opening, 1).expect("the pool is open");
    assert_eq!(world.begin_return(1).expect("it is lent").closing(), Some(CloseReason::Drained));
}

#[test]
fn a_check_whose_connection_a_subclass_has_replaced_is_not_told_that_the_pool_is_closed() {
    let world = checked(1, 2, [1]);
    world.pass(1.0);
    let checking = must_check(by_key(&world, 2, 1));
    world.insert_by_key(2, 7);
    assert_ne!(checking.lend(world.now()), Err(CloseReason::WithPool));
}
