//! Statistics and loans, and the loans that their borrowers have forgotten.

use super::props::{World, by_key, connect_error, must_reserve, resolve_key, seconds, show};
use crate::{CloseReason, ConnectNews, Histogram, LoanKey, Policy, Refusal, RequestEnd, Span, Stats, Times};

fn stats(world: &World) -> Stats {
    world.ledger.stats(world.now()).0
}

/// Opens connections as the binding does, which tells how long each took.
fn open_counted(world: &World, names: impl IntoIterator<Item = u32>) {
    for name in names {
        let reservation = world.reserve();
        world.ledger.note_connect(seconds(0.1), false);
        world.fulfil(&reservation, name).expect("the pool is open");
    }
}

/// Checks that every connection that was opened is open, or was closed for one reason.
fn check_balance(world: &World) {
    let (stats, counts) = world.ledger.stats(world.now());
    let opened = stats.connections_num - stats.connections_errors;
    let closed: u64 = stats.closed.iter().sum();
    // A closed pool still lists what it had, which is counted as closed.
    let open = if counts.closed { 0 } else { counts.open() };
    assert_eq!(opened, u64::try_from(open).expect("small") + closed, "{stats:?} {counts:?}");
}

#[test]
fn a_request_is_counted_once_and_by_the_fast_path_too() {
    let world = World::new(1, 1);
    world.ledger.begin_request().expect("it is open");
    world.open([1]);
    assert!(world.give_back(1));
    assert_eq!(world.borrow(), 1);
    assert_eq!(stats(&world).requests_num, 2);
    world.ledger.close().expect("it is open");
    assert_eq!(world.ledger.begin_request(), Err(Refusal::Closed));
    assert_eq!(stats(&world).requests_num, 2);
}

#[test]
fn waits_and_errors_are_summed_up() {
    let world = World::new(0, 1);
    world.ledger.end_request(Some(seconds(0.25)), RequestEnd::Served(seconds(0.3)));
    world.ledger.end_request(Some(seconds(0.5)), RequestEnd::TimedOut);
    world.ledger.end_request(None, RequestEnd::Failed);
    let Stats { requests_queued, requests_wait, requests_errors, .. } = stats(&world);
    assert_eq!((requests_queued, requests_wait, requests_errors), (2, seconds(0.75), 2));
}

#[test]
fn each_way_to_be_refused_is_an_error_and_is_counted_apart() {
    let world = World::new(0, 1);
    for (times, end) in [(1, RequestEnd::TimedOut), (2, RequestEnd::Refused), (3, RequestEnd::Crowded)] {
        (0..times).for_each(|_| world.ledger.end_request(None, end));
    }
    world.ledger.end_request(None, RequestEnd::Failed);
    let Stats { requests_errors, requests_timed_out, requests_refused, requests_crowded, .. } = stats(&world);
    assert_eq!((requests_errors, requests_timed_out, requests_refused, requests_crowded), (7, 1, 2, 3));
}

/// Counts what is in each bucket, without the empty ones: the bound and how many.
fn buckets(histogram: &Histogram) -> Vec<(Span, u64)> {
    let mut before = 0;
    let each = histogram.cumulative().map(|(bound, count)| (bound, count - std::mem::replace(&mut before, count)));
    each.filter(|&(_, count)| count > 0).collect()
}

#[test]
fn a_bucket_includes_its_bound_and_the_last_one_has_none() {
    let world = World::new(0, 1);
    for took in [0.0, 0.005, 0.006, 0.01, 10.0, 10.1, 1000.0] {
        world.ledger.note_connect(seconds(took), false);
    }
    world.ledger.note_connect(seconds(77.0), true);
    let Times { connects, .. } = world.ledger.times();
    let expected = [(seconds(0.005), 2), (seconds(0.01), 2), (seconds(10.0), 1), (Span::FOREVER, 2)];
    assert_eq!(buckets(&connects), expected);
    assert_eq!(connects.sum(), seconds(1020.121));
}

#[test]
fn a_request_that_is_served_is_in_the_waits_by_whatever_path_and_one_under_way_is_not_yet() {
    let world = World::new(1, 1);
    world.open([1]);
    assert!(world.give_back(1));
    assert_eq!(world.borrow(), 1);
    world.ledger.begin_request().expect("it is open");
    assert_eq!(buckets(&world.ledger.times().waits), [(seconds(0.005), 1)]);
    world.ledger.end_request(None, RequestEnd::Served(seconds(0.2)));
    world.ledger.begin_request().expect("it is open");
    world.ledger.end_request(None, RequestEnd::TimedOut);
    let waits = world.ledger.times().waits;
    assert_eq!(buckets(&waits), [(seconds(0.005), 1), (seconds(0.25), 1)]);
    assert_eq!(waits.sum(), seconds(0.2));
}

#[test]
fn taking_statistics_takes_nothing_from_the_times() {
    let world = World::new(1, 1);
    open_counted(&world, [1]);
    assert!(world.give_back(1));
    for lasts in [0.0, 2.0] {
        assert_eq!(world.borrow(), 1);
        world.pass(lasts);
        assert!(world.give_back(1));
        let _ = world.ledger.take_stats(world.now());
    }
    let Times { waits, uses, connects } = world.ledger.times();
    assert_eq!(buckets(&waits), [(seconds(0.005), 2)]);
    assert_eq!(buckets(&uses), [(seconds(0.005), 2), (seconds(2.5), 1)]);
    assert_eq!(buckets(&connects), [(seconds(0.1), 1)]);
}

#[test]
fn a_pool_that_is_closed_ends_its_loans() {
    let world = World::new(0, 2).lending([1]);
    world.pass(3.0);
    assert_eq!(stats(&world).usage, seconds(3.0));
    assert_eq!(buckets(&world.ledger.times().uses), []);
    drop(world.ledger.close());
    assert_eq!(buckets(&world.ledger.times().uses), [(seconds(5.0), 1)]);
}

#[test]
fn each_close_is_counted_once_under_its_reason() {
    type Way = fn(&World);
    let ways: [(CloseReason, Way); 14] = [
        (CloseReason::Requested, |world| {
            drop(world.ledger.begin_return(Some(1), None, true, world.now()).expect("it is lent"));
        }),
        (CloseReason::Surplus, |world| {
            world.ledger.set_minconn(0);
            assert!(!world.give_back(1));
        }),
        (CloseReason::Surplus, |world| {
            assert!(world.give_back(1));
            drop(world.ledger.set_maxconn(0));
        }),
        (CloseReason::Idle, |world| {
            drop(world.ledger.resize(0, 1));
            world.ledger.set_policy(Policy { max_idle: seconds(10.0), ..Policy::default() });
            assert!(world.give_back(1));
            world.pass(10.0);
            drop(world.take_return());
        }),
        (CloseReason::Lifetime, |world| {
            world.pass(100.0);
            assert!(!world.give_back(1));
        }),
        (CloseReason::Lifetime, |world| {
            assert!(world.give_back(1));
            world.pass(100.0);
            drop(world.must_check().next(CloseReason::Lifetime, world.now()));
        }),
        (CloseReason::Drained, |world| {
            assert!(world.give_back(1));
            drop(world.ledger.drain(7));
        }),
        (CloseReason::Lost, |world| {
            world.ledger.invalidate(world.loan(1), false);
            assert!(!world.give_back(1));
        }),
        (CloseReason::Lost, |world| {
            assert!(world.give_back(1));
            world.pass(50.0);
            world.must_check().discard(CloseReason::Lost);
        }),
        (CloseReason::Unclean, |world| drop(world.begin_return(1).expect("it is lent"))),
        (CloseReason::ByBorrower, |world| {
            world.begin_return(1).expect("it is lent").close_for(CloseReason::ByBorrower);
        }),
        (CloseReason::Reclaimed, |world| {
            let slot = world.loan(1);
            drop(world.reclaim(slot));
        }),
        (CloseReason::WithPool, |world| drop(world.ledger.close())),
        (CloseReason::Unplaced, |world| {
            assert!(world.give_back(1));
            drop(world.ledger.drain(7));
            let reservation = world.reserve();
            let _ = world.ledger.take_stats(world.now());
            drop(world.ledger.close());
            world.ledger.note_connect(seconds(0.1), false);
            assert_eq!(world.fulfil(&reservation, 2), Err(Refusal::Closed));
        }),
    ];
    for (number, (reason, close)) in ways.into_iter().enumerate() {
        let policy = Policy { check_after: seconds(50.0), max_lifetime: seconds(100.0), ..Policy::default() };
        let world = World::with(1, 1, policy);
        open_counted(&world, [1]);
        check_balance(&world);
        close(&world);
        let closed = stats(&world).closed;
        assert_eq!((closed[reason as usize], closed.iter().sum::<u64>()), (1, 1), "way {number}, {reason:?}");
        check_balance(&world);
    }
}

#[test]
fn loans_are_reported_the_oldest_first_with_their_borrowers_and_notes() {
    let world = World::new(0, 3).lending([9]);
    let over = world.loan(9);
    assert!(!world.give_back(9));
    world.open([1]);
    world.pass(2.0);
    world.fill(must_reserve(by_key(&world, 6, 42)), 2);
    world.ledger.annotate(world.loan(2), world.thing(77));
    world.ledger.annotate(world.loan(2), world.thing(78));
    world.ledger.annotate(over, world.thing(79));
    assert_eq!(*world.dropped.lock().expect("no panic"), [9, 78, 79], "the first note stays, and no loan has 9");
    let loans = world.ledger.loans(world.now());
    let [(first, one), (second, two)] = &loans[..] else { panic!("there are two") };
    assert_eq!((one.name, two.name), (1, 2));
    assert!(matches!((&first.key, &second.key), (LoanKey::Automatic(2), LoanKey::User(key)) if key.name == 6));
    assert_eq!((first.age, second.age), (seconds(2.0), seconds(0.0)));
    assert_eq!((first.borrower, second.borrower), (0, 42));
    assert!(first.note.is_none() && second.note.as_ref().is_some_and(|note| note.name == 77));
}

#[test]
fn a_note_goes_with_its_loan() {
    let world = World::with(1, 1, Policy { leak_after: seconds(60.0), ..Policy::default() }).lending([1]);
    world.ledger.annotate(world.loan(1), world.thing(77));
    assert!(!world.take_back_clean(1), "the fast path has no place to drop a note");
    assert!(world.give_back(1));
    assert_eq!(*world.dropped.lock().expect("no panic"), [77]);
    world.borrow();
    assert!(world.ledger.loans(world.now())[0].0.note.is_none());
}

#[test]
fn a_forgotten_loan_gives_its_slot_to_the_waiter() {
    let world = World::new(0, 1).lending([1]);
    world.ledger.annotate(world.loan(1), world.thing(77));
    let slot = world.loan(1);
    let mut waiter = world.join();
    world.pass(3.0);
    let report = world.reclaim(slot).expect("it is lent");
    assert!(report.age == seconds(3.0) && report.note.is_some_and(|note| note.name == 77));
    assert_eq!((waiter.wakes(), stats(&world).reclaimed), (1, 1));
    assert_eq!(show(&waiter.ask_again()), "reserved");
    assert!(world.reclaim(slot).is_none());
}

#[test]
fn what_came_back_in_time_is_not_reclaimed_nor_is_its_next_loan() {
    let world = World::new(1, 1).lending([1]);
    let slot = world.loan(1);
    assert!(world.give_back(1));
    assert!(world.reclaim(slot).is_none());
    world.borrow();
    assert!(world.reclaim(slot).is_none());
    assert_eq!((world.lent(), stats(&world).reclaimed), (vec![1], 0));
}

#[test]
fn a_loan_under_a_users_key_is_not_to_be_reclaimed() {
    let world = World::new(0, 2);
    let reservation = must_reserve(by_key(&world, 6, 42));
    world.fulfil(&reservation, 2).expect("the pool is open");
    assert!(world.ledger.unkeyed(world.loan(2)).is_none());
}

#[test]
fn a_handle_that_is_replaced_is_dropped_after_the_unlock_and_one_that_comes_too_late_at_once() {
    let world = World::new(1, 1).lending([1]);
    let slot = world.loan(1);
    world.ledger.replace_handle(slot, world.thing(11));
    assert_eq!((world.lent(), world.dropped.lock().expect("no panic").clone()), (vec![11], vec![1]));
    let mut returning = world.begin_return(1).expect("it is found by the same address");
    assert_eq!(returning.connection().name, 11);
    returning.replace_handle(world.thing(1));
    assert!(returning.keep(world.now()));
    drop(returning);
    world.ledger.replace_handle(slot, world.thing(12));
    assert_eq!((world.idle(), world.dropped.lock().expect("no panic").clone()), (vec![1], vec![1, 11, 12]));
}

#[test]
fn a_connection_that_is_forgotten_after_the_pool_was_closed_is_not_closed_twice() {
    let world = World::new(0, 1);
    open_counted(&world, [1]);
    let slot = world.loan(1);
    world.ledger.close().expect("it is open");
    world.reclaim(slot);
    check_balance(&world);
}

#[test]
fn a_connection_whose_opener_fails_after_the_pool_was_closed_is_not_closed_twice() {
    let world = World::new(0, 1);
    let reservation = world.reserve();
    world.ledger.note_connect(seconds(0.1), false);
    world.fulfil(&reservation, 1).expect("the pool is open");
    world.ledger.close().expect("it is open");
    drop(reservation.fail(connect_error("late"), None));
    check_balance(&world);
}

#[test]
fn an_idle_connection_of_a_closed_pool_is_not_looked_at_nor_closed_twice() {
    let world = World::new(1, 1);
    open_counted(&world, [1]);
    assert!(world.give_back(1));
    world.ledger.close().expect("it is open");
    let slot = world.ledger.idle_slots()[0];
    if let Some(checking) = world.ledger.begin_idle_check(slot, 7, world.now()) {
        assert!(checking.put_back(world.now()).is_err());
        checking.discard(CloseReason::WithPool);
    }
    check_balance(&world);
}

#[test]
fn a_closed_pool_that_is_drained_or_made_smaller_closes_nothing_twice() {
    for shrink in [false, true] {
        let world = World::new(1, 1);
        open_counted(&world, [1]);
        assert!(world.give_back(1));
        world.ledger.close().expect("it is open");
        drop(if shrink { world.ledger.set_maxconn(0) } else { world.ledger.drain(7) });
        check_balance(&world);
    }
}

#[test]
fn a_loan_that_another_takes_the_place_of_is_counted_as_closed() {
    let world = World::new(0, 2);
    for name in [1, 2] {
        let answer = resolve_key(&mut world.ask(2, 1), |want| world.ledger.reserve(Some(want), 0));
        let Ok(crate::Reserve::New(reservation)) = answer else { panic!("there is room") };
        world.ledger.note_connect(seconds(0.1), false);
        world.fulfil(&reservation, name).expect("the pool is open");
    }
    assert_eq!(world.lent(), [2]);
    check_balance(&world);
}

fn news(world: &World, failed: bool) -> Option<ConnectNews> {
    world.ledger.connect_news(failed, world.now())
}

fn failed(times: u64, period: f64) -> ConnectNews {
    ConnectNews::Failed { times, period: seconds(period) }
}

#[test]
fn connects_that_go_on_failing_are_told_of_once_in_ten_seconds_with_their_number() {
    let world = World::new(0, 1);
    assert_eq!(news(&world, false), None, "nothing was wrong");
    assert_eq!(news(&world, true), Some(failed(1, 0.0)));
    for _ in 0..99 {
        world.pass(0.09);
        assert_eq!(news(&world, true), None);
    }
    world.pass(1.09);
    assert_eq!(news(&world, true), Some(failed(100, 10.0)));
    assert_eq!(news(&world, true), None);
    world.pass(2.0);
    assert_eq!(news(&world, false), Some(ConnectNews::Recovered { lasted: seconds(12.0) }));
    assert_eq!(news(&world, false), None);
}

#[test]
fn connects_that_fail_by_turns_are_told_of_no_more_often() {
    let world = World::new(0, 1);
    assert_eq!(news(&world, true), Some(failed(1, 0.0)));
    assert_eq!(news(&world, false), Some(ConnectNews::Recovered { lasted: seconds(0.0) }));
    for _ in 0..9 {
        world.pass(1.0);
        assert_eq!((news(&world, true), news(&world, false)), (None, None));
    }
    world.pass(1.0);
    assert_eq!(news(&world, true), Some(failed(10, 10.0)));
}

#[test]
fn the_child_of_a_fork_knows_of_no_connect_that_failed() {
    let world = World::new(0, 1);
    assert_eq!(news(&world, true), Some(failed(1, 0.0)));
    world.ledger.enter_process(1, 0);
    assert_eq!(news(&world, false), None);
    assert_eq!(news(&world, true), Some(failed(1, 0.0)));
}
