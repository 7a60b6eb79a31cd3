//! The reasons for which connections are closed, with their names in the statistics and their words in the log.

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal, $text:literal;)*) => {
        /// Why a connection was closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CloseReason {
            $($(#[$doc])* $reason,)*
        }

        impl CloseReason {
            /// All reasons, in the order of [`crate::Stats::closed`].
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$reason),*];

            fn words(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$reason => ($name, $text),)*
                }
            }
        }
    };
}

reasons! {
    /// Its borrower asked for it to be closed.
    Requested = "requested", "its borrower asked for that";
    /// The pool had no use for it any more.
    Surplus = "surplus", "the pool has no use for it";
    /// It had been idle for `max_idle`.
    Idle = "idle", "it was idle for max_idle";
    /// It was as old as a connection may become.
    Lifetime = "lifetime", "it was open for max_lifetime";
    /// It was marked for replacement.
    Drained = "drained", "it is to be replaced";
    /// It was found dead.
    Lost = "lost", "it was found dead";
    /// It could not be made clean, or could not be checked.
    Unclean = "unclean", "it could not be made clean";
    /// Its borrower closed it.
    ByBorrower = "by_borrower", "its borrower closed it";
    /// Its borrower had forgotten it.
    Reclaimed = "reclaimed", "its borrower forgot it";
    /// The pool was closed.
    WithPool = "with_pool", "the pool is closed";
    /// It was opened, and the pool had no place for it any more.
    Unplaced = "unplaced", "there is no place for it";
}

impl CloseReason {
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
}
