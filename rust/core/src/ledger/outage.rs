//! What is said of connects that fail. A server that is down fails each of them, and one line in ten seconds tells enough.

use super::Ledger;
use crate::stats::ConnectNews;
use crate::time::{Moment, Span};

/// For how long nothing more is said after a line about connects that failed.
const SILENCE: Span = Span::from_millis(10_000);

/// How it goes with connects.
#[derive(Default)]
pub(crate) struct Outage {
    /// The first connect that failed since the last one that did not.
    began: Option<Moment>,
    /// When a failure was told of last.
    told: Option<Moment>,
    /// Whether the failures since `began` have been told of.
    known: bool,
    /// How many have failed since a failure was told of last.
    untold: u64,
}

impl<H, W> Ledger<H, W> {
    /// Notes how a connect has ended, and gives what is to be said of it, if anything.
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
        // Where connects fail by turns, some of these were before the last that did not.
        let period = now.since(outage.told.unwrap_or(began));
        (outage.told, outage.known) = (Some(now), true);
        Some(ConnectNews::Failed { times: std::mem::take(&mut outage.untold), period })
    }
}
