//! Returning, and what is trusted, on the model.

use super::model::{Checking, Connection, Ended, Got, HOUSEKEEPER, Model, Opening, Purpose, Returning, Token};
use crate::time::Span;
use crate::{Check, CloseReason, Moment, Refusal};

impl Model {
    // --- returning -------------------------------------------------------------------------------------------------

    pub(super) fn become_idle(&mut self, mut connection: Connection) {
        connection.since = self.now;
        self.trust(&mut connection);
        self.push_idle(connection);
        self.serve();
    }

    pub(super) fn push_idle(&mut self, connection: Connection) {
        let at = if self.policy.fifo { 0 } else { self.idle.len() };
        self.idle.insert(at, connection);
    }

    pub(super) fn trust(&self, connection: &mut Connection) {
        let unseen = if connection.suspect { Moment::START } else { self.now.after(self.policy.check_after) };
        connection.fresh_until = unseen.min(connection.end);
    }

    /// Takes back a loan of any kind, or one that no option must see and that has no key.
    pub(super) fn take_back_clean(&mut self, name: u32, any: bool) -> bool {
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        let loan = &self.lent[at];
        let unseen_by_options = self.policy.leak_after == Span::FOREVER && !self.policy.fifo;
        let plain = if any { !loan.reported } else { loan.key.is_none() && unseen_by_options };
        let plain = plain && loan.opener.is_none();
        let lasting = self.now < loan.connection.end;
        let useful = !self.closed && self.queue.is_empty() && self.has_use();
        if !(plain && lasting && useful) {
            return false;
        }
        let loan = self.lent.remove(at);
        self.uses.push(self.now.since(loan.since));
        self.become_idle(loan.connection);
        true
    }

    /// Begins a return: why it will be closed, and how long it was lent if that was too long.
    pub(super) fn begin_return(
        &mut self,
        name: u32,
        close: bool,
        token: Token,
    ) -> Result<(Option<CloseReason>, Option<Span>), Refusal> {
        if self.closed && self.ended == Ended::Wholly {
            return Err(Refusal::Closed);
        }
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        let loan = self.lent.remove(at);
        let lent_for = self.now.since(loan.since);
        if self.has_open_loans() {
            self.uses.push(lent_for);
        } else {
            // Counted already, and to be counted again.
            let counted = &mut self.stats.closed[CloseReason::WithPool as usize];
            *counted = counted.saturating_sub(1);
        }
        self.returning.push(Returning { token, connection: loan.connection, closing: None, in_transit: None });
        self.key_gone(loan.key);
        let at = self.returning.len() - 1;
        let closing = if close { Some(CloseReason::Requested) } else { self.useless(&self.returning[at].connection) };
        self.returning[at].closing = closing;
        Ok((closing, loan.reported.then_some(lent_for)))
    }

    fn place_of(&self, returning: Token) -> usize {
        self.returning.iter().position(|other| other.token == returning).expect("it is returned")
    }

    pub(super) fn take_returning(&mut self, token: Token) -> Returning {
        self.returning.remove(self.place_of(token))
    }

    pub(super) fn keep(&mut self, token: Token) -> bool {
        let closing = self.useless(&self.returning[self.place_of(token)].connection);
        self.close_returning_for(token, closing);
        if closing.is_none() {
            let connection = self.take_returning(token).connection;
            self.become_idle(connection);
        }
        closing.is_none()
    }

    pub(super) fn close_returning_for(&mut self, token: Token, closing: Option<CloseReason>) {
        let at = self.place_of(token);
        self.returning[at].closing = closing;
    }

    pub(super) fn discard(&mut self, token: Token) {
        let reason = self.take_returning(token).closing.unwrap_or(CloseReason::Unclean);
        self.count_closed(reason);
        self.stats.returns_bad += u64::from(matches!(reason, CloseReason::Lost | CloseReason::Unclean));
        self.serve();
        if reason == CloseReason::Lost {
            self.found_dead();
        }
    }

    pub(super) fn defer_return(&mut self, token: Token) -> bool {
        let late = Span::from_secs_f64(0.1);
        let behind = self.deferred_returns.front().is_some_and(|&(_, since)| self.now >= since.after(late));
        if self.closed || behind || self.waiting_for_room() > 0 {
            return false;
        }
        let at = self.place_of(token);
        self.returning[at].in_transit = Some(0);
        self.deferred_returns.push_back((token, self.now));
        true
    }

    pub(super) fn next_deferred_return(&mut self, token: Token, caller: u64) -> Option<(u32, Option<CloseReason>)> {
        let (left, _) = self.deferred_returns.pop_front()?;
        let at = self.place_of(left);
        let returning = &mut self.returning[at];
        (returning.token, returning.in_transit) = (token, Some(caller));
        Some((returning.connection.name, returning.closing))
    }

    pub(super) fn reclaim(&mut self, name: u32) {
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        let loan = self.lent.remove(at);
        if self.has_open_loans() {
            self.stats.reclaimed += 1;
            self.count_closed(CloseReason::Reclaimed);
            self.uses.push(self.now.since(loan.since));
            self.key_gone(loan.key);
            // No worker starts now.
            while self.delivered < self.calls {
                self.calls -= 1;
                self.worker_missed();
            }
        }
    }

    // --- health ------------------------------------------------------------------------------------------------------

    pub(super) fn take_checking(&mut self, token: Token) -> Checking {
        let at = self.checking.iter().position(|checking| checking.token == token).expect("it is looked at");
        self.checking.remove(at)
    }

    /// Why a connection that has passed its check must be closed all the same.
    pub(super) fn still_over(&self, token: Token) -> Option<CloseReason> {
        let checking = self.checking.iter().find(|checking| checking.token == token).expect("it is looked at");
        let over = self.now >= checking.connection.end;
        if self.closed { Some(CloseReason::WithPool) } else { over.then_some(checking.connection.why) }
    }

    pub(super) fn lend_checked(&mut self, token: Token) -> Result<(), CloseReason> {
        self.still_over(token).map_or(Ok(()), Err)?;
        let Checking { purpose, mut connection, .. } = self.take_checking(token);
        connection.suspect = false;
        self.begin_loan(connection, purpose);
        Ok(())
    }

    pub(super) fn count_dead(&mut self, reason: CloseReason) {
        self.count_closed(reason);
        if reason == CloseReason::Lost {
            self.stats.checks_failed += 1;
            self.found_dead();
        }
    }

    pub(super) fn next(&mut self, token: Token, reason: CloseReason, another: Token) -> Got {
        self.count_dead(reason);
        let purpose = self.take_checking(token).purpose;
        if let Err(refusal) = self.ensure_open() {
            self.key_gone(purpose.key());
            return Got::Refused(refusal);
        }
        if let Some(connection) = self.idle.pop() {
            let got = self.lend(connection, purpose, another);
            self.serve();
            return got;
        }
        if self.policy.grow.is_some() || self.connects_allowed() == 0 {
            self.key_gone(purpose.key());
            return Got::AskAgain;
        }
        self.backoff.began = self.now;
        let opened_in = self.next_opening();
        self.opening.push(Opening { token: another, purpose, opened_in });
        Got::Reserved
    }

    pub(super) fn discard_checked(&mut self, token: Token, reason: CloseReason) {
        self.count_dead(reason);
        let key = self.take_checking(token).purpose.key();
        self.key_gone(key);
    }

    pub(super) fn begin_idle_check(&mut self, name: u32, token: Token) -> Option<Check> {
        let at = self.idle.iter().position(|idle| idle.name == name).filter(|_| !self.closed)?;
        let connection = self.idle.remove(at);
        let check = if self.now >= connection.end { Check::Expired(connection.why) } else { Check::Required };
        self.checking.push(Checking { token, purpose: Purpose::Rest, connection });
        Some(check)
    }

    pub(super) fn put_back(&mut self, token: Token) -> Result<(), CloseReason> {
        let useless = self.still_over(token).or_else(|| (!self.has_use()).then_some(CloseReason::Surplus));
        useless.map_or(Ok(()), Err)?;
        let mut connection = self.take_checking(token).connection;
        connection.suspect = false;
        self.trust(&mut connection);
        self.push_idle(connection);
        self.serve();
        Ok(())
    }

    pub(super) fn found_dead(&mut self) {
        self.stats.connections_lost += 1;
        self.suspect_all();
    }

    pub(super) fn suspect_all(&mut self) {
        if self.policy.check_after < Span::FOREVER {
            self.every_connection().for_each(|connection| {
                (connection.suspect, connection.fresh_until) = (true, Moment::START);
            });
        }
    }

    pub(super) fn replace_all(&mut self, opened_in: u64) {
        self.drained = self.drained.max(opened_in);
        for connection in self.every_connection().filter(|connection| connection.opened_in <= opened_in) {
            (connection.end, connection.fresh_until, connection.why) =
                (Moment::START, Moment::START, CloseReason::Drained);
        }
    }

    pub(super) fn invalidate(&mut self, name: u32, older: bool) {
        let at = self.lent.iter().position(|loan| loan.connection.name == name).expect("it is lent");
        if older {
            self.replace_all(self.lent[at].connection.opened_in);
        }
        let connection = &mut self.lent[at].connection;
        (connection.end, connection.why) = (Moment::START, CloseReason::Lost);
    }

    pub(super) fn drain(&mut self, tokens: &[Token]) -> Vec<u32> {
        if self.closed {
            return vec![];
        }
        self.replace_all(self.openings);
        self.retire(self.idle.len(), tokens, CloseReason::Drained, Some(HOUSEKEEPER))
    }
}
