//! What may happen, done to the real ledger and to the model.

use super::duel::{Comparing, Duel, Waiting, take};
use super::model::{Got, HOUSEKEEPER, Job, Purpose, Token};
use super::steps::{Checked, Finish, reason_after};
use crate::tests::props::{TestWaker, Thing, compare, connect_error, refusal, resolve_key, seconds};
use crate::{CheckOut, Chore, CloseReason, ConnectError, Moment, Rank, Refusal, Reserve, Unanswered, Want};

impl<'w> Duel<'w> {
    // --- borrowing -------------------------------------------------------------------------------------------------

    pub(super) fn borrow(&mut self, rank: Rank, key: Option<u32>, wait: bool) {
        let (token, caller) = (self.token(), u64::from(self.token()));
        let idle = self.model.idle.last();
        let fast =
            !self.model.closed && self.model.admits(rank) && idle.is_some_and(|idle| idle.is_fresh(self.model.now));
        let policy = self.model.policy;
        let plain = rank == Rank::Normal && policy.leak_after.is_forever() && policy.reserve == 0;
        let (ledger, now) = (&self.world.ledger, self.world.now());
        let (lent, fast) = match (key, token % 2) {
            (None, 0) if rank == Rank::Normal => (ledger.lend_idle(caller, now), fast && plain),
            (None, _) => (ledger.lend_idle_as(rank, None, caller, now), fast),
            (Some(number), _) => {
                let free = self.model.queue.is_empty() && !self.model.is_filed_by_hash_of(number);
                (ledger.lend_idle_as(rank, Some(self.world.key(number)), caller, now), fast && free)
            }
        };
        assert_eq!(lent.is_some(), fast);
        if let Some((loan, connection)) = lent {
            assert!(ledger.is_lent(loan));
            self.model.stats.requests_num += 1;
            self.model.fast += 1;
            let got = self.model.answer((rank, key, caller), None, None, token);
            assert_eq!(got, Got::Lent(connection.name));
            return;
        }
        self.ask((rank, key, caller), None, wait);
    }

    /// Looks for a key. A caller that must compare keys does so later; any other borrows at once.
    pub(super) fn pause(&mut self, rank: Rank, key: u32, willing: bool) {
        let caller = u64::from(self.token());
        let want = self.world.ask(key, caller);
        match self.world.ledger.loan(&want) {
            Err(Unanswered::Compare(candidates)) => {
                self.comparing.push(Comparing { rank, key, caller, want, candidates, willing });
            }
            _ => drop(self.ask_for(want, (rank, Some(key), caller), None, willing)),
        }
    }

    /// Lets a caller compare the candidates that it was given, whatever has become of them since, and borrow.
    pub(super) fn resume(&mut self, nth: usize) {
        let Some(Comparing { rank, key, caller, mut want, candidates, willing }) = take(&mut self.comparing, nth)
        else {
            return;
        };
        compare(&mut want, &candidates);
        self.ask_for(want, (rank, Some(key), caller), None, willing);
    }

    pub(super) fn ask(
        &mut self,
        (rank, key, caller): (Rank, Option<u32>, u64),
        at: Option<usize>,
        willing: bool,
    ) -> Got {
        let world = self.world;
        let want = key.map_or_else(|| Want::Any(world.ledger.next_number(), caller), |key| world.ask(key, caller));
        self.ask_for(want, (rank, key, caller), at, willing)
    }

    /// Asks both, and keeps what comes of it.
    fn ask_for(
        &mut self,
        mut want: Want<Thing>,
        (rank, key, caller): (Rank, Option<u32>, u64),
        at: Option<usize>,
        willing: bool,
    ) -> Got {
        let world = self.world;
        let (token, number) = (self.token(), self.token());
        let known = at.map(|at| self.waiting[at].number);
        let waker = at.map_or_else(|| world.waker(), |at| self.waiting[at].waker.clone());
        let place = at.map(|at| &self.waiting[at].waiter);
        let offered = || willing.then(|| waker.clone());
        let mut rounds = 0;
        let answer = resolve_key(&mut want, |want| {
            rounds += 1;
            world.ledger.check_out_as(rank, want, place, offered(), world.now())
        });
        if rounds > 1 {
            // A question that was answered by candidates to compare was an edit of its own.
            self.model.renew_backoff();
            self.model.deliver_calls();
        }
        let expected = self.model.ask((rank, key, caller), known, willing.then_some(number), token);
        let got = self.note(token, (rank, number, key, caller), &waker, answer);
        assert_eq!(expected, got);
        self.model.deliver_calls();
        got
    }

    /// Keeps what came with an answer, and tells it in the model's terms.
    pub(super) fn note(
        &mut self,
        token: Token,
        (rank, number, key, caller): (Rank, Token, Option<u32>, u64),
        waker: &TestWaker,
        answer: Result<CheckOut<'w, Thing, TestWaker>, Refusal>,
    ) -> Got {
        match answer {
            Ok(CheckOut::Lent(connection)) => Got::Lent(connection.name),
            Ok(CheckOut::Check(checking)) => {
                let got = Got::Check(checking.connection().name, checking.kind());
                self.checking.push((token, checking));
                got
            }
            Ok(CheckOut::Reserved(reservation)) => {
                self.reservations.push((token, reservation));
                Got::Reserved
            }
            Ok(CheckOut::FinishReturn(returning)) => {
                let got = Got::FinishReturn(returning.connection().name, returning.closing());
                self.returning.push((token, returning));
                got
            }
            Ok(CheckOut::AskAgain) => Got::AskAgain,
            Ok(CheckOut::Seek(_)) => panic!("the pool is not limited"),
            Ok(CheckOut::ConnectFailed(_)) => Got::ConnectFailed,
            Ok(CheckOut::Busy(busy, joined)) => {
                let got = Got::Busy(busy, joined.is_some());
                let waker = waker.clone();
                self.waiting.extend(joined.map(|waiter| Waiting { rank, number, key, caller, waiter, waker }));
                got
            }
            Err(refusal) => Got::Refused(refusal),
        }
    }

    pub(super) fn claim(&mut self, nth: usize) {
        if self.waiting.is_empty() {
            return;
        }
        let at = nth % self.waiting.len();
        let Waiting { rank, number, key, caller, .. } = self.waiting[at];
        let before = self.waiting.len();
        let got = self.ask((rank, key, caller), Some(at), true);
        let moved = self.waiting.len() > before;
        // A caller that opens or checks a connection does not ask for it again.
        let works = matches!(got, Got::Reserved | Got::Check(..));
        let waits = matches!(got, Got::Busy(..));
        if moved || works || !waits && !self.model.is_queued(number) {
            // It has another place now, with the same waker, or needs none any more.
            let old = self.waiting.remove(at);
            if let Some(new) = self.waiting.last().filter(|_| moved) {
                self.model.share_waker(number, new.number);
            }
            self.leave(old);
        }
    }

    pub(super) fn leave(&mut self, waiting: Waiting<'w>) {
        let token = self.token();
        let expected = self.model.leave(waiting.number, token);
        let surplus = waiting.waiter.leave();
        assert_eq!(surplus.as_ref().map(|surplus| surplus.connection().name), expected);
        self.returning.extend(surplus.map(|surplus| (token, surplus)));
    }

    // --- opening ---------------------------------------------------------------------------------------------------

    pub(super) fn reserve(&mut self) {
        let token = self.token();
        let expected = self.model.reserve(token);
        let reserved = self.world.ledger.reserve(None, HOUSEKEEPER).map_err(refusal);
        assert_eq!(reserved.as_ref().map(drop).map_err(|&refusal| refusal), expected);
        if let Ok(Reserve::New(reservation)) = reserved {
            self.reservations.push((token, reservation));
        }
    }

    pub(super) fn open(&mut self, nth: usize, finish: bool) {
        let Some((token, reservation)) = take(&mut self.reservations, nth) else { return };
        if self.model.opening.iter().any(|opening| opening.token == token) {
            let name = self.token();
            self.world.ledger.note_connect(seconds(0.5), false);
            self.model.note_connect(seconds(0.5), false);
            let fulfilled = self.world.fulfil(&reservation, name);
            assert_eq!(fulfilled, self.model.fulfil(token, name));
        }
        if finish {
            drop(reservation);
            self.model.end_reservation(token);
        } else {
            self.reservations.push((token, reservation));
        }
    }

    pub(super) fn end(&mut self, nth: usize, fail: bool, full: bool) {
        let Some((token, mut reservation)) = take(&mut self.reservations, nth) else { return };
        if fail {
            let filed_token = self.token();
            self.world.ledger.note_connect(seconds(0.5), true);
            self.model.note_connect(seconds(0.5), true);
            if full {
                let why = ConnectError { at: self.world.now(), ..connect_error("full") };
                let expected = self.model.leave_to_loans(token);
                match reservation.leave_to_loans(why, self.world.thing(8)) {
                    Ok(()) => return assert!(expected),
                    Err(back) => reservation = back,
                }
                assert!(!expected);
            }
            let filed = reservation.fail(connect_error("no"), Some(self.world.thing(8)));
            let expected = self.model.fail_reservation(token, filed_token);
            assert_eq!(filed.as_ref().map(|filed| filed.connection().name), expected);
            self.returning.extend(filed.map(|filed| (filed_token, filed)));
        } else {
            drop(reservation);
            self.model.end_reservation(token);
        }
    }

    // --- returning -------------------------------------------------------------------------------------------------

    pub(super) fn give_back(&mut self, name: u32, close: bool, fast: bool) {
        if fast && !close {
            let (ledger, loan, now) = (&self.world.ledger, self.world.loan(name), self.world.now());
            let (kept, expected) = match self.token() % 3 {
                0 => (self.world.take_back_clean(name), self.model.take_back_clean(name, false)),
                1 => (ledger.take_back_clean_loan(loan, now), self.model.take_back_clean(name, false)),
                _ => {
                    let handle = Some(self.world.thing(name));
                    (ledger.take_back_any_clean(loan, handle, now).is_some(), self.model.take_back_clean(name, true))
                }
            };
            assert_eq!(kept, expected);
            if kept {
                assert!(!ledger.take_back_clean_loan(loan, now), "the loan has ended");
                return;
            }
        }
        let token = self.token();
        let begun = self.world.ledger.begin_return(Some(name as usize), None, close, self.world.now());
        let expected = self.model.begin_return(name, close, token);
        match begun.map_err(refusal) {
            Ok(returning) => {
                assert_eq!(Ok((returning.closing(), returning.overdue())), expected);
                self.returning.push((token, returning));
            }
            Err(refusal) => assert_eq!(Err(refusal), expected),
        }
    }

    pub(super) fn finish(&mut self, nth: usize, how: Finish) {
        let Some((token, mut returning)) = take(&mut self.returning, nth) else { return };
        match how {
            Finish::Keep if returning.closing().is_none() => {
                let kept = returning.keep(self.world.now());
                assert_eq!(kept, self.model.keep(token));
                if !kept {
                    self.returning.push((token, returning));
                }
                return;
            }
            Finish::Defer => {
                let given_back = returning.defer(self.world.now());
                assert_eq!(given_back.is_none(), self.model.defer_return(token));
                self.returning.extend(given_back.map(|returning| (token, returning)));
                return;
            }
            Finish::FoundDead => {
                returning.close_for(CloseReason::Lost);
                self.model.close_returning_for(token, Some(CloseReason::Lost));
            }
            Finish::Keep | Finish::Drop => {}
        }
        drop(returning);
        self.model.discard(token);
    }

    pub(super) fn reclaim(&mut self, name: u32) {
        let slot = self.world.loan(name);
        if self.world.ledger.unkeyed(slot).is_some() {
            assert_eq!(self.world.reclaim(slot).is_some(), self.model.has_open_loans());
            self.model.reclaim(name);
            // The caller does the chores.
            self.resting = None;
        }
    }

    // --- health ------------------------------------------------------------------------------------------------------

    pub(super) fn check(&mut self, nth: usize, how: Checked) {
        let Some((token, checking)) = take(&mut self.checking, nth) else { return };
        let purpose = self.model.checking.iter().find(|checking| checking.token == token).expect("it is there").purpose;
        let check = checking.kind();
        let (loan, now) = (purpose != Purpose::Rest, self.world.now());
        match how {
            Checked::Pass if check == crate::Check::Required => {
                let passed = if loan { checking.lend(now) } else { checking.put_back(now) };
                assert_eq!(passed, if loan { self.model.lend_checked(token) } else { self.model.put_back(token) });
                if passed.is_err() {
                    self.checking.push((token, checking));
                }
            }
            Checked::Next if loan => {
                let another = self.token();
                let expected = self.model.next(token, reason_after(check), another);
                let answer = checking.next(reason_after(check), now);
                let waker = self.world.waker();
                assert_eq!(expected, self.note(another, (Rank::Normal, 0, None, 0), &waker, answer));
            }
            Checked::Drop => {
                drop(checking);
                self.model.discard_checked(token, CloseReason::Unclean);
            }
            Checked::Pass | Checked::Next | Checked::Discard => {
                checking.discard(reason_after(check));
                self.model.discard_checked(token, reason_after(check));
            }
        }
    }

    pub(super) fn check_idle(&mut self, nth: usize) {
        let slots = self.world.ledger.idle_slots();
        if slots.is_empty() {
            return;
        }
        let (token, at) = (self.token(), nth % slots.len());
        let name = self.model.idle[at].name;
        let checking = self.world.ledger.begin_idle_check(slots[at], HOUSEKEEPER, self.world.now());
        let shown = checking.as_ref().map(|checking| (checking.connection().name, checking.kind()));
        assert_eq!(shown, self.model.begin_idle_check(name, token).map(|check| (name, check)));
        self.checking.extend(checking.map(|checking| (token, checking)));
    }

    // --- chores --------------------------------------------------------------------------------------------------------

    pub(super) fn sleep(&mut self, early: bool) {
        let Some((until, _)) = self.resting.filter(|&(until, _)| until < Moment::NEVER) else { return };
        let nanos = until.since(self.world.now()).as_nanos();
        self.world.pass_nanos(nanos.saturating_sub(u64::from(early)));
    }

    pub(super) fn chore(&mut self, housekeeper: bool) {
        let token = self.token();
        let expected = self.model.job(token);
        let job = match self.world.ledger.chore(HOUSEKEEPER, true, self.world.now()) {
            Chore::Return(returning) => {
                let job = Job::Return(returning.connection().name, returning.closing());
                self.returning.push((token, returning));
                job
            }
            Chore::Report(report) => {
                assert_eq!(Some(report.age), self.model.report(report.borrower), "late, and not reported before");
                Job::Report
            }
            Chore::Open(refill) => {
                assert!(self.refill.replace(refill).is_none(), "one at a time");
                Job::Open
            }
            Chore::Rest(until) => {
                let due = self.model.due(true);
                assert!(self.world.now() < until && until <= due, "rest until {until:?}, but {due:?} is due");
                if housekeeper {
                    self.resting = Some((until, self.housekeeper.wakes()));
                }
                Job::Rest
            }
        };
        assert_eq!(expected, job);
    }

    pub(super) fn end_refill(&mut self, failed: bool) {
        let Some(refill) = self.refill.take() else { return };
        if failed {
            self.world.fail(refill);
        } else {
            drop(refill);
        }
        self.model.end_refill(failed);
    }
}
