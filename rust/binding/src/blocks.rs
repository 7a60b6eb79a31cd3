//! The loans whose connection its own `close()` returns: see `returning`.

use std::sync::{Mutex, PoisonError};

use pgpool_core::SlotId;

/// The loans of a pool in which a `close()` matters now.
#[derive(Default)]
pub(crate) struct Blocks(Mutex<Loans>);

#[derive(Default)]
struct Loans {
    /// Those of entered blocks. The flag says whether the body called `close()`.
    entered: Vec<(SlotId, bool)>,
    /// Those that an overridden `putconn` is returning, as `close()` asked it to.
    returning: Vec<SlotId>,
}

impl Blocks {
    pub(crate) fn enter(&self, loan: SlotId) {
        self.edit(|loans| loans.entered.push((loan, false)));
    }

    /// Notes a `close()`, if a block has the loan.
    pub(crate) fn close(&self, loan: SlotId) {
        self.edit(|loans| loans.entered.iter_mut().filter(|block| block.0 == loan).for_each(|block| block.1 = true));
    }

    /// Removes the loan. Says whether the body called `close()`, which has ended the loan: then the block ends without an error.
    pub(crate) fn leave(&self, loan: SlotId) -> bool {
        self.edit(|loans| {
            let place = loans.entered.iter().position(|block| block.0 == loan);
            place.is_some_and(|place| loans.entered.swap_remove(place).1)
        })
    }

    /// Runs an overridden `putconn` for a loan, unless it runs for it already.
    pub(crate) fn return_once<T>(&self, loan: SlotId, putconn: impl FnOnce() -> T) -> Option<T> {
        if self.edit(|loans| loans.returning.contains(&loan)) {
            return None;
        }
        self.edit(|loans| loans.returning.push(loan));
        let returned = putconn();
        self.edit(|loans| loans.returning.retain(|other| *other != loan));
        Some(returned)
    }

    /// Forgets the loans of the process that this one was forked from.
    pub(crate) fn clear(&self) {
        self.edit(|loans| *loans = Loans::default());
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Loans) -> T) -> T {
        edit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
