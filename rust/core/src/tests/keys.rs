//! Keys, and what other people's code edits: one thing that can go wrong a test.

use super::props::{
    Queued, TestWaker, Thing, World, by_key, compare, connect_error, counts, must_reserve, refusal, resolve_key, show,
};
use crate::{Busy, LoanKey, Refusal, Reservation, Reserve, Unanswered, Want};

/// Takes room to open a connection under a key.
fn reserve_key(world: &World, key: u32, caller: u64) -> Reservation<'_, Thing, TestWaker> {
    must_reserve(by_key(world, key, caller))
}

/// Takes a slot to open another connection in under a key, which is lent or not.
fn reserve_anew(world: &World, key: u32, caller: u64) -> Reservation<'_, Thing, TestWaker> {
    match resolve_key(&mut world.ask(key, caller), |want| world.ledger.reserve(Some(want), caller)) {
        Ok(Reserve::New(reservation)) => reservation,
        Ok(Reserve::Pending(_) | Reserve::Seek(_)) => panic!("a caller further up has it"),
        Err(refusal) => panic!("{refusal}"),
    }
}

fn open_by_key(world: &World, key: u32, name: u32) {
    world.fill(reserve_key(world, key, 0), name);
}

/// Inserts a loan that was made elsewhere under a number.
fn insert(world: &World, number: u64, name: u32) {
    let want = Want::Number(number, 0);
    world.ledger.insert_loan(&want, name as usize, &world.thing(name), world.now()).expect("nothing to compare");
}

#[test]
fn an_equal_key_gets_the_same_connection_and_a_key_with_the_same_hash_another() {
    let world = World::new(0, 3);
    open_by_key(&world, 1, 10);
    open_by_key(&world, 3, 30);
    let shown = [1, 3, 5].map(|key| show(&by_key(&world, key, 0)));
    assert_eq!(shown, ["lent 10", "lent 30", "reserved"]);
}

#[test]
fn a_comparison_that_was_overtaken_is_made_again() {
    let world = World::new(2, 2);
    open_by_key(&world, 1, 10);
    let mut want = world.ask(3, 0);
    let Err(Unanswered::Compare(candidates)) = world.check_out(&want) else { panic!("hashes are equal") };
    compare(&mut want, &candidates);
    // Meanwhile the very key that is asked for is lent.
    open_by_key(&world, 3, 30);
    let Err(Unanswered::Compare(candidates)) = world.check_out(&want) else { panic!("3 is new") };
    assert_eq!(candidates.list.len(), 1, "1 has been compared");
    compare(&mut want, &candidates);
    // Meanwhile it is returned and lent under another key: the match is stale.
    assert!(world.give_back(30));
    assert_eq!(show(&by_key(&world, 4, 0)), "lent 30");
    assert_eq!(show(&world.check_out(&want)), "Full, waiting: false");
}

#[test]
fn a_key_that_claims_promised_room_is_seen_by_a_caller_that_compared_before() {
    let world = World::new(0, 2);
    open_by_key(&world, 1, 10);
    let opening = world.reserve();
    let mut queued = world.join_for(3, 1);
    drop(opening);
    // Room is promised, and not filed yet. Another caller compares all there is with the same key.
    let mut late = world.ask(3, 2);
    let Err(Unanswered::Compare(candidates)) = world.check_out(&late) else { panic!("hashes are equal") };
    compare(&mut late, &candidates);
    drop(world.ledger.set_maxconn(9));
    let claimed = queued.ask_again();
    assert_eq!(show(&claimed), "reserved");
    let answer = resolve_key(&mut late, |want| world.check_out(want));
    assert_eq!(show(&answer), "KeyOpening, waiting: false");
}

#[test]
fn a_caller_that_would_wait_for_itself_is_refused() {
    let world = World::new(0, 5);
    let _reservation = reserve_key(&world, 2, 1);
    assert_eq!(show(&by_key(&world, 2, 1)), "Reentrant");
}

#[test]
fn a_queued_waiter_is_woken_when_its_key_is_lent_to_another_and_keeps_its_place() {
    let world = World::new(0, 1).lending([1]);
    let [mut first, mut second, mut third] = [(2, 1), (2, 2), (4, 3)].map(|(key, caller)| world.join_for(key, caller));
    assert!(world.give_back(1));
    assert_eq!(first.claim(), 1);
    assert_eq!([second.wakes(), third.wakes()], [1, 1], "same hash: each must look");
    assert_eq!(second.claim(), 1);
    assert_eq!(show(&third.wait_on()), "Full, waiting: false");
    assert_eq!(world.ledger.counts().waiting, 2, "no waiter has left the queue yet");
    drop((first, second, third));
    assert_eq!(world.ledger.counts().waiting, 0);
}

#[test]
fn a_wrong_or_swapped_key_changes_nothing() {
    let world = World::new(2, 2);
    open_by_key(&world, 1, 10);
    open_by_key(&world, 2, 20);
    let before = counts(&world);
    let swapped =
        resolve_key(&mut world.ask(2, 0), |want| world.ledger.begin_return(Some(10), Some(want), false, world.now()));
    assert!(swapped.is_err_and(|refusal| refusal == Refusal::WrongKey), "10 is lent under 1");
    for (number, address, expected) in
        [(1, Some(10), Refusal::WrongKey), (1, None, Refusal::Unkeyed), (1, Some(77), Refusal::Unkeyed)]
    {
        let answer = world.ledger.begin_return(address, Some(&Want::Number(number, 0)), false, world.now());
        assert!(answer.is_err_and(|unanswered| refusal(unanswered) == expected));
    }
    assert_eq!(counts(&world), before);
}

#[test]
fn a_key_alone_returns_what_is_lent_under_it() {
    let world = World::new(2, 2).lending([10]);
    let Some((LoanKey::Automatic(number), _)) = world.ledger.lent().pop() else { panic!("lent by number") };
    let Ok(mut returning) = world.ledger.begin_return(None, Some(&Want::Number(number, 0)), false, world.now()) else {
        panic!("it is lent")
    };
    assert!(returning.closing().is_none() && returning.keep(world.now()));
    assert_eq!(world.idle(), [10]);
}

#[test]
fn a_reservation_of_a_caller_further_up_is_found_by_its_key() {
    let world = World::new(0, 2);
    let want = world.ask(2, 1);
    let above = must_reserve(world.check_out(&want));
    let Ok(Reserve::Pending(slot)) = world.ledger.reserve(Some(&want), 0) else { panic!("it is pending") };
    assert_eq!(slot, above.slot());
    let Ok(Reserve::New(_)) = world.ledger.reserve(None, 0) else { panic!("there is room for one more") };
}

#[test]
fn a_list_that_was_edited_from_a_stale_reading_is_refused() {
    let world = World::new(2, 3).resting([1, 2]);
    assert!(!world.ledger.replace_idle(&[1], vec![], world.now()));
    assert!(world.ledger.replace_idle(&[1, 2], vec![(3, world.thing(3)), (1, world.thing(1))], world.now()));
    assert_eq!(world.idle(), [3, 1]);
    assert_eq!(world.borrow(), 1);
}

#[test]
fn a_loan_made_elsewhere_is_inserted_removed_and_counted() {
    let world = World::new(0, 1);
    insert(&world, 7, 1);
    assert!(world.is_full());
    let struck = world.ledger.remove_loan(&Want::Number(7, 0)).expect("nothing to compare");
    assert_eq!(struck.map(|connection| connection.name), Some(1));
    assert!(world.ledger.remove_loan(&Want::Number(7, 0)).expect("nothing to compare").is_none());
    world.open([2]);
}

#[test]
fn a_loan_that_is_inserted_replaces_one_under_an_equal_key() {
    let world = World::new(0, 2);
    open_by_key(&world, 2, 20);
    world.insert_by_key(2, 21);
    assert_eq!((world.lent(), counts(&world)), (vec![21], (0, 1, 0, 0, 0)));
}

#[test]
fn the_collector_sees_every_handle_and_is_never_blocked() {
    let world = World::new(1, 2);
    open_by_key(&world, 2, 20);
    world.open([10]);
    let mut seen = Vec::new();
    world.ledger.try_visit(|thing| seen.push(thing.name));
    seen.sort_unstable();
    assert_eq!(seen, [2, 10, 20]);
}

#[test]
fn an_automatic_number_that_is_being_opened_is_waited_for_and_not_by_its_opener() {
    let world = World::new(0, 2);
    let opening = must_reserve(world.check_out(&Want::Number(7, 1)));
    let again = world.check_out(&Want::Number(7, 1));
    assert!(again.is_err_and(|unanswered| refusal(unanswered) == Refusal::Reentrant));
    let mut waiter = world.queue(Want::Number(7, 2), &[Busy::KeyOpening]);
    world.fulfil(&opening, 70).expect("open");
    assert_eq!(waiter.wakes(), 0, "its opener has not finished with it");
    drop(opening);
    assert_eq!((waiter.wakes(), waiter.claim()), (1, 70));
}

#[test]
fn a_reservation_is_not_filled_by_another_caller() {
    let world = World::new(0, 2);
    let _above = reserve_key(&world, 2, 1);
    drop(reserve_anew(&world, 2, 9));
}

#[test]
fn a_second_connection_under_a_key_takes_the_place_of_the_first() {
    let world = World::new(0, 2);
    open_by_key(&world, 2, 20);
    world.fulfil(&reserve_anew(&world, 2, 1), 21).expect("open");
    assert_eq!(world.lent(), [21]);
    assert!(world.begin_return(20).is_err_and(|refusal| refusal == Refusal::Unkeyed));
    let found = resolve_key(&mut world.ask(2, 1), |want| world.ledger.loan(want));
    assert_eq!(found.expect("open").map(|connection| connection.name), Some(21));
}

#[test]
fn a_connection_that_was_to_be_idle_is_refused_where_maxconn_was_lowered_meanwhile() {
    let world = World::new(1, 1);
    let Ok(Reserve::New(reservation)) = world.ledger.reserve(None, 0) else { panic!("there is room") };
    drop(world.ledger.set_maxconn(0));
    assert_eq!(world.fulfil(&reservation, 1), Err(Refusal::Exhausted));
    drop(reservation);
    assert_eq!(counts(&world), (0, 0, 0, 0, 0));
}

#[test]
fn of_two_loans_of_one_object_the_later_is_returned_first_and_a_guess_does_not_choose() {
    let world = World::new(0, 2);
    insert(&world, 7, 5);
    insert(&world, 3, 5);
    assert!(!world.take_back_clean(5), "which of the two is for the slow path to say");
    assert!(matches!(world.ledger.loan_at(5), Some((_, LoanKey::Automatic(3)))));
    drop(world.begin_return(5).expect("lent"));
    assert!(matches!(world.ledger.loan_at(5), Some((_, LoanKey::Automatic(7)))));
}

#[test]
fn a_loan_that_is_inserted_wakes_the_waiter_for_its_key() {
    let world = World::new(0, 1).lending([1]);
    let waiter = world.join_for(2, 1);
    world.insert_by_key(2, 20);
    assert_eq!(waiter.wakes(), 1);
}

#[test]
fn a_connection_is_its_openers_until_the_opener_has_finished() {
    let world = World::new(0, 3);
    let opening = reserve_key(&world, 2, 1);
    world.fulfil(&opening, 20).expect("open");
    assert_eq!(show(&by_key(&world, 2, 1)), "lent 20", "the opener itself has it");
    assert_eq!(show(&by_key(&world, 2, 2)), "KeyOpening, waiting: false");
    drop(opening);
    assert_eq!(show(&by_key(&world, 2, 2)), "lent 20");
}

#[test]
fn what_was_filed_before_the_opener_failed_is_given_to_be_closed_and_nothing_else() {
    let world = World::new(0, 1);
    let opening = reserve_key(&world, 2, 1);
    world.fulfil(&opening, 20).expect("open");
    let filed = opening.fail(connect_error("late"), None).expect("it was filed");
    assert_eq!((filed.connection().name, counts(&world)), (20, (0, 0, 0, 1, 0)));
    drop(filed);
    assert!(reserve_key(&world, 2, 1).fail(connect_error("at once"), None).is_none());
    open_by_key(&world, 2, 21);
    assert_eq!(world.lent(), [21]);
}

#[test]
fn an_opener_that_connects_again_needs_no_more_room() {
    let world = World::new(0, 1);
    let want = world.ask(2, 1);
    let opening = must_reserve(world.check_out(&want));
    for name in [20, 21] {
        let Ok(Reserve::Pending(slot)) = world.ledger.reserve(Some(&want), 0) else { panic!("it is pending") };
        world.ledger.fulfil(slot, name as usize, &world.thing(name), world.now()).expect("open");
    }
    drop(opening);
    assert_eq!((world.lent(), counts(&world)), (vec![21], (0, 1, 0, 0, 0)));
    drop(world.begin_return(21).expect("lent"));
}

#[test]
fn a_waiter_for_a_key_and_then_for_room_keeps_its_turn() {
    let world = World::new(1, 1);
    let opening = reserve_key(&world, 2, 1);
    let (mut first, second) = (world.follow(2, 2), world.join());
    world.fill(opening, 20);
    // Before the follower has come to look, the connection is returned.
    assert!(world.give_back(20));
    assert_eq!([first.wakes(), second.wakes(), first.claim() as usize], [1, 0, 20]);
}

/// Opens a key, lets another caller wait for it, and finishes the opening.
fn followed(world: &World) -> Queued<'_> {
    let opening = reserve_key(world, 2, 1);
    let waiter = world.follow(2, 2);
    world.fulfil(&opening, 20).expect("open");
    waiter
}

#[test]
fn a_waiter_for_a_key_that_was_returned_is_promised_a_free_slot_before_a_newcomer_can_take_it() {
    let world = World::new(0, 2);
    let mut waiter = followed(&world);
    let _returning = world.begin_return(20).expect("lent");
    assert_eq!(waiter.wakes(), 1);
    assert!(world.is_full(), "it is promised");
    assert_eq!(show(&waiter.ask_again()), "reserved");
}

#[test]
fn a_waiter_for_a_key_that_is_returned_has_a_use_for_its_connection() {
    let world = World::new(0, 1);
    let mut waiter = followed(&world);
    assert!(world.begin_return(20).expect("lent").keep(world.now()));
    assert_eq!(waiter.claim(), 20);
}

#[test]
fn a_waiter_that_has_been_served_is_promised_nothing_more_while_it_opens_its_connection() {
    let world = World::new(0, 2);
    let opening = reserve_key(&world, 2, 1);
    let mut waiter = world.follow(2, 2);
    drop(opening);
    let room = waiter.ask_again();
    assert_eq!(show(&room), "reserved");
    assert_eq!(world.ledger.counts().waiting, 0, "although it has not given up its waiter yet");
}

#[test]
fn a_caller_whose_key_is_opened_by_another_does_not_get_back_the_promise_that_it_gives_up() {
    let world = World::new(1, 1).lending([1]);
    let mut waiter = world.join_for(2, 2);
    assert!(world.give_back(1));
    assert_eq!(waiter.wakes(), 1, "it is promised");
    drop(world.ledger.resize(1, 2));
    let _opening = reserve_anew(&world, 2, 3);
    let answer = waiter.wait_on();
    assert_eq!(show(&answer), "KeyOpening, waiting: true");
    assert!(waiter.leave().is_none());
    assert_eq!(world.ledger.counts().idle, 1, "promised to it, it would be given up again, and so for ever");
}

#[test]
fn a_caller_that_waits_for_anothers_promise_of_its_key_is_served_when_that_is_given_up_though_nothing_is_kept() {
    let world = World::new(1, 1).lending([1]);
    let waiter = world.join_for(2, 1);
    assert!(world.give_back(1));
    let mut follower = world.follow(2, 2);
    assert!(waiter.leave().is_none(), "the follower has a use for it");
    assert_eq!((follower.wakes(), follower.claim()), (1, 1));
}

#[test]
fn a_loan_that_is_inserted_is_as_old_as_its_insertion() {
    let world = World::new(1, 2).lending([1]);
    world.pass(900.0);
    insert(&world, 7, 5);
    let loans = world.ledger.loans(world.now());
    let ages: Vec<_> = loans.iter().map(|(loan, connection)| (connection.name, loan.age.as_secs_f64())).collect();
    assert_eq!(ages, [(1, 900.0), (5, 0.0)]);
}
