//! Moments and spans. The binding tells the core the time; the core never reads a clock.

use std::time::Duration;

/// A moment on a clock that only goes forward, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The moment before all others.
    pub const START: Self = Self(0);
    /// The moment after all others.
    pub const NEVER: Self = Self(u64::MAX);

    /// Names the moment at which the clock shows this many nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Gives the moment that is this much later.
    #[inline]
    #[must_use]
    pub fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Tells how long ago `earlier` was; zero, if it is in the future.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// A length of time, in nanoseconds. The longest one means for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// For ever.
    pub const FOREVER: Self = Self(u64::MAX);

    /// Reads seconds. What is too long to count is for ever; what is negative or not a number is zero.
    #[must_use]
    pub fn from_secs_f64(seconds: f64) -> Self {
        match Duration::try_from_secs_f64(seconds) {
            Ok(duration) => Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
            Err(_) if seconds > 0.0 => Self::FOREVER,
            Err(_) => Self::ZERO,
        }
    }

    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Gives the span in seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        Duration::from_nanos(self.0).as_secs_f64()
    }

    /// Gives the span in nanoseconds.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// Gives the span in whole milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    pub(crate) fn is_forever(self) -> bool {
        self == Self::FOREVER
    }

    #[inline]
    pub(crate) fn add(&mut self, more: Self) {
        self.0 = self.0.saturating_add(more.0);
    }

    /// Subtracts `other`; zero, if that is longer.
    pub(crate) fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Makes it shorter by up to a tenth, at random. For ever stays for ever.
    pub(crate) fn jittered(self, rng: &mut Rng) -> Self {
        if self.is_forever() { self } else { Self(self.0 - rng.below(self.0 / 10 + 1)) }
    }

    pub(crate) fn doubled(self) -> Self {
        Self(self.0.saturating_mul(2))
    }
}

/// Random numbers, so that lifetimes and pauses do not end at the same moment for all connections: splitmix64.
/// <https://prng.di.unimi.it/splitmix64.c>
#[cfg_attr(test, derive(Default))]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Gives a number below `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}
