//! Random sequences of steps in a pool that ages, run on the ledger and on a naive model of it side by side.
//!
//! After every step these agree: the answer, the idle list, the loans and their order, the counts, the statistics, and
//! how often each waiter has been woken. And these hold: the ledger never fills more than maxconn slots; no caller waits
//! while a slot is free, unless a worker has been called to open a connection in it, or connects are held back and the first waiter
//! knows when to ask again; a connection that is expired, suspect or has been idle for too long is never lent unchecked; the
//! housekeeper is woken if a chore is due before it was told to come back; every guard may be dropped at any moment; no
//! handle is dropped and no waiter is woken under the mutex (see `props`).

mod backoff;
mod borrow;
mod doing;
mod duel;
mod growth;
mod model;
mod returns;
mod steps;
mod upkeep;

use proptest::prelude::*;

use self::duel::Duel;
use self::steps::{Step, policies, steps};
use super::lengths;
use super::props::World;
use crate::{Chore, Policy};

fn run(minconn: usize, maxconn: usize, policy: Policy, steps: &[Step]) {
    let world = World::new(minconn, maxconn);
    let mut duel = Duel::new(&world, minconn, maxconn, policy);
    for step in steps {
        let before = duel.model.occupied();
        duel.step(step);
        duel.agree();
        let after = duel.model.occupied();
        assert!(after <= before.max(duel.model.maxconn), "above the limit");
    }
    duel.drop_all();
    drop(duel);
    world.ledger.set_closed(false);
    while let Chore::Return(returning) = world.ledger.chore(model::HOUSEKEEPER, true, world.now()) {
        drop(returning);
    }
    let counts = world.ledger.counts();
    let open = counts.idle + counts.lent;
    assert_eq!((counts.open(), counts.opening, counts.waiting), (open, 0, 0), "something was lost");
}

proptest! {
    #![proptest_config(lengths::config(1000))]

    #[test]
    fn a_pool_does_what_a_few_lists_would_do(minconn in 0..3_usize, extra in 0..3_usize, steps in steps()) {
        run(minconn, minconn + extra, Policy::default(), &steps);
    }

    #[test]
    fn an_ageing_pool_does_what_a_few_lists_and_a_clock_would_do(
        minconn in 0..3_usize,
        extra in 0..3_usize,
        policy in policies(),
        steps in steps(),
    ) {
        run(minconn, minconn + extra, policy, &steps);
    }
}
