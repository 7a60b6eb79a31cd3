//! What may happen to a pool that ages.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::super::{lengths, props::seconds};
use crate::time::Span;
use crate::{CloseReason, Policy, Rank};

#[derive(Clone, Debug)]
pub(super) enum Step {
    Pass { millis: u64 },
    // Until the moment that the housekeeper was told, or until just before it.
    Sleep { early: bool },
    Borrow { rank: Rank, key: Option<u32>, wait: bool },
    // A caller looks for a key, and stops where keys are to be compared.
    Pause { rank: Rank, key: u32, wait: bool },
    // The nth caller that has stopped there compares, and borrows.
    Resume { nth: usize },
    // The nth reservation is fulfilled, and then perhaps finished.
    Open { nth: usize, finish: bool },
    // The nth reservation, spent or unspent, fails, or is dropped.
    End { nth: usize, fail: bool, full: bool },
    Reserve,
    Return { nth: usize, close: bool, fast: bool },
    Finish { nth: usize, how: Finish },
    Check { nth: usize, how: Checked },
    IdleCheck { nth: usize },
    Claim { nth: usize },
    Leave { nth: usize },
    Chore { housekeeper: bool },
    Refill { failed: bool },
    // A worker comes, and its connect ends; or workers do not come.
    BeginGrowth,
    EndGrowth { nth: usize, how: Grown },
    LoseCalls(bool),
    Annotate { nth: usize },
    Reclaim { nth: usize },
    Invalidate { nth: usize, older: bool },
    Drain,
    TakeStats,
    SetMinconn(usize),
    SetMaxconn(usize),
    Close,
    CloseGently,
    // The pool becomes one that is not yet open, as when an opening has failed; and is opened.
    Unopen,
    OpenPool,
    // A caller waits until nothing is lent, or goes.
    AwaitReturns,
    EndWait { nth: usize },
    SetClosed(bool),
    Reset,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Finish {
    Keep,
    Defer,
    FoundDead,
    Drop,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Checked {
    /// The connection is healthy.
    Pass,
    /// It is dead, or over: on to the next one, or no further.
    Next,
    Discard,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Grown {
    Opens,
    Fails,
    /// The server has too many connections.
    FailsFull,
    /// An override has opened nothing.
    OpensNothing,
    Dies,
}

fn often(step: impl Strategy<Value = Step> + 'static) -> BoxedStrategy<Step> {
    step.boxed()
}

fn step() -> impl Strategy<Value = Step> {
    let nth = || 0..4_usize;
    let rank = || prop_oneof![2 => Just(Rank::Normal), 1 => Just(Rank::Priority)];
    let key = prop_oneof![2 => Just(None), 2 => (0..4_u32).prop_map(Some)];
    let millis = prop::sample::select(vec![100, 100, 1000, 2000, 2000, 5000, 19_000]);
    let finish = prop_oneof![5 => Just(Finish::Keep), 3 => Just(Finish::Defer), 1 => Just(Finish::FoundDead), 1 => Just(Finish::Drop)];
    let check = prop_oneof![4 => Just(Checked::Pass), 3 => Just(Checked::Next), 1 => Just(Checked::Discard), 1 => Just(Checked::Drop)];
    let grown = prop_oneof![5 => Just(Grown::Opens), 2 => Just(Grown::Fails), 1 => Just(Grown::FailsFull), 1 => Just(Grown::OpensNothing), 1 => Just(Grown::Dies)];
    let rarely = prop_oneof![
        (nth(), any::<bool>()).prop_map(|(nth, older)| Step::Invalidate { nth, older }),
        nth().prop_map(|nth| Step::Annotate { nth }),
        nth().prop_map(|nth| Step::Reclaim { nth }),
        prop::bool::weighted(0.3).prop_map(Step::LoseCalls),
        Just(Step::Drain),
        Just(Step::TakeStats),
        (0..4_usize).prop_map(Step::SetMinconn),
        (0..5_usize).prop_map(Step::SetMaxconn),
        prop_oneof![3 => Just(Step::SetClosed(false)), 1 => Just(Step::SetClosed(true)), 1 => Just(Step::Close)],
        prop_oneof![3 => Just(Step::SetClosed(false)), 1 => Just(Step::Reset)],
        prop_oneof![2 => Just(Step::CloseGently), 1 => Just(Step::Unopen), 2 => Just(Step::OpenPool)],
        prop_oneof![3 => Just(Step::AwaitReturns), 1 => nth().prop_map(|nth| Step::EndWait { nth })],
    ];
    prop_oneof![
        4 => often(millis.prop_map(|millis| Step::Pass { millis })),
        2 => often(any::<bool>().prop_map(|early| Step::Sleep { early })),
        9 => often((rank(), key, any::<bool>()).prop_map(|(rank, key, wait)| Step::Borrow { rank, key, wait })),
        3 => often((rank(), 0..4_u32, any::<bool>()).prop_map(|(rank, key, wait)| Step::Pause { rank, key, wait })),
        3 => often(nth().prop_map(|nth| Step::Resume { nth })),
        8 => often((nth(), prop::bool::weighted(0.8)).prop_map(|(nth, finish)| Step::Open { nth, finish })),
        2 => often((nth(), any::<bool>(), any::<bool>()).prop_map(|(nth, fail, full)| Step::End { nth, fail, full })),
        2 => often(Just(Step::Reserve)),
        7 => often((nth(), prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(nth, close, fast)| Step::Return { nth, close, fast })),
        6 => often((nth(), finish).prop_map(|(nth, how)| Step::Finish { nth, how })),
        6 => often((nth(), check).prop_map(|(nth, how)| Step::Check { nth, how })),
        2 => often(nth().prop_map(|nth| Step::IdleCheck { nth })),
        4 => often(nth().prop_map(|nth| Step::Claim { nth })),
        2 => often(nth().prop_map(|nth| Step::Leave { nth })),
        6 => often(prop::bool::weighted(0.8).prop_map(|housekeeper| Step::Chore { housekeeper })),
        2 => often(any::<bool>().prop_map(|failed| Step::Refill { failed })),
        5 => often(Just(Step::BeginGrowth)),
        5 => often((nth(), grown).prop_map(|(nth, how)| Step::EndGrowth { nth, how })),
        4 => often(rarely),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), lengths::steps(20..150))
}

pub(super) fn policies() -> impl Strategy<Value = Policy> {
    let span =
        |seconds: &[f64]| prop::sample::select(seconds.iter().map(|&s| Span::from_secs_f64(s)).collect::<Vec<_>>());
    let never = f64::INFINITY;
    (
        span(&[never, 0.0, 2.0, 2.0, 2.0]),
        span(&[never, 0.0, 5.0]),
        span(&[never, 20.0, 20.0]),
        span(&[never, never, 7.0]),
        prop_oneof![3 => Just(0_usize), 1 => Just(1), 1 => Just(2)],
        prop_oneof![1 => Just(0_usize), 1 => Just(1), 1 => Just(2)],
        prop_oneof![2 => Just(None), 1 => Just(Some((seconds(1.0), seconds(4.0)))), 1 => Just(Some((seconds(0.1), seconds(0.1))))],
        (prop::bool::weighted(0.3), prop_oneof![2 => Just(0_usize), 1 => 1..3_usize], prop::bool::weighted(0.8)),
    )
        .prop_map(|(check_after, max_idle, max_lifetime, leak_after, max_waiting, grow, reconnect_backoff, (fifo, reserve, has_housekeeper))| Policy {
            check_after,
            max_idle,
            max_lifetime,
            leak_after,
            max_waiting: NonZeroUsize::new(max_waiting),
            grow: NonZeroUsize::new(grow),
            reconnect_backoff,
            fifo,
            reserve,
            has_housekeeper,
        })
}

/// What a check says of a connection that is not kept.
pub(super) fn reason_after(check: crate::Check) -> CloseReason {
    match check {
        crate::Check::Expired(reason) => reason,
        crate::Check::Required => CloseReason::Lost,
    }
}
