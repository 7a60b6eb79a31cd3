//! Anything is called in any order: loans and idle connections are edited by hand, one object is given again and again,
//! callers ask for what they have. There is no model of that. Yet no slot is lost, none is above the limit unless it was
//! inserted by hand, and every handle is dropped in the end.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::granted::Places;
use super::lengths;
use super::props::{TestWaker, Thing, World, connect_error, refusal, resolve_key, seconds, show};
use crate::{
    Busy, CheckOut, Checking, Chore, CloseReason, Closer, ConnectFailure, Growth, Policy, Rank, Refill, Reservation,
    Reserve, Returning, Seek, Waiter, Want,
};

/// What a call is given: which one, and numbers to take things, keys, callers and limits by.
type Step = (Call, usize, u32, bool);

macro_rules! calls {
    ($($call:ident)*) => {
        #[derive(Clone, Copy, Debug)]
        enum Call {
            $($call),*
        }
        const CALLS: &[Call] = &[$(Call::$call),*];
    };
}

calls! {
    Pass Lend LendAs CheckOut Reserve Fulfil Fail EndReservation TakeBackClean TakeBackLoan BeginReturn ReturnByKey Keep CloseFor
    Defer EndReturn Pronounce Next DropCheck IdleCheck EndWait Chore EndRefill Drain InvalidateLoan Reclaim
    EndSeek DropSeek Grant Press EndClosing
    BeginGrowth FulfilGrowth EndGrowth DropGrowth InsertLoan RemoveLoan ReplaceIdle Limits Close CloseGently Unopen OpenPool AwaitReturns Open Reset
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let often = prop::sample::select(vec![Call::Lend, Call::CheckOut, Call::Fulfil, Call::BeginReturn, Call::Keep]);
    let call = prop_oneof![1 => often, 2 => prop::sample::select(CALLS.to_vec())];
    prop::collection::vec((call, 0..4_usize, 0..4_u32, any::<bool>()), lengths::steps(20..150))
}

/// All guards that callers hold.
#[derive(Default)]
struct Hands<'w> {
    reservations: Vec<Reservation<'w, Thing, TestWaker>>,
    /// And whether it is for a loan.
    checks: Vec<(Checking<'w, Thing, TestWaker>, bool)>,
    returns: Vec<Returning<'w, Thing, TestWaker>>,
    waiters: Vec<Waiter<'w, Thing, TestWaker>>,
    refills: Vec<Refill<'w, Thing, TestWaker>>,
    growths: Vec<Growth<'w, Thing, TestWaker>>,
    closers: Vec<Closer<'w, Thing, TestWaker>>,
    seeks: Vec<Seek<'w, Thing, TestWaker>>,
    /// The grantor, if the pool is limited.
    places: Option<Places>,
}

fn take<T>(things: &mut Vec<T>, nth: usize) -> Option<T> {
    (!things.is_empty()).then(|| things.remove(nth % things.len()))
}

fn name(nth: usize) -> u32 {
    u32::try_from(nth).expect("small") + 10
}

fn caller(number: u32) -> u64 {
    u64::from(number % 3) + 1
}

fn want(world: &World, number: u32, flag: bool) -> Want<Thing> {
    match (number, flag) {
        (0, _) => Want::Any(world.ledger.next_number(), caller(number)),
        (1, true) => Want::Number(u64::from(number), caller(number)),
        _ => world.ask(number, caller(number)),
    }
}

impl<'w> Hands<'w> {
    fn note(&mut self, answer: CheckOut<'w, Thing, TestWaker>) {
        match answer {
            CheckOut::Lent(_) | CheckOut::AskAgain | CheckOut::ConnectFailed(_) => {}
            CheckOut::Check(checking) => self.checks.push((checking, true)),
            CheckOut::Reserved(reservation) => self.reservations.push(reservation),
            CheckOut::FinishReturn(returning) => self.returns.push(returning),
            CheckOut::Seek(seek) => self.seeks.push(seek),
            CheckOut::Busy(_, joined) => self.waiters.extend(joined),
        }
    }

    /// Makes a call. Four objects, four keys and three callers are all there is, so that they meet.
    #[expect(clippy::too_many_lines, reason = "there are so many calls")]
    fn call(&mut self, world: &'w World, step: Step) {
        let (call, nth, number, flag) = step;
        let (ledger, now) = (&world.ledger, world.now());
        let (name, asker, caller) = (name(nth), || world.ask(number, caller(number)), caller(number));
        let want = || want(world, number, flag);
        match call {
            Call::Pass => world.pass(f64::from(number)),
            Call::Lend => drop(ledger.lend_idle(caller, now)),
            Call::LendAs => drop(ledger.lend_idle_as(Rank::Normal, flag.then(|| world.key(number)), caller, now)),
            Call::CheckOut => {
                let waiter = if flag { take(&mut self.waiters, nth) } else { None };
                let waker = || Some(world.waker());
                let answer = resolve_key(&mut want(), |want| ledger.check_out(want, waiter.as_ref(), waker(), now));
                self.waiters.extend(waiter);
                if let Ok(answer) = answer {
                    self.note(answer);
                }
            }
            Call::Reserve => {
                let reserved = if flag {
                    resolve_key(&mut want(), |want| ledger.reserve(Some(want), caller))
                } else {
                    ledger.reserve(None, caller).map_err(refusal)
                };
                match reserved {
                    Ok(Reserve::New(reservation)) => self.reservations.push(reservation),
                    Ok(Reserve::Seek(seek)) => self.seeks.push(seek),
                    Ok(Reserve::Pending(_)) | Err(_) => {}
                }
            }
            Call::EndSeek => {
                let Some(seek) = take(&mut self.seeks, nth) else { return };
                let granted = number > 0 && self.places.as_ref().is_some_and(|places| places.take(1) == 1);
                let want = Want::Any(ledger.next_number(), caller);
                if flag {
                    let waker = Some(world.waker());
                    if let Ok(answer) = seek.check_out_as(granted, Rank::Normal, &want, None, waker, now) {
                        self.note(answer);
                    }
                } else if let Ok(Reserve::New(reservation)) = seek.reserve(granted, None, caller) {
                    self.reservations.push(reservation);
                }
            }
            Call::DropSeek => drop(take(&mut self.seeks, nth)),
            Call::Grant => {
                if let Some(places) = &self.places {
                    places.add(ledger.grant(places.take(nth), now));
                }
            }
            Call::Press => self.returns.extend(ledger.press(flag.then_some(nth))),
            Call::EndClosing => ledger.end_closing(),
            Call::Fulfil => {
                if let Some(reservation) = self.reservations.get(nth) {
                    let _refused = world.fulfil(reservation, name);
                }
            }
            Call::Fail => {
                let failed = take(&mut self.reservations, nth)
                    .and_then(|reservation| reservation.fail(connect_error("no"), flag.then(|| world.thing(name))));
                self.returns.extend(failed);
            }
            Call::EndReservation => drop(take(&mut self.reservations, nth)),
            Call::TakeBackClean => drop(world.take_back_clean(name)),
            Call::TakeBackLoan => {
                if let Some((loan, _)) = ledger.loan_at(name as usize) {
                    let _taken = ledger.take_back_any_clean(loan, flag.then(|| world.thing(name)), now);
                    assert!(!flag || !ledger.take_back_clean_loan(loan, now) || !ledger.is_lent(loan));
                }
            }
            Call::BeginReturn => {
                self.returns.extend(ledger.begin_return(Some(name as usize), None, flag, now).ok());
            }
            Call::ReturnByKey => {
                let address = flag.then_some(name as usize);
                let begun = resolve_key(&mut asker(), |want| ledger.begin_return(address, Some(want), false, now));
                self.returns.extend(begun.ok());
            }
            Call::Keep => {
                if let Some(mut returning) = take(&mut self.returns, nth)
                    && (returning.closing().is_some() || !returning.keep(now))
                {
                    self.returns.push(returning);
                }
            }
            Call::CloseFor => {
                if let Some(returning) = self.returns.get_mut(nth) {
                    returning.close_for(CloseReason::Lost);
                }
            }
            Call::Defer => {
                let declined = take(&mut self.returns, nth).and_then(|returning| returning.defer(now));
                self.returns.extend(declined);
            }
            Call::EndReturn => drop(take(&mut self.returns, nth)),
            Call::Pronounce => {
                if let Some((checking, loan)) = self.checks.get(nth) {
                    let _refused = if *loan { checking.lend(now) } else { checking.put_back(now) };
                }
            }
            Call::Next => {
                if let Some((checking, _)) = take(&mut self.checks, nth).filter(|&(_, loan)| loan)
                    && let Ok(answer) = checking.next(CloseReason::Lost, now)
                {
                    self.note(answer);
                }
            }
            Call::DropCheck => {
                if let Some((checking, _)) = take(&mut self.checks, nth) {
                    checking.discard(CloseReason::Lost);
                }
            }
            Call::IdleCheck => {
                if let Some(&slot) = ledger.idle_slots().get(nth) {
                    self.checks.extend(ledger.begin_idle_check(slot, caller, now).map(|checking| (checking, false)));
                }
            }
            Call::EndWait => self.returns.extend(take(&mut self.waiters, nth).and_then(Waiter::leave)),
            Call::Chore => match ledger.chore(caller, true, now) {
                Chore::Return(returning) => self.returns.push(returning),
                Chore::Open(refill) => self.refills.push(refill),
                Chore::Report(_) | Chore::Rest(_) => {}
            },
            Call::EndRefill => {
                if let Some(refill) = take(&mut self.refills, nth).filter(|_| flag) {
                    refill.fail(now);
                }
            }
            Call::BeginGrowth => self.growths.extend(ledger.begin_growth(caller)),
            Call::FulfilGrowth => {
                if let Ok(Reserve::Pending(slot)) = ledger.reserve(None, caller) {
                    let _refused = ledger.fulfil(slot, name as usize, &world.thing(name), now);
                }
            }
            Call::EndGrowth => {
                if let Some(growth) = take(&mut self.growths, nth) {
                    let failed = flag.then(|| {
                        (
                            world.thing(98),
                            connect_error("no"),
                            [ConnectFailure::Other, ConnectFailure::Outage, ConnectFailure::Full][nth % 3],
                        )
                    });
                    let end = growth.end(failed, now);
                    self.returns.extend(end.surplus);
                    self.growths.extend(end.next);
                }
            }
            Call::DropGrowth => drop(take(&mut self.growths, nth)),
            Call::Drain => self.returns.extend(ledger.drain(caller)),
            Call::InvalidateLoan => {
                if let Some((slot, _)) = ledger.loan_at(name as usize) {
                    ledger.invalidate(slot, flag);
                }
            }
            Call::Reclaim => {
                if let Some((slot, _)) = ledger.loan_at(name as usize) {
                    ledger.annotate(slot, world.thing(99));
                    ledger.replace_handle(slot, world.thing(name));
                    drop(flag.then(|| world.reclaim(slot)));
                }
            }
            Call::InsertLoan => {
                let entered = world.thing(name);
                let _refused =
                    resolve_key(&mut want(), |want| ledger.insert_loan(want, name as usize, &entered, world.now()));
            }
            Call::RemoveLoan => drop(resolve_key(&mut want(), |want| ledger.remove_loan(want))),
            Call::ReplaceIdle => {
                let mut idle: Vec<_> = ledger.idle().into_iter().map(|thing| (thing.name as usize, thing)).collect();
                let seen: Vec<_> = idle.iter().map(|&(address, _)| address).collect();
                if flag {
                    idle.push((name as usize, world.thing(name)));
                } else {
                    drop(take(&mut idle, nth));
                }
                let _stale = ledger.replace_idle(&seen, idle, world.now());
            }
            Call::Limits => self.returns.extend(ledger.resize(nth, number as usize)),
            Call::Close => drop(ledger.close()),
            Call::CloseGently => self.returns.extend(ledger.close_gently(caller).into_iter().flatten()),
            Call::Unopen => self.returns.extend(ledger.unopen(caller)),
            Call::OpenPool => drop(ledger.open()),
            Call::AwaitReturns => self.closers.extend(ledger.await_returns(world.waker())),
            Call::Open => ledger.set_closed(false),
            Call::Reset => ledger.reset(),
        }
    }
}

fn occupied(world: &World) -> usize {
    let counts = world.ledger.counts();
    counts.open() + counts.opening
}

proptest! {
    #![proptest_config(lengths::config(1000))]

    #[test]
    fn whatever_is_called_in_whatever_order_nothing_is_lost(minconn in 0..3_usize, maxconn in 0..5_usize, grow in 0..3_usize, limit in prop::option::of(0..5_usize), steps in steps()) {
        let world = World::with(minconn, maxconn, Policy {
            check_after: seconds(1.0),
            max_idle: seconds(4.0),
            max_lifetime: seconds(20.0),
            grow: NonZeroUsize::new(grow),
            has_housekeeper: true,
            ..Policy::default()
        });
        let housekeeper = world.housekeeper();
        world.ledger.set_workers(world.waker());
        let mut hands = Hands { places: limit.map(|limit| Places::of(&world, limit)), ..Hands::default() };
        for &step in &steps {
            let before = occupied(&world);
            hands.call(&world, step);
            let (counts, by_hand) = (world.ledger.counts(), matches!(step.0, Call::InsertLoan | Call::ReplaceIdle));
            prop_assert!(by_hand || occupied(&world) <= before.max(counts.maxconn), "above the limit after {step:?}");
            if let (Some(limit), Some(places)) = (limit, &hands.places) {
                let granted = world.ledger.granted();
                prop_assert!(by_hand || occupied(&world) <= before.max(granted), "more than is granted after {step:?}");
                prop_assert_eq!(places.free() + granted, limit, "a grant is lost after {:?}", step);
            }
            prop_assert_eq!((world.idle().len(), world.lent().len()), (counts.idle, counts.lent), "after {:?}", step);
        }
        let places = hands.places.take();
        drop(hands);
        // An open pool keeps the error of a connect that holds others back.
        world.ledger.set_closed(true);
        world.ledger.set_closed(false);
        while let Chore::Return(returning) = world.ledger.chore(7, true, world.now()) {
            drop(returning);
        }
        for name in world.lent() {
            drop(world.begin_return(name).expect("it is lent"));
        }
        let idle: Vec<_> = world.idle().into_iter().map(|name| name as usize).collect();
        prop_assert!(world.ledger.replace_idle(&idle, vec![], world.now()));
        prop_assert_eq!((occupied(&world), world.ledger.counts().waiting), (0, 0));
        let (made, dropped) = (world.made.load(Ordering::SeqCst), world.dropped.lock().expect("no panic").len());
        prop_assert_eq!(made, dropped, "a handle is still held");
        // The workers that were called come now, in vain.
        (0..3).for_each(|_| drop(world.ledger.begin_growth(7)));
        // What was given out by a close has been closed.
        world.ledger.end_closing();
        prop_assert_eq!(places.map(|places| places.free()), limit, "a grant is lost");
        world.ledger.set_limited(false);
        drop(world.ledger.press(None));
        world.ledger.set_policy(Policy { max_idle: seconds(4.0), has_housekeeper: true, ..Policy::default() });
        drop(world.ledger.resize(1, 1));
        world.ledger.hurry_refill();
        drop(world.take_refill());
        world.open([1]);
        let answer = world.check_out(&world.any());
        prop_assert!(matches!(answer, Ok(CheckOut::Busy(Busy::Full, None))), "nothing is in transit: {}", show(&answer));
        prop_assert!(world.take_back_clean(1), "there is no alias any more");
        drop(housekeeper);
    }
}
