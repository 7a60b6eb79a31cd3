//! Blocks whose connection can be returned by its own `close()`: see `returning`.

use std::sync::{Mutex, PoisonError};

use pgpool_core::SlotId;

/// The loans of the blocks that are entered now and have such a connection. The flag says whether the body called `close()`.
#[derive(Default)]
pub(crate) struct Blocks(Mutex<Vec<(SlotId, bool)>>);

/// The loans that an overridden `putconn` is returning, as `close()` asked it to.
#[derive(Default)]
pub(crate) struct Returns(Mutex<Vec<SlotId>>);

impl Returns {
    /// Runs `act` for a loan, unless it runs for it already.
    pub(crate) fn once<T>(&self, loan: SlotId, act: impl FnOnce() -> T) -> Option<T> {
        let begun = self.edit(|loans| {
            let is_new = !loans.contains(&loan);
            loans.extend(is_new.then_some(loan));
            is_new
        });
        begun.then(|| {
            let done = act();
            self.edit(|loans| loans.retain(|other| *other != loan));
            done
        })
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Vec<SlotId>) -> T) -> T {
        edit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Blocks {
    pub(crate) fn enter(&self, loan: SlotId) {
        self.edit(|blocks| blocks.push((loan, false)));
    }

    /// Notes a `close()`, if a block has the loan.
    pub(crate) fn close(&self, loan: SlotId) {
        self.edit(|blocks| blocks.iter_mut().filter(|block| block.0 == loan).for_each(|block| block.1 = true));
    }

    /// Removes the loan. Says whether the body called `close()`, which has ended the loan: then the block ends without an error.
    pub(crate) fn leave(&self, loan: SlotId) -> bool {
        self.edit(|blocks| {
            let place = blocks.iter().position(|block| block.0 == loan);
            place.is_some_and(|place| blocks.swap_remove(place).1)
        })
    }

    /// Forgets the blocks of the process that this one was forked from.
    pub(crate) fn clear(&self) {
        self.edit(Vec::clear);
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Vec<(SlotId, bool)>) -> T) -> T {
        edit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
