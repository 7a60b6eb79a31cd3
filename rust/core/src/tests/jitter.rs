//! Random lifetimes and pauses: within their bounds, and not the same each time.

use super::props::{World, seconds};
use crate::time::{Rng, Span};
use crate::{Chore, Moment, Policy};

/// How long each of a hundred idle connections lives that were all opened at the same moment, for ten seconds at most.
fn lives(world: &World) -> Vec<f64> {
    const NUMBER: u32 = 100;
    drop(world.ledger.set_maxconn(NUMBER as usize));
    world.ledger.set_policy(Policy { max_lifetime: seconds(10.0), ..Policy::default() });
    (0..NUMBER).for_each(|name| world.open_idle(name));
    let (begin, mut lives) = (world.now(), Vec::new());
    while !world.idle().is_empty() {
        match world.ledger.chore(7, true, world.now()) {
            Chore::Return(_) => lives.push(world.now().since(begin).as_secs_f64()),
            Chore::Rest(until) => world.pass(until.since(world.now()).as_secs_f64()),
            Chore::Open(_) | Chore::Report(_) => panic!("there is no minconn, and nothing is lent"),
        }
    }
    lives
}

#[test]
fn connections_that_were_opened_together_do_not_end_together() {
    let lives = lives(&World::new(0, 0));
    assert!(lives.iter().all(|life| (9.0..=10.0).contains(life)), "{lives:?}");
    for tenth in 0..10 {
        let part = 9.0 + 0.1 * f64::from(tenth)..9.1 + 0.1 * f64::from(tenth);
        let many = lives.iter().filter(|life| part.contains(life)).count();
        assert!((1..=30).contains(&many), "{many} of 100 end in {part:?}");
    }
}

#[test]
fn a_span_is_shortened_by_a_tenth_at_most_and_never_lengthened() {
    let mut rng = Rng::new(0);
    for nanos in [0, 1, 9, 10, 11, 1_000_000_007, u64::MAX - 1] {
        let span = Moment::from_nanos(nanos).since(Moment::START);
        let least = Moment::from_nanos(nanos - nanos / 10).since(Moment::START);
        for _ in 0..1000 {
            let jittered = span.jittered(&mut rng);
            assert!(least <= jittered && jittered <= span, "{span:?} became {jittered:?}");
        }
    }
    assert_eq!(Span::FOREVER.jittered(&mut rng), Span::FOREVER);
}

#[test]
fn seconds_become_spans_without_surprises() {
    for (given, expected) in [(f64::INFINITY, Span::FOREVER), (1e300, Span::FOREVER), (f64::NAN, Span::ZERO)] {
        assert_eq!(seconds(given), expected, "{given}");
    }
    for (given, expected) in [(-1.0, 0), (-0.0, 0), (0.0, 0), (1e-9, 1), (1.5, 1_500_000_000)] {
        assert_eq!(seconds(given).as_nanos(), expected, "{given}");
    }
    assert!(seconds(1e10).as_nanos() < u64::MAX && seconds(2e10) == Span::FOREVER, "584 years are beyond counting");
}

#[test]
fn the_same_seed_gives_the_same_chances() {
    assert_eq!(lives(&World::new(0, 0)), lives(&World::new(0, 0)));
}

#[test]
fn processes_that_were_forked_from_one_do_not_share_their_chances() {
    let workers = [World::new(0, 0), World::new(0, 0)];
    workers[0].ledger.enter_process(256, 7);
    workers[1].ledger.enter_process(256, 8);
    assert_ne!(lives(&workers[0]), lives(&workers[1]));
}
