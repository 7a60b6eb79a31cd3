//! What the log says of connects that fail. While a server is down each of them fails, and one line in ten seconds is enough.

use super::Ledger;
use crate::stats::ConnectNews;
use crate::time::{Moment, Span};

/// How long the log says nothing more after a line about connects that failed.
const SILENCE: Span = Span::from_millis(10_000);

/// The connects that fail now.
#[derive(Default)]
pub(crate) struct Outage {
    /// When the first connect failed since the last one that succeeded.
    began: Option<Moment>,
    /// When the log told of a failure last.
    told: Option<Moment>,
    /// Whether the log has told of the failures since `began`.
    known: bool,
    /// How many have failed since the log told of a failure last.
    untold: u64,
}

impl<H, W> Ledger<H, W> {
    /// Notes how a connect has ended, and gives what the log says of it, if anything.
    pub(crate) fn connect_news(&mut self, failed: bool) -> Option<ConnectNews> {
        let (now, outage) = (self.now, &mut self.outage);
        if !failed {
            let began = outage.began.take()?;
            return std::mem::take(&mut outage.known).then(|| ConnectNews::Recovered { lasted: now.since(began) });
        }
        let began = *outage.began.get_or_insert(now);
        outage.untold += 1;
        if outage.told.is_some_and(|told| now < told.after(SILENCE)) {
            return None;
        }
        // Where connects fail by turns, some of these failed before the last that succeeded.
        let period = now.since(outage.told.unwrap_or(began));
        (outage.told, outage.known) = (Some(now), true);
        Some(ConnectNews::Failed { times: std::mem::take(&mut outage.untold), period })
    }
}
