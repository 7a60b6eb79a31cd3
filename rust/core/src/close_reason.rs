//! Why a connection was closed.

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Its borrower asked for it to be closed.
    Requested,
    /// The pool had no use for it any more.
    Surplus,
    /// It had been idle for `max_idle`.
    Idle,
    /// It was as old as a connection may become.
    Lifetime,
    /// It was marked for replacement.
    Drained,
    /// It was found dead.
    Lost,
    /// It could not be made clean, or could not be checked.
    Unclean,
    /// Its borrower closed it.
    ByBorrower,
    /// Its borrower had forgotten it.
    Reclaimed,
    /// The pool was closed.
    WithPool,
    /// It was opened, and the pool had no place for it any more.
    Unplaced,
}

impl CloseReason {
    /// All reasons, in the order of [`crate::Stats::closed`].
    pub const ALL: [Self; 11] = [
        Self::Requested,
        Self::Surplus,
        Self::Idle,
        Self::Lifetime,
        Self::Drained,
        Self::Lost,
        Self::Unclean,
        Self::ByBorrower,
        Self::Reclaimed,
        Self::WithPool,
        Self::Unplaced,
    ];

    /// Names it as statistics do.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// Tells it as the log does: "connection closed: ...".
    #[must_use]
    pub fn text(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Requested => ("requested", "its borrower asked for that"),
            Self::Surplus => ("surplus", "the pool has no use for it"),
            Self::Idle => ("idle", "it was idle for max_idle"),
            Self::Lifetime => ("lifetime", "it was open for max_lifetime"),
            Self::Drained => ("drained", "it is to be replaced"),
            Self::Lost => ("lost", "it was found dead"),
            Self::Unclean => ("unclean", "it could not be made clean"),
            Self::ByBorrower => ("by_borrower", "its borrower closed it"),
            Self::Reclaimed => ("reclaimed", "its borrower forgot it"),
            Self::WithPool => ("with_pool", "the pool is closed"),
            Self::Unplaced => ("unplaced", "there is no place for it"),
        }
    }
}
