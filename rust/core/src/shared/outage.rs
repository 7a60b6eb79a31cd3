//! What the log says of connects that fail.

use super::SharedLedger;
use crate::queue::Wake;
use crate::stats::ConnectNews;
use crate::time::Moment;

impl<H, W: Wake> SharedLedger<H, W> {
    /// Notes how a connect has ended, and gives what the log says of it, if anything.
    pub fn connect_news(&self, failed: bool, now: Moment) -> Option<ConnectNews> {
        self.edit_at(now, |ledger| ledger.connect_news(failed))
    }
}
