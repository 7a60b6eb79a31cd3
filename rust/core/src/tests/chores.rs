//! Chores: what is done, when it is due, and when the housekeeper is told.

use super::props::{TestWaker, World, counts, seconds, show};
use crate::{Busy, CheckOut, Chore, CloseReason, Policy, Refusal, Reserve};

fn with_housekeeper(policy: Policy) -> Policy {
    Policy { has_housekeeper: true, ..policy }
}

/// A pool that closes what has been idle for ten seconds above minconn.
fn shrinking(minconn: usize, maxconn: usize) -> World {
    World::with(minconn, maxconn, with_housekeeper(Policy { max_idle: seconds(10.0), ..Policy::default() }))
}

/// A pool whose connections live for ten seconds at most.
fn mortal(minconn: usize, maxconn: usize) -> World {
    World::with(minconn, maxconn, with_housekeeper(Policy { max_lifetime: seconds(10.0), ..Policy::default() }))
}

// --- deferred returns --------------------------------------------------------------------------------------

#[test]
fn deferred_returns_are_taken_over_in_their_order_and_each_once() {
    let world = World::new(3, 3).lending([1, 2, 3]);
    let housekeeper = world.housekeeper();
    world.defer_returns([2, 1]);
    assert_eq!((housekeeper.wakes(), counts(&world)), (2, (0, 1, 0, 2, 0)));
    let (mut second, mut first) = (world.take_return(), world.take_return());
    assert_eq!([second.connection().name, first.connection().name], [2, 1]);
    assert!(world.rest().is_infinite());
    assert!(first.keep(world.now()) && second.keep(world.now()));
    drop((first, second));
    assert_eq!((world.idle(), world.rest().is_infinite()), (vec![1, 2], true));
}

#[test]
fn a_deferred_return_still_says_why_the_connection_is_to_be_closed() {
    let world = World::new(0, 1).lending([1]);
    let mut returning = world.begin_return(1).expect("it is lent");
    returning.close_for(CloseReason::Lost);
    assert!(returning.defer(world.now()).is_none());
    let taken = world.take_return();
    assert_eq!(taken.closing(), Some(CloseReason::Lost));
    drop(taken);
    assert_eq!((world.closed(CloseReason::Lost), counts(&world)), (1, (0, 0, 0, 0, 0)));
}

#[test]
fn a_caller_that_finds_the_pool_full_finishes_a_deferred_return() {
    let world = World::new(1, 2).lending([1, 2]);
    world.defer_returns([1]);
    let want = world.any();
    let Ok(CheckOut::FinishReturn(mut returning)) = world.check_out(&want) else { panic!("there is one") };
    assert_eq!((returning.connection().name, returning.closing()), (1, None));
    assert!(returning.keep(world.now()));
    drop(returning);
    assert!(matches!(world.check_out(&want), Ok(CheckOut::Lent(connection)) if connection.name == 1));
}

#[test]
fn the_caller_that_will_get_what_the_housekeeping_returns_is_told_so_and_the_next_is_not() {
    let world = World::new(1, 1).lending([1]);
    world.defer_returns([1]);
    let mut returning = world.take_return();
    let mut waiter = world.queue(world.any(), &[Busy::InTransit]);
    assert_eq!(show(&waiter.wait_on()), "InTransit, waiting: false", "it is told the same when it asks again");
    assert!(world.is_full());
    assert!(returning.keep(world.now()));
    assert_eq!((waiter.wakes(), waiter.claim()), (1, 1));
    assert!(world.is_full(), "it is counted no more");
}

#[test]
fn a_pool_made_anew_knows_nothing_of_deferred_returns() {
    let world = World::new(2, 2).lending([1, 2]);
    world.defer_returns([1, 2]);
    let mut begun = world.take_return();
    world.ledger.reset();
    assert!(!begun.keep(world.now()));
    drop(begun);
    world.open([3, 4]);
    assert!(world.is_full());
    assert_eq!(*world.dropped.lock().expect("no panic"), [2, 1]);
}

#[test]
fn a_return_that_is_deferred_twice_is_counted_once() {
    let world = World::new(1, 1).lending([1]);
    world.defer_returns([1]);
    assert!(world.take_return().defer(world.now()).is_none());
    assert!(world.take_return().keep(world.now()));
    world.borrow();
    assert!(world.is_full(), "nothing is in transit");
}

#[test]
fn no_caller_is_told_of_a_return_that_will_only_bring_the_pool_down_to_its_limit() {
    let world = World::new(2, 2).lending([1, 2]);
    world.defer_returns([1]);
    let _returning = world.take_return();
    drop(world.ledger.set_maxconn(1));
    assert!(world.is_full());
}

#[test]
fn a_caller_that_asks_again_while_it_finishes_a_return_is_not_told_to_wait_for_itself() {
    let world = World::new(1, 1).lending([1]);
    world.defer_returns([1]);
    let Ok(CheckOut::FinishReturn(_returning)) = world.check_out(&world.any()) else { panic!("there is one") };
    // What cleans the connection, or logs that it could not be cleaned, borrows from the same pool.
    assert!(world.is_full());
}

#[test]
fn a_slot_in_transit_is_waited_for_but_not_by_the_caller_that_works_on_it() {
    let keyed = |caller| crate::Want::Number(1000 + caller, caller);
    let check = |world: &World| {
        let answers = [world.check_out(&keyed(8)), world.check_out(&keyed(7))].map(|answer| show(&answer));
        assert_eq!(answers, ["InTransit, waiting: false", "Full, waiting: false"]);
    };
    // A connection that is opened to lie idle.
    let world = World::new(1, 1);
    let Ok(Reserve::New(opening)) = world.ledger.reserve(None, 7) else { panic!("there is room") };
    check(&world);
    drop(opening);
    // A connection under a check.
    world.open_idle(1);
    let looking = world.check_idle();
    check(&world);
    looking.put_back(world.now()).expect("there is a use for it");
    // One that is drained.
    let drained = world.ledger.drain(7);
    check(&world);
    drop(drained);
    // One whose time is over.
    world.ledger.set_policy(Policy { max_lifetime: seconds(10.0), ..Policy::default() });
    world.open_idle(2);
    world.pass(10.0);
    let over = world.take_return();
    check(&world);
    drop(over);
    assert!(matches!(world.check_out(&keyed(7)), Ok(CheckOut::Reserved(_))));
}

#[test]
fn of_two_callers_that_are_told_of_a_slot_in_transit_only_the_first_that_joins_the_queue_is_told_so_again() {
    let world = World::new(1, 1).lending([1]);
    world.defer_returns([1]);
    let _returning = world.take_return();
    let wants = [world.any(), world.any()];
    for want in &wants {
        assert!(matches!(world.check_out(want), Ok(CheckOut::Busy(Busy::InTransit, None))));
    }
    let waker = world.waker();
    let answers = wants.each_ref().map(|want| world.ledger.check_out(want, None, Some(waker.clone()), world.now()));
    let shown = answers.each_ref().map(show);
    assert_eq!(
        shown,
        ["InTransit, waiting: true", "Full, waiting: true"],
        "a caller with nothing else to wait for must go now"
    );
}

// --- what has been idle for too long, and what is too old ----------------------------------------------------------

#[test]
fn what_has_been_idle_for_longest_above_minconn_is_closed_when_its_time_is_up() {
    let world = shrinking(1, 3).lending([1, 2, 3]);
    for name in [2, 1, 3] {
        assert!(world.give_back(name), "kept, above minconn too");
        world.pass(1.0);
    }
    assert!((world.rest() - 7.0).abs() < 1e-9);
    world.pass(6.999);
    world.rest();
    world.pass(0.001);
    let first = world.take_return();
    assert_eq!((first.connection().name, first.closing()), (2, Some(CloseReason::Idle)));
    drop(first);
    world.pass(1.0);
    assert_eq!(world.take_return().connection().name, 1);
    world.pass(1e6);
    world.rest();
    assert_eq!((world.idle(), world.closed(CloseReason::Idle)), (vec![3], 2));
}

#[test]
fn with_a_max_idle_of_zero_nothing_above_minconn_is_kept_and_without_end_everything() {
    let world = World::new(0, 1).lending([1]);
    assert!(!world.give_back(1));
    let world = World::with(0, 2, Policy { max_idle: crate::Span::FOREVER, ..Policy::default() }).resting([1, 2]);
    world.pass(1e9);
    assert!(world.rest().is_infinite());
    assert_eq!(world.idle(), [1, 2]);
}

#[test]
fn an_idle_connection_is_closed_at_the_end_of_its_life_and_another_one_opened() {
    let world = mortal(1, 1);
    let housekeeper = world.housekeeper();
    world.open([1]);
    assert!(world.give_back(1));
    let (slept, over) = world.sleep();
    assert!((9.0..=10.0).contains(&slept), "{slept}");
    assert_eq!(over.closing(), Some(CloseReason::Lifetime));
    assert_eq!(housekeeper.wakes_by(|| drop(over)), 1, "one is missing now");
    drop(world.take_refill());
}

#[test]
fn the_end_of_a_lent_or_checked_connections_life_is_looked_out_for_as_it_may_have_come_back_by_then() {
    let world = mortal(2, 2).lending([1, 2]);
    world.pass(8.0);
    assert!(world.rest() <= 2.0, "the housekeeper comes back in time");
    assert!(world.take_back_clean(1), "of which it is not told");
    let world = mortal(1, 1);
    world.open_idle(1);
    world.pass(8.0);
    let _checking = world.check_idle();
    assert!(world.rest() <= 2.0, "and so it may from a check");
}

#[test]
fn the_housekeeper_is_told_when_a_drained_connection_is_put_back() {
    let world = World::with(1, 1, with_housekeeper(Policy::default()));
    let housekeeper = world.housekeeper();
    world.open_idle(1);
    let checking = world.check_idle();
    drop(world.ledger.drain(7));
    assert!(world.rest().is_infinite());
    let before = housekeeper.wakes();
    let refused = checking.put_back(world.now()).is_err();
    assert!(refused || housekeeper.wakes() > before);
}

#[test]
fn the_housekeeper_is_told_when_a_drained_connection_comes_back_from_a_waiter_that_leaves() {
    let world = World::with(1, 1, with_housekeeper(Policy::default()));
    let housekeeper = world.housekeeper();
    world.open([1]);
    let waiter = world.join();
    assert!(world.give_back(1));
    drop(world.ledger.drain(7));
    assert!(world.rest().is_infinite());
    let before = housekeeper.wakes();
    assert!(waiter.leave().is_some() || housekeeper.wakes() > before);
}

#[test]
fn the_housekeeper_is_told_of_a_chore_whoever_brings_it_about() {
    type Way = for<'w> fn(&'w World) -> Box<dyn FnOnce() + 'w>;
    let ways: [(&str, Way); 5] = [
        ("a connection is opened that was drained meanwhile", |world| {
            let Ok(Reserve::New(opening)) = world.ledger.reserve(None, 0) else { panic!("there is room") };
            drop(world.ledger.drain(7));
            Box::new(move || world.fill(opening, 1))
        }),
        ("a lowered minconn makes an old idle connection one too many", |world| {
            world.open_idle(1);
            world.pass(100.0);
            Box::new(|| world.ledger.set_minconn(0))
        }),
        ("another caller gives a refill up", |world| {
            let refill = world.take_refill();
            Box::new(|| drop(refill))
        }),
        ("another caller fails in a refill", |world| {
            let refill = world.take_refill();
            Box::new(|| world.fail(refill))
        }),
        ("the pool is opened again", |world| {
            world.ledger.close().expect("it is open");
            Box::new(|| world.ledger.set_closed(false))
        }),
    ];
    for (way, prepare) in ways {
        let world = shrinking(1, 1);
        let housekeeper = world.housekeeper();
        let act = prepare(&world);
        assert!(world.rest().is_infinite(), "{way}: there is nothing to do yet");
        assert!(housekeeper.wakes_by(act) > 0, "{way}");
    }
}

#[test]
fn a_connection_that_was_looked_at_is_closed_when_it_has_been_idle_for_too_long_wherever_it_lies() {
    let world = shrinking(0, 2).lending([1, 2]);
    assert!(world.give_back(1));
    world.pass(5.0);
    assert!(world.give_back(2));
    let checking = world.check_idle();
    checking.put_back(world.now()).expect("the pool is open");
    drop(checking);
    world.pass(5.0);
    assert_eq!(world.take_return().connection().name, 1);
}

// --- what is missing -----------------------------------------------------------------------------------------------

#[test]
fn the_housekeeper_opens_another_connection_when_one_is_lost() {
    let world = World::with(2, 3, with_housekeeper(Policy::default())).lending([1, 2]);
    let housekeeper = world.housekeeper();
    drop(world.begin_return(1).expect("it is lent"));
    assert_eq!(housekeeper.wakes(), 1);
    let refill = world.take_refill();
    assert!(world.rest().is_infinite(), "one at a time");
    world.open_idle(3);
    drop(refill);
    assert!(world.rest().is_infinite());
    assert_eq!((world.idle(), world.lent()), (vec![3], vec![2]));
}

#[test]
fn in_whichever_way_a_connection_ends_the_housekeeper_is_told() {
    let check = Policy { check_after: seconds(0.0), ..Policy::default() };
    let ways: [fn(&World); 6] = [
        |world| drop(world.must_check()),
        |world| world.must_check().discard(CloseReason::Lost),
        |world| drop(world.must_check().next(CloseReason::Lost, world.now())),
        |world| drop(world.ledger.drain(7)),
        |world| assert!(world.ledger.replace_idle(&[1], vec![], world.now())),
        |world| {
            world.must_check().lend(world.now()).expect("the pool is open");
            drop(world.begin_return(1).expect("it is lent"));
        },
    ];
    for (number, lose) in ways.into_iter().enumerate() {
        let world = World::with(1, 1, with_housekeeper(check));
        world.open_idle(1);
        let housekeeper = world.housekeeper();
        lose(&world);
        assert!(housekeeper.wakes() > 0, "way {number}");
        drop(world.take_refill());
    }
}

#[test]
fn a_forgotten_loan_is_reclaimed_without_waking_the_housekeeper() {
    let world = World::with(1, 1, with_housekeeper(Policy::default())).lending([1]);
    let (housekeeper, slot) = (world.housekeeper(), world.loan(1));
    assert!(world.reclaim(slot).is_some());
    assert_eq!(housekeeper.wakes(), 0, "a weak reference's callback is no place to start a thread in");
    drop(world.take_refill());
}

#[test]
fn a_housekeeper_that_was_not_reached_is_woken_by_the_next_chore_to_fall_due() {
    let policy = with_housekeeper(Policy { leak_after: seconds(1.0), ..Policy::default() });
    let world = World::with(1, 1, policy);
    let housekeeper = world.housekeeper();
    world.open([1]);
    assert!(world.give_back(1));
    world.rest();
    housekeeper.lose(true);
    let lend = || drop(world.check_out(&world.any()));
    assert_eq!(housekeeper.wakes_by(lend), 1);
    housekeeper.lose(false);
    world.pass(2.0);
    assert!(world.give_back(1));
    assert_eq!(housekeeper.wakes_by(lend), 1);
}

#[test]
fn a_pool_without_a_housekeeper_is_refilled_only_by_a_caller_that_asks_for_chores() {
    let world = World::new(1, 1);
    let housekeeper = world.housekeeper();
    world.open([1]);
    drop(world.begin_return(1).expect("it is lent"));
    assert_eq!(housekeeper.wakes(), 0);
    drop(world.take_refill());
}

#[test]
fn after_a_failed_connect_there_is_a_pause_that_doubles_up_to_four_seconds() {
    let world = World::with(1, 1, with_housekeeper(Policy::default()));
    for longest in [0.25, 0.5, 1.0, 2.0, 4.0, 4.0] {
        world.fail(world.take_refill());
        let rest = world.rest();
        assert!((longest * 0.9..=longest).contains(&rest), "{rest} s of {longest} s");
        world.pass(rest - 1e-6);
        world.rest();
        world.pass(2e-6);
    }
    drop(world.take_refill());
}

#[test]
fn a_pause_ends_when_another_caller_reaches_the_server_and_the_next_is_a_short_one() {
    let world = World::with(2, 2, with_housekeeper(Policy::default()));
    let housekeeper = world.housekeeper();
    for _ in 0..4 {
        world.fail(world.take_refill());
        world.pass(4.0);
    }
    world.fail(world.take_refill());
    assert!(world.rest() > 3.0);
    assert_eq!(housekeeper.wakes_by(|| world.ledger.note_connect(seconds(0.1), false)), 1);
    world.fail(world.take_refill());
    assert!(world.rest() <= 0.25);
    world.ledger.hurry_refill();
    drop(world.take_refill());
}

#[test]
fn raised_limits_are_filled_up() {
    for (minconn, maxconn) in [(1, 2), (2, 2)] {
        let world = World::with(1, 1, with_housekeeper(Policy::default()));
        let housekeeper = world.housekeeper();
        drop(world.ledger.resize(minconn, maxconn));
        drop(world.ledger.resize(2, maxconn));
        assert!(housekeeper.wakes() > 0);
        drop(world.take_refill());
    }
}

#[test]
fn a_refill_from_before_the_pool_was_made_anew_does_no_harm() {
    let world = World::with(2, 2, with_housekeeper(Policy::default()));
    let before = world.take_refill();
    world.ledger.reset();
    let _refill = world.take_refill();
    drop(before);
    assert!(world.rest().is_infinite(), "one at a time");
}

// --- loans that last too long ------------------------------------------------------------------------------------------

fn watchful() -> World {
    World::with(1, 2, with_housekeeper(Policy { leak_after: seconds(10.0), ..Policy::default() }))
}

#[test]
fn a_loan_that_lasts_too_long_is_reported_once_and_said_to_be_late_when_it_comes_back() {
    let world = watchful().lending([1]);
    world.pass(1.0);
    world.open([2]);
    assert!((world.rest() - 9.0).abs() < 1e-9);
    world.pass(9.0);
    let report = world.take_report();
    assert!((report.age.as_secs_f64() - 10.0).abs() < 1e-9);
    assert!((world.rest() - 1.0).abs() < 1e-9);
    let returning = world.begin_return(1).expect("it is lent");
    assert_eq!(returning.overdue(), Some(seconds(10.0)));
    drop(returning);
    assert_eq!(world.begin_return(2).expect("it is lent").overdue(), None);
    assert_eq!(world.ledger.stats(world.now()).0.leaks, 1);
}

#[test]
fn the_next_loan_of_a_connection_that_came_back_by_the_fast_path_is_watched_anew() {
    let world = watchful().lending([1]);
    world.pass(10.0);
    drop(world.take_report());
    world.give_back(1);
    world.borrow();
    assert_eq!(world.begin_return(1).expect("it is lent").overdue(), None, "it was lent a moment ago");
}

// --- a queue with an end -----------------------------------------------------------------------------------------------

#[test]
fn one_waiter_too_many_is_refused_and_the_waiters_keep_their_places() {
    let world =
        World::with(0, 1, Policy { max_waiting: std::num::NonZeroUsize::new(2), ..Policy::default() }).lending([1]);
    let mut waiters = [world.join(), world.join()];
    let answer = world.ledger.check_out(&world.any(), None, Some(world.waker()), world.now());
    assert_eq!(show(&answer), "Crowded, waiting: false");
    assert_eq!(show(&waiters[0].wait_on()), "Full, waiting: false");
    assert!(world.is_full(), "a caller that does not wait is told the same however many do");
    drop(waiters);
    let _waiter = world.join();
}

// --- another process ---------------------------------------------------------------------------------------------------

#[test]
fn a_pool_in_another_process_begins_empty_with_its_limits_and_tells_its_housekeeper() {
    let world = World::with(1, 2, with_housekeeper(Policy::default())).lending([1, 2]);
    world.defer_returns([1]);
    let housekeeper = world.housekeeper();
    world.ledger.enter_process(7, 1);
    assert_eq!((counts(&world), housekeeper.wakes()), ((0, 0, 0, 0, 0), 1));
    assert_eq!(*world.dropped.lock().expect("no panic"), [1], "what was lent is remembered");
    let refill = world.take_refill();
    world.open_idle(3);
    drop(refill);
    world.ledger.enter_process(7, 1);
    assert_eq!((world.idle(), housekeeper.wakes()), (vec![3], 1), "it is at home here");
    assert!(world.begin_return(2).is_err_and(|refusal| refusal == Refusal::Unkeyed));
}

#[test]
fn a_closed_pool_stays_closed_in_another_process() {
    let world = World::with(1, 1, with_housekeeper(Policy::default()));
    let housekeeper = world.housekeeper();
    world.ledger.close().expect("it is open");
    world.ledger.enter_process(7, 1);
    assert_eq!((world.ledger.counts().closed, housekeeper.wakes()), (true, 0));
}

#[test]
fn the_housekeeping_rests_for_ever_while_no_more_than_minconn_are_open_however_short_the_times_are() {
    let short = Policy {
        max_idle: seconds(0.001),
        max_lifetime: seconds(1000.0),
        leak_after: seconds(0.001),
        ..Policy::default()
    };
    for policy in [short, Policy { max_lifetime: crate::Span::FOREVER, ..short }] {
        let world = World::with(1, 2, with_housekeeper(policy));
        let housekeeper = world.housekeeper();
        world.open([1]);
        assert!(world.give_back(1));
        let rest = world.rest();
        assert!(rest > 900.0, "rests for {rest} s");
        world.pass(0.002);
        let lend = || drop(world.check_out(&world.any()));
        assert_eq!(housekeeper.wakes_by(lend), 1, "a loan that may be reported");
    }
}

#[test]
fn the_housekeeping_is_woken_when_more_than_minconn_are_opened_while_it_rests() {
    let world = shrinking(1, 2);
    let housekeeper = world.housekeeper();
    world.open([1]);
    assert!(world.rest().is_infinite());
    assert_eq!(housekeeper.wakes_by(|| world.open([2])), 1);
    assert!(world.rest() <= 10.0);
}

// --- how often it comes -----------------------------------------------------------------------------------------------

/// Counts the visits of a housekeeper in a hundred seconds, after the first five, and the chores that it finds. It comes when
/// it is due or woken; `use_pool` is called in each millisecond between.
fn visits(world: &World, housekeeper: &TestWaker, mut use_pool: impl FnMut(&World)) -> (usize, usize) {
    let (mut visits, mut found, mut heard, mut until) = (0, 0, housekeeper.wakes(), world.now());
    for millisecond in 0..105_000 {
        use_pool(world);
        if housekeeper.wakes() > heard || world.now() >= until {
            heard = housekeeper.wakes();
            visits += usize::from(millisecond >= 5_000);
            until = loop {
                match world.ledger.chore(7, true, world.now()) {
                    Chore::Rest(until) => break until,
                    _ => found += 1,
                }
            };
        }
        world.pass(0.001);
    }
    (visits, found)
}

#[test]
fn a_housekeeper_that_finds_nothing_to_do_comes_no_more_than_once_a_second_however_short_the_times_are() {
    let short = seconds(0.005);
    let idle = Policy { max_idle: short, ..Policy::default() };
    let reported = Policy { leak_after: short, ..Policy::default() };
    let mortal = Policy { max_lifetime: short, ..idle };
    let all = Policy { leak_after: short, ..mortal };
    for policy in [idle, reported, mortal, all] {
        let lent = World::with(1, 3, with_housekeeper(policy));
        let housekeeper = lent.housekeeper();
        lent.open([1, 2, 3]);
        let (came, _) = visits(&lent, &housekeeper, |_| ());
        assert!(came <= 100, "{policy:?}: it came {came} times while all were lent");
        let busy = World::with(0, 3, with_housekeeper(policy));
        let housekeeper = busy.housekeeper();
        let (mut lent, mut last) = (false, 0);
        let (came, found) = visits(&busy, &housekeeper, |world| {
            lent = !lent;
            if lent {
                let idle = world.ledger.lend_idle(0, world.now());
                last = idle.map_or_else(|| open_or_borrow(world, last + 1), |(_, connection)| connection.name);
            } else {
                world.give_back(last);
            }
        });
        assert_eq!(found, 0);
        assert!(came <= 100, "{policy:?}: it came {came} times to a busy pool");
    }
}

/// Borrows, and opens a connection of this name if it must.
fn open_or_borrow(world: &World, name: u32) -> u32 {
    match world.check_out(&world.any()) {
        Ok(CheckOut::Lent(connection)) => connection.name,
        Ok(CheckOut::Reserved(reservation)) => {
            world.fulfil(&reservation, name).map(|()| name).expect("the pool is open")
        }
        other => panic!("no connection was lent: {}", show(&other)),
    }
}

#[test]
fn a_chore_that_falls_due_after_a_long_lull_is_done_within_a_second_and_the_next_at_once() {
    let world = World::with(0, 2, with_housekeeper(Policy { max_idle: seconds(0.001), ..Policy::default() }));
    let housekeeper = world.housekeeper();
    world.open([1, 2]);
    visits(&world, &housekeeper, |_| ());
    for (name, longest) in [(1, 1.002), (2, 0.02)] {
        assert!(world.take_back_clean(name));
        let (slept, over) = world.sleep();
        assert!(slept <= longest, "it came after {slept} s");
        assert_eq!((over.connection().name, over.closing()), (name, Some(CloseReason::Idle)));
    }
}
