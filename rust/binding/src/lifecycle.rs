//! The beginning and the end of a pool.

use std::sync::Arc;
use std::time::Instant;

use pgpool_core::{CloseReason, Policy};
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use crate::arguments::Timeout;
use crate::call::{call, edit, must_not_wait};
use crate::caller::{caller, is_thread_ident_native};
use crate::error::{Error, both, every, is_database_error, is_pool_exhausted, weightier};
use crate::fast_path::flags::{self, HOOKS, is_original};
use crate::give_back::discard_all;
use crate::handle::Handle;
use crate::leaks::log_forgotten;
use crate::limit;
use crate::log::{POOL_CLOSED, log};
use crate::news::{BORROWED, News, RETURNED, tell, tells};
use crate::notes::with_notes;
use crate::open::told_again;
use crate::options::Checked;
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::wait::{Parker, Waker, end_visits, poke};

/// Empties the ledger, sets options and limits, and opens minconn connections; closes them again if one fails.
pub(crate) fn start(pool: &Bound<'_, AbstractPool>, minconn: usize, maxconn: usize, options: Checked) -> PyResult<()> {
    let py = pool.py();
    let this = pool.get();
    let ledger = this.ledger();
    let opens = options.open;
    if this.options().limit.is_some() {
        // The pool is made anew: its places go back to the limit that it had.
        edit(py, || ledger.reset())?;
    }
    this.set_timeout(options.timeout);
    this.set_options(options.into_options(py)?);
    let caller = caller(py)?;
    let started = call(py, || {
        ledger.reset();
        ledger.set_policy(before_open(this.options().policy));
        drop(ledger.resize(minconn, maxconn));
        limit::attach(pool)?;
        this.set_flags(find_flags(pool)?);
        if opens {
            fill(pool)
        } else {
            drop(ledger.unopen(caller));
            Ok(())
        }
    });
    started.map_err(|error| {
        let closed = call(py, || {
            // Close the pool first, so that no other call opens a connection meanwhile.
            let connections = ledger.close().unwrap_or_default();
            let close = |connection: &Arc<Handle>| {
                tell(pool, News::Closed(CloseReason::WithPool));
                limit::close(pool, &connection.object(py)?)
            };
            let closed = every(py, connections.iter().map(close));
            ledger.reset();
            closed
        });
        weightier(py, error, closed.err())
    })
}

/// Opens a pool that is not yet open. If a connect fails, the pool is unopened again; but with `stays_open` and `reconnect_backoff`
/// it is open, as in each later outage.
pub(crate) fn open(pool: &Bound<'_, AbstractPool>, stays_open: bool) -> PyResult<()> {
    let py = pool.py();
    let ledger = pool.get().ledger();
    let caller = caller(py)?;
    call(py, || {
        if !with_notes(pool, ledger.open())? {
            return Ok(());
        }
        fill(pool).map_err(|error| {
            let policy = pool.get().options().policy;
            let backs_off = policy.reconnect_backoff.is_some() && ledger.last_failure().is_some();
            let holds_back = backs_off && is_database_error(py, &error);
            let undone = if stays_open && holds_back {
                begin_work(pool)
            } else {
                ledger.set_policy(before_open(policy));
                discard_all(pool, ledger.unopen(caller))
            };
            weightier(py, error, undone.err())
        })
    })
}

/// The policy while the first connections are opened: no thread of the pool starts.
fn before_open(policy: Policy) -> Policy {
    Policy { has_housekeeper: false, grow: None, ..policy }
}

/// Opens minconn connections, then lets threads work for the pool.
fn fill(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let py = pool.py();
    let (ledger, options) = (pool.get().ledger(), pool.get().options());
    let minconn = ledger.counts().minconn;
    let filled = if options.open_workers > 1 {
        imports()?.open_in_parallel.bind(py).call1((pool, minconn, options.open_workers)).map(drop)
    } else {
        (0..minconn).try_for_each(|_| pool.call_method0(name!(py, connect_hook)).map(drop))
    };
    filled.or_else(|error| {
        // Other callers may have opened the rest meanwhile, or other pools have what the limit allows.
        let counts = ledger.counts();
        let open = counts.open() + counts.opening;
        let may_go_on = open >= minconn || open < counts.maxconn && limit::limit_of(pool).is_some();
        if !may_go_on || !is_pool_exhausted(py, &error) {
            return Err(error);
        }
        // Connects are held back, so the limit was not even asked.
        let failed = if open < minconn { told_again(pool)? } else { None };
        failed.map_or(Ok(()), Err)
    })?;
    begin_work(pool)
}

/// Lets threads work for the pool from now on.
fn begin_work(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    let (ledger, options) = (pool.get().ledger(), pool.get().options());
    ledger.set_workers(Waker::Workers(AbstractPool::weak(pool)?));
    ledger.set_policy(options.policy);
    ledger.set_housekeeper(Waker::Housekeeper(AbstractPool::weak(pool)?));
    if options.policy.has_housekeeper && !poke(pool)? {
        ledger.housekeeper_missed();
    }
    Ok(())
}

/// Closes the pool: idle connections now, lent ones as they come back. Waits for those until the timeout is over, and counts the
/// connections that are not closed then.
pub(crate) fn close_gently(pool: &Bound<'_, AbstractPool>, timeout: Timeout) -> PyResult<usize> {
    let py = pool.py();
    let ledger = pool.get().ledger();
    let caller = caller(py)?;
    let deadline = timeout.deadline(Instant::now());
    call(py, || {
        let Some(idle) = ledger.close_gently(caller) else { return Ok(()) };
        let open = ledger.unclosed();
        let closed = discard_all(pool, idle);
        let logged = both(py, log_forgotten(pool), log(pool, POOL_CLOSED, || (open,)));
        both(py, both(py, closed, leave_housekeeper(pool)), logged)
    })?;
    let waits = timeout != Timeout::ZERO && !must_not_wait(caller);
    while waits && ledger.unclosed() > 0 {
        let parker = Parker::new(py)?;
        let closer = edit(py, || ledger.await_returns(parker.waker()))?;
        let woken = closer.is_none() || parker.wait(deadline)?;
        edit(py, || drop(closer))?;
        if !woken || !ledger.counts().closed {
            break;
        }
    }
    edit(py, || ledger.unclosed())
}

/// Finds the flags that keep the calls of a pool from the fast path.
pub(crate) fn find_flags(pool: &Bound<'_, AbstractPool>) -> PyResult<u64> {
    let class = pool.get_type();
    let attributes = pool.getattr("__dict__")?;
    let mut bits = 0;
    for (bit, name) in HOOKS.into_iter().enumerate() {
        if attributes.contains(name)? || !is_original(bit, &class.getattr(name)?) {
            bits |= 1 << bit;
        }
    }
    for name in [name!(pool.py(), getconn), name!(pool.py(), putconn)] {
        // A pool that is not made for use may have none. Another pool's is as good as overridden.
        let own = match pool.getattr_opt(name)? {
            Some(method) => method.is_instance_of::<PyCFunction>() && method.getattr("__self__")?.is(pool),
            None => false,
        };
        if !own {
            bits |= flags::GETCONN_OR_PUTCONN;
        }
    }
    let options = pool.get().options();
    if options.close_returns {
        bits |= flags::CLOSE_RETURNS;
    }
    if options.listener.iter().any(Option::is_some) {
        bits |= flags::LISTENER;
    }
    if options.record || options.reclaim || tells(&options, BORROWED) || !is_thread_ident_native(pool.py())? {
        bits |= flags::LOANS;
    }
    if options.record || options.reclaim || tells(&options, RETURNED) || options.reset.is_some() || options.policy.fifo
    {
        bits |= flags::RETURNS;
    }
    Ok(bits)
}

/// Closes every connection, and the pool.
pub(crate) fn close(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    call(pool.py(), || close_all(pool))
}

fn close_all(pool: &Bound<'_, AbstractPool>) -> Result<(), Error> {
    let py = pool.py();
    let connections = with_notes(pool, pool.get().ledger().close())?;
    // Close all of them, even if some `close()` raises. Ignore a database's errors, as psycopg2.pool does.
    let ends = connections.iter().map(|connection| {
        tell(pool, News::Closed(CloseReason::WithPool));
        close_last(pool, connection).or_else(|error| if is_database_error(py, &error) { Ok(()) } else { Err(error) })
    });
    let closed = every(py, ends);
    pool.get().ledger().end_closing();
    let closed = both(py, closed, leave_housekeeper(pool));
    let logged = both(py, log_forgotten(pool), log(pool, POOL_CLOSED, || (connections.len(),)));
    Ok(both(py, closed, logged)?)
}

/// Lets the housekeeping thread end if this was the last pool that needed it.
fn leave_housekeeper(pool: &Bound<'_, AbstractPool>) -> PyResult<()> {
    if pool.get().options().policy.has_housekeeper { end_visits(pool).map(drop) } else { Ok(()) }
}

/// Closes a connection when its pool closes. A connection that its borrower has forgotten is closed already. An object without
/// `close()` is dropped.
fn close_last(pool: &Bound<'_, AbstractPool>, connection: &Handle) -> PyResult<()> {
    let py = pool.py();
    match connection.living(py) {
        Some(connection) if connection.hasattr(name!(py, close))? => limit::close(pool, &connection),
        _ => Ok(()),
    }
}
