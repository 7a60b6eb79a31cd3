//! The loans that a child inherits from the process that it was forked from.

use super::SharedLedger;
use crate::question::{Unanswered, Want};
use crate::queue::Wake;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Says whether there are loans that were made in the process that this one was forked from.
    pub fn has_inherited(&self) -> bool {
        self.edit(|ledger| ledger.has_inherited())
    }

    /// Forgets a loan that was made in the process that this one was forked from, named as in
    /// [`SharedLedger::begin_return`]; says whether there was one.
    ///
    /// # Errors
    /// [`Unanswered::Compare`].
    pub fn forget_inherited(&self, address: Option<usize>, filed: Option<&Want<H>>) -> Result<bool, Unanswered<H>> {
        self.edit(|ledger| ledger.forget_inherited(address, filed))
    }
}
