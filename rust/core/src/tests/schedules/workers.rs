//! Claims about workers that connect for the waiters.

use std::num::NonZeroUsize;

use super::caller::{Caller, Patience};
use super::claims::{be_served, claim, try_to_be_served, waiter};
use super::explorer::note;
use super::things::Parker;
use super::world::{NOW, World};
use crate::{ConnectError, ConnectFailure, Policy, Reserve};

const WORKER: usize = 9;

/// A pool of two with one connection lent, whose waiters a worker serves; the borrower; and what calls the worker.
fn growing() -> (World, u32, Parker) {
    let world = World::new(0, 2);
    let name = Caller::new(&world, 1).borrow(Patience::Endless).expect("there is room");
    world.ledger.set_policy(Policy { grow: NonZeroUsize::new(1), ..Policy::default() });
    let parker = world.parker(WORKER);
    world.ledger.set_workers(parker.clone());
    (world, name, parker)
}

/// Comes when it is called, and connects as long as callers wait. Its first connect fails, if it is to.
fn work(world: &World, parker: &Parker, mut fails: bool) {
    parker.park();
    let mut growth = world.ledger.begin_growth(WORKER as u64);
    while let Some(connecting) = growth {
        let failed = std::mem::take(&mut fails)
            .then(|| (world.thing(0), ConnectError { text: "no".into(), at: NOW }, ConnectFailure::Outage));
        if failed.is_none() {
            // As `_connect` does: it is refused before it connects, or closes what it has opened.
            if let Ok(Reserve::Pending(slot)) = world.ledger.reserve(None, WORKER as u64) {
                let name = world.connect();
                let thing = world.thing(name);
                if world.ledger.fulfil(slot, name as usize, &thing, NOW).is_err() {
                    note(WORKER, "is refused, and closes its connection");
                    assert!(world.model.state().closed, "only a closed pool refuses a connection");
                    world.model.state().disconnect(name);
                }
            }
            world.look();
        }
        let end = connecting.end(failed, NOW);
        world.look();
        if let Some(surplus) = end.surplus {
            world.discard(surplus);
        }
        growth = end.next;
    }
}

#[test]
fn a_worker_and_a_return_serve_all_waiters_in_their_order() {
    claim("a worker and a return serve all waiters in their order", || {
        let (world, name, parker) = growing();
        let waiters = [2, 3].map(|thread| waiter(&world, thread));
        let mut lender = Caller::new(&world, 1);
        shuttle::thread::scope(|scope| {
            let (world, parker) = (&world, &parker);
            scope.spawn(move || work(world, parker, false));
            scope.spawn(move || lender.give_back(name, false));
            waiters.into_iter().for_each(|caller| drop(scope.spawn(move || be_served(caller))));
        });
        world.ledger.set_policy(Policy::default());
        world.end();
    });
}

#[test]
fn a_worker_whose_connect_fails_serves_the_next_waiter() {
    claim("a worker whose connect fails serves the next waiter", || {
        let (world, name, parker) = growing();
        let waiters = [2, 3].map(|thread| waiter(&world, thread));
        let mut lender = Caller::new(&world, 1);
        shuttle::thread::scope(|scope| {
            let (world, parker) = (&world, &parker);
            scope.spawn(move || work(world, parker, true));
            waiters
                .into_iter()
                .for_each(|caller| drop(scope.spawn(move || try_to_be_served(caller, Patience::Endless))));
        });
        lender.give_back(name, false);
        drop(lender);
        world.ledger.set_policy(Policy::default());
        world.end();
    });
}

#[test]
fn a_worker_leaves_nothing_open_in_a_closed_pool_and_nothing_for_a_waiter_that_left() {
    for closes in [true, false] {
        let what = if closes { "a closed pool" } else { "a pool whose waiter left" };
        claim(&format!("a worker leaves nothing open in {what}"), move || {
            let (world, name, parker) = growing();
            let leaves = waiter(&world, 2);
            let mut lender = Caller::new(&world, 1);
            shuttle::thread::scope(|scope| {
                let (world, parker) = (&world, &parker);
                scope.spawn(move || work(world, parker, false));
                let patience = if closes { Patience::Endless } else { Patience::Timeout };
                scope.spawn(move || try_to_be_served(leaves, patience));
                if closes {
                    scope.spawn(move || world.close(4));
                }
            });
            if closes {
                world.model.state().give_back(name);
            } else {
                lender.give_back(name, false);
            }
            drop(lender);
            world.ledger.set_policy(Policy::default());
            world.end();
        });
    }
}
