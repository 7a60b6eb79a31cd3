//! getconn, step by step.

use std::fmt::Write;
use std::time::{Duration, Instant};

use pgpool_core::{
    Busy, Caller, CheckOut, CloseReason, Moment, Rank, Refusal, RequestEnd, Reservation, Seek, SlotId, Span, Waiter,
    Want,
};
use pyo3::prelude::*;

use crate::arguments::Timeout;
use crate::call::{call_or_undo, do_what_waits, must_not_wait};
use crate::caller::caller;
use crate::check;
use crate::error::{Error, both, weightier};
use crate::fast_path::flags;
use crate::give_back::{discard, finish, give_back_loan};
use crate::handle::{Handle, address};
use crate::keys::{key_of, plain_key, resolve_key, want_for};
use crate::leaks;
use crate::limit;
use crate::log::{CROWDED, TIMED_OUT, log};
use crate::news::{News, close_for, tell};
use crate::notes::{annotated, with_notes};
use crate::open::{connect_error, copied, is_server_full, last_connect_error, outage, told_again};
use crate::pool::AbstractPool;
use crate::python::name;
use crate::system::now;
use crate::wait::{Parker, Waker};

/// A caller with timeout 0 waits for room that is in transit. It looks this often whether the room still is.
const GLANCE: Duration = Duration::from_millis(50);

/// Lends a connection: an idle one, a new one, or, where the pool is full and `timeout` allows, one to come.
pub(crate) fn borrow(
    pool: &Bound<'_, AbstractPool>,
    key: Option<&Bound<'_, PyAny>>,
    timeout: Timeout,
    rank: Rank,
) -> PyResult<Py<PyAny>> {
    call_or_undo(pool.py(), || lend(pool, key, timeout, rank), |lent| lent.undo(pool))
        .map(|lent| lent.connection.unbind())
}

/// What a caller has just been lent.
struct NewLoan<'py> {
    connection: Bound<'py, PyAny>,
    name: Name,
    wait: Span,
}

/// What names a new loan. Another caller may have a loan under the same key; this call leaves it alone.
enum Name {
    Slot(SlotId),
    Since(Caller, u64),
}

impl NewLoan<'_> {
    fn loan(&self, pool: &Bound<'_, AbstractPool>) -> Option<SlotId> {
        match self.name {
            Name::Slot(slot) => Some(slot),
            Name::Since(borrower, since) => pool.get().ledger().loan_since(address(&self.connection), borrower, since),
        }
    }

    /// Takes the connection back and closes it.
    fn undo(&self, pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
        self.loan(pool).map_or(Ok(()), |loan| Ok(give_back_loan(pool, loan, true)?))
    }
}

fn lend<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
    timeout: Timeout,
    rank: Rank,
) -> Result<NewLoan<'py>, Error> {
    leaks::log_forgotten(pool)?;
    let (lent, given_up) = match lend_without_python(pool, key, rank)? {
        Some(lent) => (lent, Ok(())),
        None => lend_slowly(pool, key, timeout, rank)?,
    };
    let begun = match pool.get().has(flags::LOANS).then(|| lent.loan(pool)).flatten() {
        Some(loan) => leaks::begin(pool, loan, &lent.connection),
        None => Ok(()),
    };
    tell(pool, News::Borrowed(lent.wait));
    match both(pool.py(), given_up, begun) {
        Ok(()) => Ok(lent),
        Err(error) => Err(weightier(pool.py(), error, lent.undo(pool).err()).into()),
    }
}

/// Lends an idle connection, if that needs no Python code.
fn lend_without_python<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
    rank: Rank,
) -> PyResult<Option<NewLoan<'py>>> {
    let filed = key.and_then(plain_key);
    if filed.is_none() && (key.is_some() || pool.get().has(flags::GETKEY_HOOK)) {
        return Ok(None);
    }
    let Some((slot, connection)) = pool.get().ledger().lend_idle_as(rank, filed, caller(pool.py())?, now()) else {
        return Ok(None);
    };
    Ok(Some(NewLoan { connection: connection.object(pool.py())?, name: Name::Slot(slot), wait: Span::ZERO }))
}

/// Lends a connection as [`lend`], and says how the caller gave up its place in the queue.
fn lend_slowly<'py>(
    pool: &Bound<'py, AbstractPool>,
    key: Option<&Bound<'py, PyAny>>,
    timeout: Timeout,
    rank: Rank,
) -> Result<(NewLoan<'py>, PyResult<()>), Error> {
    let ledger = pool.get().ledger();
    let since = with_notes(pool, ledger.begin_request())?;
    let asked = Instant::now();
    let mut queued_at = None;
    let mut borrower = 0;
    let found = want_of(pool, key).and_then(|mut want| {
        borrower = want.caller();
        seek(pool, &mut want, (timeout, rank), &mut queued_at)
    });
    let took = span(asked);
    let end = end_of(found.as_ref().map_or_else(Err, |_| Ok(took)));
    ledger.end_request(queued_at.map(span), end);
    if end == RequestEnd::TimedOut {
        tell(pool, News::TimedOut(took));
    }
    let (connection, given_up) = found.map_err(|error| {
        let waited = queued_at.map_or(Duration::ZERO, |began| began.elapsed());
        annotated(pool, error, waited, None)
    })?;
    Ok((NewLoan { connection, name: Name::Since(borrower, since), wait: took }, given_up))
}

fn span(since: Instant) -> Span {
    Span::from_secs_f64(since.elapsed().as_secs_f64())
}

/// Says how a request ends.
fn end_of(found: Result<Span, &Error>) -> RequestEnd {
    match found {
        Ok(after) => RequestEnd::Served(after),
        Err(Error::TimedOut(_) | Error::Limited(_)) => RequestEnd::TimedOut,
        Err(Error::Refused(Refusal::Exhausted | Refusal::Limited)) => RequestEnd::Refused,
        Err(Error::Crowded(_)) => RequestEnd::Crowded,
        Err(_) => RequestEnd::Failed,
    }
}

/// Finds a connection, and says how the caller gave up its place in the queue. Notes when the caller began to wait.
fn seek<'py>(
    pool: &Bound<'py, AbstractPool>,
    want: &mut Want<Handle>,
    how: (Timeout, Rank),
    queued_at: &mut Option<Instant>,
) -> Result<(Bound<'py, PyAny>, PyResult<()>), Error> {
    let mut place = Place { pool, waiter: None };
    let found = seek_from(&mut place, pool, want, how, queued_at);
    match (found, place.give_up()) {
        (Ok(connection), left) => Ok((connection, left)),
        (Err(error), Ok(())) => Err(error),
        (Err(first), Err(second)) => Err(weightier(pool.py(), first.into(), Some(second)).into()),
    }
}

/// Finds a connection. Takes a place in the queue if the caller has to wait.
fn seek_from<'py, 'p>(
    place: &mut Place<'py, 'p>,
    pool: &'p Bound<'py, AbstractPool>,
    want: &mut Want<Handle>,
    (timeout, rank): (Timeout, Rank),
    queued_at: &mut Option<Instant>,
) -> Result<Bound<'py, PyAny>, Error> {
    let py = pool.py();
    let ledger = pool.get().ledger();
    let caller = want.caller();
    let mut parker = None;
    let mut sought: Option<(Seek<'_, Handle, Waker>, bool)> = None;
    let mut expired = false;
    let asked = Instant::now();
    'asking: loop {
        let mut answer = resolve_key(py, want, |want| {
            let waker = if expired { None } else { parker.as_ref().map(Parker::waker) };
            match sought.take() {
                Some((seek, granted)) => seek.check_out_as(granted, rank, want, place.waiter.as_ref(), waker, now()),
                None => ledger.check_out_as(rank, want, place.waiter.as_ref(), waker, now()),
            }
        })?;
        let (busy, joined) = loop {
            match answer {
                CheckOut::Lent(connection) => return Ok(connection.object(py)?),
                CheckOut::Check(checking) => answer = check::lend(pool, checking)?,
                CheckOut::Reserved(reservation) => {
                    let waits = timeout != Timeout::ZERO && !expired && !must_not_wait(caller);
                    match open(pool, want, reservation, waits)? {
                        Some(connection) => return Ok(connection),
                        None => continue 'asking,
                    }
                }
                CheckOut::FinishReturn(returning) => {
                    finish(pool, returning)?;
                    continue 'asking;
                }
                CheckOut::AskAgain => continue 'asking,
                CheckOut::Seek(seek) => {
                    sought = Some((seek, limit::take(pool)?));
                    continue 'asking;
                }
                CheckOut::ConnectFailed(error) => return Err(PyErr::from_value(error.object(py)?).into()),
                CheckOut::Busy(busy, joined) => break (busy, joined),
            }
        };
        place.take(joined)?;
        let end = timeout.deadline(asked);
        let must_not_wait = must_not_wait(caller);
        let at_once = must_not_wait || timeout == Timeout::ZERO;
        let deadline = match busy {
            Busy::Crowded => return Err(crowded(pool)),
            Busy::BackingOff { comes: false, .. } if at_once => match told_again(pool)? {
                Some(error) => return Err(error.into()),
                None => continue 'asking,
            },
            Busy::Limited if at_once => return Err(Refusal::Limited.into()),
            _ if must_not_wait => return Err(Refusal::Exhausted.into()),
            Busy::Full if at_once => return Err(Refusal::Exhausted.into()),
            // The caller does not wait for room, but for a connection that another caller is opening without a time limit.
            Busy::KeyOpening if at_once => None,
            // The same, as long as the room is in transit.
            Busy::InTransit | Busy::BackingOff { .. } if at_once => Instant::now().checked_add(GLANCE),
            // A pool with maxconn=0 never has room.
            _ if expired || ledger.counts().maxconn == 0 && busy == Busy::Full => {
                return Err(timed_out(pool, busy, asked));
            }
            Busy::BackingOff { next_try, .. } if next_try < Moment::NEVER => end.into_iter().chain(at(next_try)).min(),
            _ => end,
        };
        match &parker {
            None => {
                // The wait may be long, and this call holds nothing yet: write its lines and tell the listener now.
                do_what_waits(py, caller)?;
                parker = Some(Parker::new(py)?);
            }
            Some(parker) => {
                queued_at.get_or_insert_with(Instant::now);
                let woken = parker.wait(deadline)?;
                expired = !woken && timeout != Timeout::ZERO && end.is_some_and(|end| Instant::now() >= end);
            }
        }
    }
}

/// The moment of the exact clock at which the coarse one, which the ledger is told, has come to `moment`.
fn at(moment: Moment) -> Option<Instant> {
    let left = Duration::from_nanos(moment.since(now()).as_nanos());
    Instant::now().checked_add(left.saturating_add(Duration::from_millis(5)))
}

/// Finds the key for the loan, as psycopg2.pool does: it refuses a closed pool before a bad key, and uses up an automatic key
/// even if the call then fails.
fn want_of(pool: &Bound<'_, AbstractPool>, key: Option<&Bound<'_, PyAny>>) -> Result<Want<Handle>, Error> {
    Ok(match key {
        Some(key) => want_for(key)?,
        None if pool.get().has(flags::GETKEY_HOOK) => want_for(&pool.call_method0(name!(pool.py(), getkey_hook))?)?,
        None => Want::Any(pool.get().ledger().next_number(), caller(pool.py())?),
    })
}

/// Opens a connection through `self._connect`, which a subclass may override. `_connect` files the connection. Nothing: the server has
/// too many connections, and the caller, if it `waits`, waits for one of this pool's.
fn open<'py>(
    pool: &Bound<'py, AbstractPool>,
    want: &Want<Handle>,
    mut reservation: Reservation<'_, Handle, Waker>,
    waits: bool,
) -> Result<Option<Bound<'py, PyAny>>, Error> {
    let py = pool.py();
    let connection = match pool.call_method1(name!(py, connect_hook), (key_of(py, want)?,)) {
        Ok(connection) => connection,
        Err(error) => {
            if let Some(copied) = (waits && is_server_full(pool, &error)).then(|| copied(py, &error)).flatten() {
                match reservation.leave_to_loans(connect_error(pool, &error), copied) {
                    Ok(()) => return Ok(None),
                    Err(back) => reservation = back,
                }
            }
            // Close the connection that the hook had filed before it failed.
            let filed = reservation.fail(connect_error(pool, &error), outage(pool, &error));
            let discarded = filed.and_then(|filed| discard(pool, filed).err());
            return Err(weightier(py, error, discarded).into());
        }
    };
    if let Err(refusal) = pool.get().ensure_open()
        && !is_lent(pool, &connection)
    {
        close_for(pool, &connection, CloseReason::WithPool)?;
        return Err(refusal.into());
    }
    // If the hook has not filed the connection, the reservation gives its room back. The borrower gets the connection all the same.
    Ok(Some(connection))
}

/// Says whether a connection is lent, and open as far as the ledger knows.
fn is_lent(pool: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> bool {
    let ledger = pool.get().ledger();
    ledger.loan_at(address(connection)).is_some_and(|(loan, _)| ledger.loan_report(loan, now()).is_some())
}

fn crowded(pool: &Bound<'_, AbstractPool>) -> Error {
    let waiting = match pool.get().ledger().counts().waiting {
        1 => "1 caller waits".to_owned(),
        waiting => format!("{waiting} callers wait"),
    };
    let text = format!(
        "connection pool exhausted: {waiting} for a connection of {}, and no more may",
        pool.get().shown_name(pool.py())
    );
    match log(pool, CROWDED, || (text.clone(),)) {
        Ok(()) => Error::Crowded(text),
        Err(error) => error.into(),
    }
}

fn timed_out(pool: &Bound<'_, AbstractPool>, busy: Busy, asked: Instant) -> Error {
    let ledger = pool.get().ledger();
    let counts = ledger.counts();
    let waited = asked.elapsed().as_secs_f64();
    let name = pool.get().shown_name(pool.py());
    let mut text = if matches!(busy, Busy::BackingOff { .. }) {
        format!("connection not opened: waited {waited:.2} s for a server that takes none")
    } else if busy == Busy::Limited {
        format!("connection pool exhausted: waited {waited:.2} s for the limit that it shares with others")
    } else if busy == Busy::KeyOpening {
        format!("connection not opened: waited {waited:.2} s for the one that another caller opens under this key")
    } else {
        format!("connection pool exhausted: waited {waited:.2} s for one of {} connections", counts.maxconn)
    };
    let (lent, opening, waiting) = (counts.in_use(), counts.opening, counts.waiting);
    let _ = write!(text, " (lent {lent}, opening {opening}, waiting {waiting}) in {name}");
    text.push_str(&last_connect_error(pool));
    // Not a warning: under load there would be one for each request, and the caller gets the exception.
    match log(pool, TIMED_OUT, || (text.clone(),)) {
        Ok(()) if busy == Busy::Limited => Error::Limited(text),
        Ok(()) => Error::TimedOut(text),
        Err(error) => error.into(),
    }
}

/// A caller's place in the queue. The caller gives it up however the wait ends.
struct Place<'py, 'p> {
    pool: &'p Bound<'py, AbstractPool>,
    waiter: Option<Waiter<'p, Handle, Waker>>,
}

impl<'p> Place<'_, 'p> {
    /// Takes a new place, if there is one, and gives up the old one.
    fn take(&mut self, joined: Option<Waiter<'p, Handle, Waker>>) -> PyResult<()> {
        if joined.is_none() {
            return Ok(());
        }
        let left = self.give_up();
        self.waiter = joined;
        left
    }

    fn give_up(&mut self) -> PyResult<()> {
        self.waiter.take().and_then(Waiter::leave).map_or(Ok(()), |surplus| discard(self.pool, surplus))
    }
}
