//! Granted room: a pretended grantor has so many places, gives them at once, later or never, and takes them back.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::props::{
    Queued, TestLedger, TestWaker, Thing, World, by_key, connect_error, counts, must_reserve, seconds, show,
};
use crate::{
    Busy, CheckOut, Chore, CloseReason, Grantor, Policy, Rank, Refusal, Reservation, Reserve, Seek, Unanswered, Want,
};

/// A pretended grantor.
#[derive(Clone)]
pub(super) struct Places(Arc<State>);

struct State {
    free: AtomicUsize,
    wants: AtomicUsize,
    /// Whether it does not hear what it is told.
    is_deaf: AtomicBool,
    ledger: Weak<TestLedger>,
}

impl Grantor for Places {
    fn release(&self, count: usize) -> bool {
        self.assert_unlocked();
        let hears = !self.0.is_deaf.load(Ordering::SeqCst);
        self.0.free.fetch_add(if hears { count } else { 0 }, Ordering::SeqCst);
        hears
    }

    fn wants(&self) -> bool {
        self.assert_unlocked();
        self.0.wants.fetch_add(1, Ordering::SeqCst);
        !self.0.is_deaf.load(Ordering::SeqCst)
    }
}

impl Places {
    /// Limits a world to so many.
    pub(super) fn of(world: &World, limit: usize) -> Self {
        let ledger = Arc::downgrade(&world.ledger);
        let (free, wants, is_deaf) = (AtomicUsize::new(limit), AtomicUsize::default(), AtomicBool::default());
        let places = Self(Arc::new(State { free, wants, is_deaf, ledger }));
        world.ledger.set_limited(true);
        world.ledger.set_grantor(Box::new(places.clone()));
        places
    }

    fn assert_unlocked(&self) {
        if let Some(ledger) = self.0.ledger.upgrade() {
            assert!(ledger.is_unlocked(), "the grantor was called while the mutex was held");
        }
    }

    /// Lets it hear what it is told, or not.
    fn deafen(&self, is_deaf: bool) {
        self.0.is_deaf.store(is_deaf, Ordering::SeqCst);
    }

    pub(super) fn free(&self) -> usize {
        self.0.free.load(Ordering::SeqCst)
    }

    /// Counts how often waiters began to want a grant.
    fn wants(&self) -> usize {
        self.0.wants.load(Ordering::SeqCst)
    }

    /// Makes so many more places free.
    pub(super) fn add(&self, count: usize) {
        self.0.free.fetch_add(count, Ordering::SeqCst);
    }

    /// Takes up to so many places.
    pub(super) fn take(&self, most: usize) -> usize {
        let less = |free: usize| Some(free - free.min(most));
        self.0.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).map_or(0, |free| free.min(most))
    }

    /// Grants what the waiters of a world want, as the grantor's own thread does.
    fn serve(&self, world: &World) -> usize {
        let taken = self.take(world.ledger.wanted(world.now()));
        let unused = world.ledger.grant(taken, world.now());
        self.add(unused);
        taken - unused
    }
}

fn limited(minconn: usize, maxconn: usize, limit: usize) -> (World, Places) {
    let world = World::new(minconn, maxconn);
    let places = Places::of(&world, limit);
    (world, places)
}

fn must_seek(world: &World) -> Seek<'_, Thing, TestWaker> {
    match world.check_out(&world.any()) {
        Ok(CheckOut::Seek(seek)) => seek,
        other => panic!("nothing is sought: {}", show(&other)),
    }
}

type Answer<'w> = Result<CheckOut<'w, Thing, TestWaker>, Unanswered<Thing>>;

/// Ends a seek of a caller that does not wait.
fn end<'w>(world: &World, seek: Seek<'w, Thing, TestWaker>, granted: bool) -> Answer<'w> {
    seek.check_out_as(granted, Rank::Normal, &world.any(), None, None, world.now())
}

/// Seeks a place for a key, for a caller.
fn seek_key(world: &World, key: u32, caller: u64) -> (Want<Thing>, Seek<'_, Thing, TestWaker>) {
    let want = world.ask(key, caller);
    match world.check_out(&want) {
        Ok(CheckOut::Seek(seek)) => (want, seek),
        other => panic!("nothing is sought: {}", show(&other)),
    }
}

/// Seeks a place, gets it, and has room.
fn reserve<'w>(world: &'w World, places: &Places) -> Reservation<'w, Thing, TestWaker> {
    let seek = must_seek(world);
    assert_eq!(places.take(1), 1, "a place is free");
    super::props::must_reserve(end(world, seek, true))
}

fn open(world: &World, places: &Places, names: impl IntoIterator<Item = u32>) {
    names.into_iter().for_each(|name| world.fill(reserve(world, places), name));
}

/// Joins the queue of a limited pool.
fn join(world: &World) -> Queued<'_> {
    world.queue(world.any(), &[Busy::Limited])
}

/// Seeks, is refused, and joins the queue.
fn join_refused(world: &World) -> crate::Waiter<'_, Thing, TestWaker> {
    let seek = must_seek(world);
    match seek.check_out_as(false, Rank::Normal, &world.any(), None, Some(world.waker()), world.now()) {
        Ok(CheckOut::Busy(Busy::Limited, Some(waiter))) => waiter,
        other => panic!("it does not wait: {}", show(&other)),
    }
}

#[test]
fn room_is_sought_before_it_is_reserved_and_given_back_when_nobody_needs_it() {
    let (world, places) = limited(0, 2, 5);
    let room = reserve(&world, &places);
    assert_eq!((world.ledger.granted(), places.free()), (1, 4));
    world.fill(room, 1);
    assert!(!world.give_back(1), "the pool keeps none");
    assert_eq!((world.ledger.granted(), places.free()), (0, 5));
}

#[test]
fn a_loan_that_needs_no_connect_seeks_nothing() {
    let (world, places) = limited(1, 2, 1);
    open(&world, &places, [1]);
    assert!(world.give_back(1));
    assert_eq!((world.borrow(), places.free()), (1, 0));
}

#[test]
fn a_caller_that_is_refused_is_told_that_it_was_the_limit() {
    let (world, _places) = limited(0, 2, 0);
    let refused = end(&world, must_seek(&world), false);
    assert_eq!(show(&refused), "Limited, waiting: false");
    assert!(matches!(world.ledger.reserve(None, 1), Ok(Reserve::Seek(_))));
    let Ok(Reserve::Seek(seek)) = world.ledger.reserve(None, 1) else { panic!("it is sought") };
    assert!(matches!(seek.reserve(false, None, 1), Err(Unanswered::Refused(Refusal::Limited))));
}

#[test]
fn a_full_pool_seeks_nothing_whatever_the_limit() {
    let (world, places) = limited(0, 1, 5);
    open(&world, &places, [1]);
    assert!(world.is_full());
}

#[test]
fn no_more_is_sought_than_the_pool_may_open() {
    let (world, _places) = limited(0, 2, 5);
    let (_first, second) = (must_seek(&world), must_seek(&world));
    assert_eq!(show(&world.check_out(&world.any())), "Limited, waiting: false");
    drop(second);
    drop(must_seek(&world));
}

#[test]
fn a_caller_whose_key_another_seeks_a_place_for_waits_for_that_one_and_gets_its_connection() {
    let (world, places) = limited(0, 1, 5);
    let (want, seek) = seek_key(&world, 2, 1);
    assert_eq!(show(&world.check_out(&world.any())), "Limited, waiting: false", "it wants another connection");
    let mut follower = world.follow(2, 2);
    places.take(1);
    let room = must_reserve(seek.check_out_as(true, Rank::Normal, &want, None, None, world.now()));
    assert_eq!((follower.wakes(), show(&follower.wait_on())), (0, "KeyOpening, waiting: false".to_owned()));
    world.fill(room, 1);
    assert_eq!((follower.wakes(), follower.claim()), (1, 1));
}

#[test]
fn a_caller_whose_key_another_sought_a_place_for_in_vain_is_told_so_and_has_its_place_in_the_queue() {
    let (world, places) = limited(0, 2, 0);
    let (want, seek) = seek_key(&world, 2, 1);
    let mut follower = world.follow(2, 2);
    assert_eq!(world.ledger.wanted(world.now()), 0, "it waits for the other");
    let refused = seek.check_out_as(false, Rank::Normal, &want, None, None, world.now());
    assert_eq!(show(&refused), "Limited, waiting: false");
    assert_eq!((follower.wakes(), places.wants(), world.ledger.wanted(world.now())), (1, 1, 1));
    assert_eq!(show(&world.check_out(&world.any())), "Limited, waiting: false", "no newcomer overtakes it");
    places.add(1);
    assert_eq!((places.serve(&world), show(&follower.ask_again())), (1, "reserved".to_owned()));
}

#[test]
fn a_place_that_the_seeker_cannot_take_yet_goes_to_the_caller_that_waited_for_it() {
    let (world, places) = limited(0, 3, 2);
    let (other, seek_other) = seek_key(&world, 4, 3);
    let (want, seek) = seek_key(&world, 3, 1);
    let mut follower = world.follow(3, 2);
    places.take(2);
    // Keys of one parity have one hash: 5 is compared with what has come meanwhile.
    world.insert_by_key(5, 50);
    let asked = seek.check_out_as(true, Rank::Normal, &want, None, None, world.now());
    assert!(matches!(asked, Err(Unanswered::Compare(_))), "{}", show(&asked));
    drop(must_reserve(seek_other.check_out_as(true, Rank::Normal, &other, None, None, world.now())));
    assert_eq!((follower.wakes(), show(&follower.ask_again())), (1, "reserved".to_owned()));
}

#[test]
fn a_caller_that_waited_for_one_that_could_not_ask_the_grantor_seeks_by_itself() {
    let (world, places) = limited(0, 1, 1);
    let (_want, seek) = seek_key(&world, 2, 1);
    let followers = [world.follow(2, 2), world.follow(2, 3)];
    drop(seek);
    assert_eq!(followers.each_ref().map(Queued::wakes), [1, 1]);
    let [mut second, mut third] = followers;
    let Ok(CheckOut::Seek(seek)) = second.wait_on() else { panic!("it seeks") };
    assert_eq!(show(&third.wait_on()), "KeyOpening, waiting: false");
    places.take(1);
    let want = world.ask(2, 2);
    world.fill(must_reserve(seek.check_out_as(true, Rank::Normal, &want, None, None, world.now())), 1);
    assert_eq!((third.wakes(), third.claim()), (2, 1));
    drop(second);
}

#[test]
fn a_caller_that_seeks_waits_for_no_other_seeker() {
    let (world, _places) = limited(0, 2, 2);
    let (_first, _second) = (seek_key(&world, 2, 1), seek_key(&world, 3, 2));
    assert_eq!(show(&by_key(&world, 3, 1)), "Limited, waiting: false");
    assert_eq!(show(&by_key(&world, 2, 1)), "Limited, waiting: false", "nor for itself");
    assert_eq!(show(&by_key(&world, 3, 3)), "KeyOpening, waiting: false");
}

#[test]
fn a_place_that_the_housekeeping_seeks_is_in_transit_for_all_but_itself() {
    let (world, _places) = limited(1, 1, 1);
    let Ok(Reserve::Seek(seek)) = world.ledger.reserve(None, 7) else { panic!("it is sought") };
    assert_eq!(show(&by_key(&world, 2, 7)), "Limited, waiting: false");
    let mut waiter = world.queue(world.ask(2, 1), &[Busy::InTransit]);
    assert!(seek.reserve(false, None, 7).is_err());
    assert_eq!(show(&waiter.ask_again()), "Limited, waiting: false");
}

#[test]
fn a_caller_gets_what_came_back_while_it_sought_and_its_grant_is_given_back() {
    for granted in [false, true] {
        let (world, places) = limited(1, 2, 2);
        open(&world, &places, [1]);
        let seek = must_seek(&world);
        assert!(world.give_back(1));
        places.take(usize::from(granted));
        assert_eq!(show(&end(&world, seek, granted)), "lent 1");
        assert_eq!((world.ledger.granted(), places.free()), (1, 1));
    }
}

#[test]
fn a_grant_that_comes_after_the_pool_was_closed_is_given_back() {
    let (world, places) = limited(0, 2, 2);
    let seek = must_seek(&world);
    drop(world.ledger.close().expect("it is open"));
    places.take(1);
    assert!(matches!(end(&world, seek, true), Err(Unanswered::Refused(Refusal::Closed))));
    assert_eq!((world.ledger.granted(), places.free()), (0, 2));
}

#[test]
fn a_newcomer_seeks_nothing_while_others_wait() {
    let (world, places) = limited(0, 2, 0);
    let _first = join_refused(&world);
    let _second = join(&world);
    assert_eq!((world.ledger.wanted(world.now()), places.wants()), (2, 1));
}

#[test]
fn the_grantor_serves_the_waiters_in_their_order() {
    let (world, places) = limited(0, 2, 0);
    let first = join_refused(&world);
    let (second, third) = (join(&world), join(&world));
    places.add(5);
    assert_eq!(places.serve(&world), 2, "there is room for two");
    assert_eq!((second.wakes(), third.wakes()), (1, 0));
    assert_eq!((world.ledger.granted(), places.free()), (2, 3));
    assert_eq!(counts(&world), (0, 0, 2, 0, 1));
    drop(first);
    assert_eq!((third.wakes(), places.free()), (1, 3), "its promise goes to the next, with its grant");
    drop((second, third));
    assert_eq!((world.ledger.granted(), places.free()), (0, 5));
}

#[test]
fn a_slot_that_is_freed_keeps_its_grant_for_the_first_waiter() {
    let (world, places) = limited(0, 3, 1);
    open(&world, &places, [1]);
    let _first = join_refused(&world);
    world.begin_return(1).expect("it is lent").close_for(CloseReason::Lost);
    assert_eq!((counts(&world).2, world.ledger.granted(), places.free()), (1, 1, 0));
}

#[test]
fn the_grantor_is_told_again_once_the_waiters_want_grants_anew_or_if_it_has_not_heard() {
    let (world, places) = limited(0, 3, 0);
    drop(join_refused(&world));
    assert_eq!((places.wants(), world.ledger.wanted(world.now())), (1, 0));
    places.deafen(true);
    let _first = join_refused(&world);
    places.deafen(false);
    let (_second, _third) = (join(&world), join(&world));
    assert_eq!(places.wants(), 3, "it has not heard of the first");
}

#[test]
fn a_grant_that_the_grantor_has_not_taken_back_is_given_back_with_the_next_edit() {
    let (world, places) = limited(0, 2, 1);
    open(&world, &places, [1]);
    places.deafen(true);
    assert!(!world.give_back(1));
    places.deafen(false);
    assert_eq!((world.ledger.granted(), places.free()), (1, 0));
    world.ledger.counts();
    assert_eq!((world.ledger.granted(), places.free()), (0, 1));
}

#[test]
fn grants_for_nobody_come_back() {
    let (world, places) = limited(0, 3, 4);
    assert_eq!(world.ledger.grant(2, world.now()), 2);
    let waiter = join_refused(&world);
    drop(world.ledger.close());
    assert_eq!((world.ledger.wanted(world.now()), world.ledger.grant(2, world.now())), (0, 2));
    drop(waiter);
    assert_eq!((world.ledger.granted(), places.free()), (0, 4));
}

#[test]
fn a_failed_connect_gives_its_grant_back_or_leaves_it_to_the_next() {
    let (world, places) = limited(0, 2, 1);
    let room = reserve(&world, &places);
    let waiter = join_refused(&world);
    drop(room.fail(connect_error("no"), None));
    assert_eq!((counts(&world).2, places.free()), (1, 0));
    drop(waiter);
    assert_eq!(places.free(), 1);
}

#[test]
fn under_pressure_idle_connections_are_closed_oldest_first_and_returns_are_not_kept() {
    let (world, places) = limited(1, 4, 4);
    world.ledger.set_policy(Policy { max_idle: seconds(9.0), ..Policy::default() });
    open(&world, &places, 1..=4);
    assert!((1..=3).all(|name| world.give_back(name)));
    let closing = world.ledger.press(Some(2));
    assert_eq!(closing.iter().map(|closing| closing.connection().name).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(places.free(), 0, "they are open until they are closed");
    drop(closing);
    assert_eq!((places.free(), world.borrow()), (2, 3));
    let waiter = world.queue(world.any(), &[Busy::Limited]);
    assert!(world.ledger.press(Some(0)).is_empty());
    assert!(!world.give_back(3), "a process with a long queue shares, too");
    assert_eq!((waiter.wakes(), world.ledger.wanted(world.now()), places.free()), (0, 0, 3), "minconn is its own");
    assert!(world.take_back_clean(4) || world.give_back(4));
    assert_eq!(waiter.wakes(), 1);
}

#[test]
fn once_the_pressure_ends_the_waiters_want_grants_and_returns_are_kept() {
    let (world, places) = limited(0, 2, 1);
    world.ledger.set_policy(Policy { max_idle: seconds(9.0), ..Policy::default() });
    open(&world, &places, [1]);
    drop(world.ledger.press(Some(0)));
    let _waiter = join(&world);
    assert_eq!((world.ledger.wanted(world.now()), places.wants()), (0, 0));
    drop(world.ledger.press(None));
    assert_eq!((world.ledger.wanted(world.now()), places.wants()), (1, 1));
    assert!(world.give_back(1));
}

#[test]
fn a_pool_that_is_closed_gives_back_what_has_been_closed() {
    let (world, places) = limited(2, 3, 3);
    open(&world, &places, [1, 2]);
    let room = reserve(&world, &places);
    assert!(world.give_back(2));
    let closing = world.ledger.close().expect("it is open");
    assert_eq!((closing.len(), places.free()), (2, 0), "they are still open");
    drop(closing);
    world.ledger.end_closing();
    assert_eq!(places.free(), 2);
    drop(room);
    assert_eq!(places.free(), 3);
}

#[test]
fn what_is_lent_by_a_gently_closed_pool_is_given_back_when_it_comes_back() {
    let (world, places) = limited(2, 2, 2);
    open(&world, &places, [1, 2]);
    assert!(world.give_back(2));
    drop(world.ledger.close_gently(1));
    assert_eq!(places.free(), 1);
    drop(world.begin_return(1));
    assert_eq!(places.free(), 2);
}

#[test]
fn a_deferred_return_is_given_back_once_it_has_been_closed_with_the_pool() {
    let (world, places) = limited(2, 2, 2);
    open(&world, &places, [1]);
    world.defer_returns([1]);
    let closing = world.ledger.close().expect("it is open");
    assert_eq!((closing.len(), places.free()), (1, 1));
    world.ledger.end_closing();
    assert_eq!(places.free(), 2);
}

#[test]
fn a_forked_child_has_been_granted_nothing_and_gives_nothing_back() {
    let (world, places) = limited(0, 2, 3);
    open(&world, &places, [1]);
    drop(world.ledger.press(Some(0)));
    world.ledger.enter_process(5, 1);
    assert_eq!((world.ledger.granted(), places.free()), (0, 2));
    let (_first, _second) = (must_seek(&world), must_seek(&world));
}

#[test]
fn a_pool_that_is_made_anew_gives_everything_back() {
    let (world, places) = limited(0, 2, 3);
    open(&world, &places, [1]);
    world.ledger.reset();
    assert_eq!(places.free(), 3);
}

#[test]
fn a_connection_that_was_forgotten_gives_its_grant_back_with_the_next_edit() {
    let (world, places) = limited(0, 2, 1);
    open(&world, &places, [1]);
    world.ledger.reclaim(world.loan(1), None, world.now());
    assert_eq!(places.free(), 0, "the grantor cannot be called in the midst of anything");
    world.ledger.counts();
    assert_eq!(places.free(), 1);
}

#[test]
fn a_worker_fills_what_a_caller_was_granted() {
    let world = World::with(1, 2, Policy { grow: NonZeroUsize::new(2), ..Policy::default() });
    let (calls, places) = (world.waker(), Places::of(&world, 1));
    world.ledger.set_workers(calls.clone());
    let seek = must_seek(&world);
    places.take(1);
    let asked = seek.check_out_as(true, Rank::Normal, &world.any(), None, Some(world.waker()), world.now());
    let Ok(CheckOut::Busy(Busy::InTransit, Some(waiter))) = asked else { panic!("it does not wait: {}", show(&asked)) };
    assert_eq!((calls.wakes(), world.ledger.granted(), world.ledger.wanted(world.now())), (1, 1, 0));
    let growth = world.ledger.begin_growth(7).expect("it was called");
    assert_eq!(world.ledger.granted(), 1);
    drop(growth.end(None, world.now()));
    drop(waiter);
    assert_eq!((world.ledger.granted(), places.free()), (0, 1));
}

#[test]
fn a_worker_is_called_when_the_grantor_grants_and_what_it_does_not_need_is_given_back() {
    let world = World::with(0, 2, Policy { grow: NonZeroUsize::new(2), ..Policy::default() });
    let (calls, places) = (world.waker(), Places::of(&world, 0));
    world.ledger.set_workers(calls.clone());
    let waiter = join_refused(&world);
    assert_eq!((calls.wakes(), places.wants()), (0, 1));
    places.add(2);
    assert_eq!((places.serve(&world), calls.wakes(), places.free()), (1, 1, 1));
    drop(waiter);
    assert!(world.ledger.begin_growth(7).is_none(), "nobody waits any more");
    assert_eq!(places.free(), 2);
}

#[test]
fn a_missing_connection_is_sought_and_a_refusal_is_followed_by_a_pause() {
    let world = World::with(1, 2, Policy { has_housekeeper: true, ..Policy::default() });
    let _places = Places::of(&world, 0);
    let refill = world.take_refill();
    let Ok(Reserve::Seek(seek)) = world.ledger.reserve(None, 7) else { panic!("it is sought") };
    assert!(seek.reserve(false, None, 7).is_err());
    refill.fail(world.now());
    assert!(matches!(world.ledger.chore(7, true, world.now()), Chore::Rest(until) if until > world.now()));
}

#[test]
fn a_caller_with_priority_seeks_though_others_wait_and_the_reserve_is_left() {
    let world = World::with(0, 3, Policy { reserve: 1, ..Policy::default() });
    let places = Places::of(&world, 1);
    open(&world, &places, [1]);
    let _waiter = join_refused(&world);
    let other = join(&world);
    assert_eq!(world.ledger.wanted(world.now()), 1, "one slot is left to callers with priority");
    let asked = world.ledger.check_out_as(Rank::Priority, &world.any(), None, None, world.now());
    assert!(matches!(asked, Ok(CheckOut::Seek(_))), "{}", show(&asked));
    assert_eq!(other.wakes(), 0);
}

#[test]
fn while_connects_are_held_back_nothing_is_sought() {
    let pauses = (seconds(1.0), seconds(1.0));
    let world = World::with(0, 3, Policy { reconnect_backoff: Some(pauses), ..Policy::default() });
    let places = Places::of(&world, 3);
    drop(reserve(&world, &places).fail(connect_error("no"), Some(world.thing(9))));
    let asked = world.ledger.check_out(&world.any(), None, Some(world.waker()), world.now());
    let Ok(CheckOut::Busy(Busy::BackingOff { next_try, .. }, Some(mut waiter))) = asked else {
        panic!("it is not held back: {}", show(&asked))
    };
    assert_eq!((next_try > world.now(), world.ledger.wanted(world.now()), places.wants()), (true, 0, 0));
    world.pass(2.0);
    let asked = world.ledger.check_out(&world.any(), Some(&waiter), Some(world.waker()), world.now());
    let Ok(CheckOut::Busy(Busy::Limited, joined)) = asked else { panic!("it is told more: {}", show(&asked)) };
    waiter = joined.unwrap_or(waiter);
    assert_eq!((places.wants(), places.serve(&world)), (1, 1), "the grantor serves it now");
    drop(waiter);
}
