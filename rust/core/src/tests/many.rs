//! Many waiters and many connections cost a loan no more than few. Each test compares the two in one run, in turns, by the quickest
//! round of each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::props::World;
use crate::Policy;

fn quickest(rounds: usize, mut few: impl FnMut(), mut many: impl FnMut()) -> [Duration; 2] {
    let mut best = [Duration::MAX; 2];
    for _ in 0..rounds {
        for (best, act) in best.iter_mut().zip([&mut few as &mut dyn FnMut(), &mut many]) {
            let began = Instant::now();
            (0..20).for_each(|_| act());
            *best = (*best).min(began.elapsed());
        }
    }
    best
}

fn assert_alike([few, many]: [Duration; 2]) {
    // What looks through all of them takes ten times as long, and more.
    assert!(many < few * 3, "{few:?} with few, {many:?} with many");
}

#[test]
fn a_thousand_waiters_make_a_return_a_claim_and_a_refusal_no_slower() {
    let worlds = [World::new(1, 1).lending([1]), World::new(1, 1).lending([1])];
    let [few, many] = [(&worlds[0], 10), (&worlds[1], 1000)].map(|(world, waiters)| {
        let mut queue: VecDeque<_> = (0..waiters).map(|_| world.join()).collect();
        move || {
            assert!(world.is_full() && world.give_back(1));
            let mut first = queue.pop_front().expect("they wait");
            assert_eq!(first.claim(), 1);
            queue.push_back(world.join());
        }
    });
    assert_alike(quickest(50, few, many));
}

#[test]
fn ten_thousand_connections_make_a_loan_no_slower() {
    let limits = [20, 10_000];
    let worlds = limits.map(|limit| World::with(limit, limit, Policy::default()));
    let [few, many] = [0, 1].map(|at| {
        let world = &worlds[at];
        let half = u32::try_from(limits[at] / 2).expect("few");
        world.open(1..=2 * half);
        (1..=half).for_each(|name| assert!(world.give_back(name)));
        let mut lent: VecDeque<_> = (half + 1..=2 * half).collect();
        move || {
            // Neither the last that was lent, nor the last that came back.
            assert!(world.give_back(lent.pop_front().expect("half are lent")));
            lent.push_back(world.borrow());
            let returning = world.begin_return(lent.pop_front().expect("half are lent"));
            assert!(returning.expect("it is lent").keep(world.now()));
            lent.push_back(world.borrow());
        }
    });
    assert_alike(quickest(50, few, many));
}
