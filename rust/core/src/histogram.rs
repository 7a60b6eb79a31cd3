//! How long waits, loans and connects took, by buckets that never change, so that the figures of several pools can be added up.

use crate::time::Span;

/// The upper bounds of the buckets, each included, in milliseconds. There is one bucket more, for what takes longer. They begin
/// where the coarse clock, with which loans are measured, can still tell two bounds apart.
const MILLIS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// How many times were how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    sum: Span,
    counts: [u64; MILLIS.len() + 1],
}

impl Histogram {
    /// Counts one time. Nearly all are in the first bucket.
    #[inline]
    pub(crate) fn observe(&mut self, time: Span) {
        self.sum.add(time);
        if time <= const { Span::from_millis(MILLIS[0]) } {
            self.counts[0] += 1;
        } else {
            self.observe_long(time);
        }
    }

    #[cold]
    fn observe_long(&mut self, time: Span) {
        self.counts[MILLIS.partition_point(|&bound| Span::from_millis(bound) < time)] += 1;
    }

    /// Counts this many times that took no time.
    pub(crate) fn observe_none(&mut self, many: u64) {
        self.counts[0] += many;
    }

    /// Gives the sum of all times.
    #[must_use]
    pub fn sum(&self) -> Span {
        self.sum
    }

    /// Gives for each bound how many times were at most so long; at last, for no bound, how many there were.
    pub fn cumulative(&self) -> impl Iterator<Item = (Span, u64)> {
        let bounds = MILLIS.map(Span::from_millis).into_iter().chain([Span::FOREVER]);
        bounds.zip(self.counts).scan(0, |before, (bound, count)| {
            *before += count;
            Some((bound, *before))
        })
    }
}

/// How long everything took since the pool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From each request that was served to its connection. An idle connection takes no time.
    pub waits: Histogram,
    /// Of each loan that has ended.
    pub uses: Histogram,
    /// Of each connect that succeeded.
    pub connects: Histogram,
}
