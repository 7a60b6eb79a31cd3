//! The methods of both classes, as Python calls them.

use std::time::Instant;

use pgpool_core::{Counts, Moment};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString, PyTuple};

use crate::arguments::{Flag, Priority, Timeout, TimeoutArg, Truth, size};
use crate::borrow::borrow;
use crate::call::{call, edit};
use crate::fast_path::flags;
use crate::give_back::{discard_all, give_back};
use crate::grow;
use crate::keys::number_to_key;
use crate::leaks;
use crate::lifecycle::{close, close_gently, find_flags, open, start};
use crate::loan::Loan;
use crate::maintain;
use crate::notes::{annotated, with_notes};
use crate::open::connect;
use crate::options::Checked;
use crate::pool::{AbstractPool, ThreadedPool, timeout_of};
use crate::python::{getconn_kwargs, name};
use crate::stats::{histograms, to_dict};
use crate::system::now;
use crate::text::{repr_of, text_of};

#[pymethods]
impl AbstractPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::new()
    }

    /// Empty the ledger, set the limits and open minconn connections; close them again if one fails.
    fn _pgpool_start(
        slf: &Bound<'_, Self>,
        minconn: &Bound<'_, PyAny>,
        maxconn: &Bound<'_, PyAny>,
        options: Checked,
    ) -> PyResult<()> {
        start(slf, size("minconn", minconn)?, size("maxconn", maxconn)?, options)
    }

    /// Count the places of its limit that the pool's waiters could use now.
    fn _pgpool_wanted(&self) -> usize {
        self.ledger().wanted(now())
    }

    /// Give places of its limit to the pool's waiters. Returns how many it had no use for.
    fn _pgpool_grant(&self, count: usize) -> usize {
        self.ledger().grant(count, now())
    }

    /// Keep no more than `most` connections, and `minconn`, since others wait for the limit; None: nobody does.
    fn _pgpool_press(slf: &Bound<'_, Self>, most: Option<usize>) -> PyResult<()> {
        maintain::press(slf, most)
    }

    /// Find out which hooks are overridden, so that calls leave the fast path for them.
    fn _pgpool_find_hooks(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().set_flags(find_flags(slf)?);
        Ok(())
    }

    /// Do all chores that are due, and tell in how many seconds the next one may be. None: not before the next poke; -1: the pool is
    /// closed.
    fn _pgpool_maintain(slf: &Bound<'_, Self>) -> PyResult<Option<f64>> {
        let due = maintain::maintain_alone(slf)?;
        if slf.get().ledger().counts().closed {
            return Ok(Some(-1.0));
        }
        Ok((due < Moment::NEVER).then(|| due.since(now()).as_secs_f64()))
    }

    /// Open connections as long as callers wait for them; what a worker's thread does.
    fn _pgpool_work(slf: &Bound<'_, Self>) {
        grow::work(slf);
    }

    /// The name of the pool, in its log.
    fn _pgpool_name(&self) -> String {
        self.name()
    }

    // --- psycopg2.pool's own methods -------------------------------------------------------------------------

    /// Open a connection and file it under `key`, or put it into the pool if there is no key. A hook: override it to open
    /// connections in another way.
    #[pyo3(signature = (key=None))]
    fn _connect<'py>(slf: &Bound<'py, Self>, key: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        connect(slf, key)
    }

    /// Make up a key. A hook: override it to lend by a key of your own where none is given.
    fn _getkey<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        number_to_key(py, edit(py, || self.ledger().next_number())?)
    }

    /// Lend a connection; return it with `putconn`.
    ///
    /// :param key: the key to lend it under. The same key gets the same connection until it is returned.
    /// :param timeout: as `ThreadedConnectionPool.getconn` takes it. A `SimpleConnectionPool` refuses it with a `TypeError`.
    /// :param priority: whether this caller may take what `reserve` keeps back.
    /// :raises PoolClosed: the pool is closed.
    /// :raises PoolExhausted: every connection is lent.
    /// :raises psycopg2.Error: a connection could not be opened.
    #[expect(clippy::needless_pass_by_value, reason = "an argument is what it was converted to")]
    #[pyo3(
        signature = (key=None, *, timeout=TimeoutArg::Missing, priority=Priority::MISSING),
        text_signature = "($self, key=None, *, timeout=..., priority=False)"
    )]
    pub(crate) fn _getconn(
        slf: &Bound<'_, Self>,
        key: Option<&Bound<'_, PyAny>>,
        timeout: TimeoutArg<'_>,
        priority: Priority,
    ) -> PyResult<Py<PyAny>> {
        borrow(slf, key, timeout_of(slf, &timeout)?, priority.0)
    }

    /// Take a connection back. The pool rolls back its transaction, and closes it if it is broken or not needed.
    ///
    /// :param conn: the connection; or None, to return what is lent under `key`.
    /// :param key: the key that it was lent under, which may be left out.
    /// :param close: close it in any case.
    /// :raises PoolClosed: the pool is closed, and so is the connection.
    /// :raises PoolError: it is not lent, or not under this key. Nothing has changed.
    #[pyo3(signature = (conn, key=None, close=Truth(false)), text_signature = "($self, conn, key=None, close=False)")]
    pub(crate) fn _putconn(
        slf: &Bound<'_, Self>,
        conn: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        close: Truth,
    ) -> PyResult<()> {
        Ok(give_back(slf, conn, key, close.0)?)
    }

    /// Close every connection, lent ones too, and refuse every call from then on.
    ///
    /// :raises PoolClosed: the pool is closed already.
    fn _closeall(slf: &Bound<'_, Self>) -> PyResult<()> {
        close(slf)
    }

    // --- ours ------------------------------------------------------------------------------------------------

    /// Open a pool that was made with `open=False`: open `minconn` connections, and start what the options need. Does nothing if the pool
    /// is open.
    ///
    /// :raises PoolClosed: the pool was closed.
    /// :raises psycopg2.Error: a connect failed. With `reconnect_backoff` the pool is open all the same; without, it is as before.
    fn open(slf: &Bound<'_, Self>) -> PyResult<()> {
        open(slf, true)
    }

    /// Close the pool: idle connections now, lent ones as they come back. Waiting callers get `PoolClosed`. The return of a connection
    /// that was lent before works as ever. A second call closes nothing, but may wait.
    ///
    /// :param timeout: how many seconds to wait until all connections are closed. None does not wait.
    /// :returns: how many connections are not closed yet: those that are lent, and those that other callers open, check or close at
    ///     this moment.
    #[pyo3(signature = (timeout=None), text_signature = "($self, timeout=None)")]
    fn close(slf: &Bound<'_, Self>, timeout: Option<Timeout>) -> PyResult<usize> {
        close_gently(slf, timeout.unwrap_or(Timeout::ZERO))
    }

    /// Lend a connection for a `with` block. The block's end commits, or rolls back if the block raised, and returns the connection
    /// in any case. Key, timeout, priority and errors are those of `getconn`.
    #[pyo3(
        signature = (key=None, *, timeout=TimeoutArg::Missing, priority=Priority::MISSING),
        text_signature = "($self, key=None, *, timeout=..., priority=False)"
    )]
    fn connection(
        slf: &Bound<'_, Self>,
        key: Option<Py<PyAny>>,
        timeout: TimeoutArg<'_>,
        priority: Priority,
    ) -> PyResult<Loan> {
        timeout_of(slf, &timeout)?;
        Ok(Loan::new(slf.clone().unbind(), key, timeout, priority.0))
    }

    /// Set both limits, as assigning `minconn` and `maxconn` does. The pool closes idle connections above `maxconn` now, and lent
    /// ones as they come back.
    ///
    /// :param minconn: how many idle connections the pool keeps, and how many open ones the housekeeping restores.
    /// :param maxconn: how many connections there are at most.
    /// :raises ValueError: a size is negative, `minconn` is greater than `maxconn`, or `maxconn` is not greater than `reserve`.
    fn resize(slf: &Bound<'_, Self>, minconn: &Bound<'_, PyAny>, maxconn: &Bound<'_, PyAny>) -> PyResult<()> {
        let (least, most) = (size("minconn", minconn)?, size("maxconn", maxconn)?);
        if least > most {
            let text = format!("minconn must not be greater than maxconn, not minconn={least} and maxconn={most}");
            return Err(PyValueError::new_err(text));
        }
        ensure_above_reserve(slf, most)?;
        call(slf.py(), || discard_all(slf, slf.get().ledger().resize(least, most)))
    }

    /// Replace every connection: close idle ones now and lent ones as they come back, and open new ones up to `minconn` now. A
    /// connect that fails is logged, not raised.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        maintain::drain(slf)
    }

    /// Check every idle connection now, close those that are dead, and open new ones up to `minconn`. A connect that fails is
    /// logged, not raised.
    ///
    /// :raises PoolClosed: the pool is closed.
    fn check(slf: &Bound<'_, Self>) -> PyResult<()> {
        with_notes(slf, slf.get().ensure_open())?;
        maintain::check_all(slf)
    }

    /// Do one round of housekeeping, which the housekeeping thread does by itself if an option asks for it.
    ///
    /// It closes connections that are too old or have been idle for too long, reports loans that last too long, and opens
    /// connections that are missing of `minconn`. A connect that fails is logged, not raised.
    fn maintain(slf: &Bound<'_, Self>) -> PyResult<()> {
        maintain::maintain_now(slf)
    }

    /// Wait until `minconn` connections are open, and one at least, opening those that are missing.
    ///
    /// :param timeout: how many seconds to wait; None waits for ever.
    /// :raises PoolTimeout: fewer are open even now; the message says why the last connect failed. With `maxconn` 0, at once.
    /// :raises PoolClosed: the pool is closed.
    #[pyo3(signature = (timeout=Timeout(30.0)), text_signature = "($self, timeout=30.0)")]
    fn wait(slf: &Bound<'_, Self>, timeout: Timeout) -> PyResult<()> {
        with_notes(slf, slf.get().ensure_open())?;
        let asked = Instant::now();
        let waited = maintain::wait(slf, timeout.deadline(asked), asked);
        Ok(waited.map_err(|error| annotated(slf, error, asked.elapsed(), None))?)
    }

    /// List the loans of this moment, the oldest first: `key`, `age` in seconds, `thread` (under gevent, the greenlet) as
    /// `threading.get_ident` tells it, and the `stack` of the borrower if `leak_after` is set.
    fn loans<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        leaks::loans(slf)
    }

    /// Give the numbers of this moment, and counts since the pool was made or `pop_stats` was called in this process. Those in
    /// `_ms` are milliseconds. <https://pgpool-rs.readthedocs.io/en/latest/options.html#statistics> says what each means.
    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, edit(py, || self.ledger().stats(now()))?)
    }

    /// Give what `get_stats` gives, and count from zero from now on.
    fn pop_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, edit(py, || self.ledger().take_stats(now()))?)
    }

    /// Give the histograms of `"wait"`, `"use"` and `"create"` times since the pool was made in this process: for each bound in
    /// seconds, how many times were at most so long. `pop_stats` leaves them as they are.
    fn get_histograms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        histograms(py, &edit(py, || self.ledger().times())?)
    }

    /// Give the pool, which the end of the block closes. Opens it if it is not yet open.
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        // Nobody closes the pool of a block that is not entered.
        open(slf, false)?;
        Ok(slf.clone())
    }

    /// Call `closeall` unless the pool is closed already.
    #[pyo3(signature = (*_exc_info))]
    fn __exit__(slf: &Bound<'_, Self>, _exc_info: &Bound<'_, PyTuple>) -> PyResult<()> {
        if !slf.get().ledger().counts().closed {
            slf.call_method0(name!(slf.py(), closeall))?;
        }
        Ok(())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = slf.get_type();
        let counts = slf.get().ledger().counts();
        let closed = match counts {
            Counts { unopened: true, .. } => " unopened",
            Counts { closed: true, .. } => " closed",
            _ => "",
        };
        Ok(format!(
            "<{}.{} {}{closed} idle={} lent={} opening={} returning={} waiting={} minconn={} maxconn={}>",
            text_of(class.module()?.as_any())?,
            text_of(class.qualname()?.as_any())?,
            repr_of(PyString::from_bytes(slf.py(), slf.get().name().as_bytes())?.as_any())?,
            // closeall has closed them, and they stay in `_pool`.
            if counts.closed { 0 } else { counts.idle },
            counts.in_use(),
            counts.opening,
            counts.returning,
            counts.waiting,
            counts.minconn,
            counts.maxconn,
        ))
    }

    // --- attributes that are plain ones in psycopg2.pool -----------------------------------------------------

    /// How many idle connections the pool keeps, and how many open ones the housekeeping restores.
    #[getter]
    fn minconn(&self, py: Python<'_>) -> PyResult<usize> {
        edit(py, || self.ledger().counts().minconn)
    }

    #[setter]
    fn set_minconn(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let least = size("minconn", value)?;
        edit(value.py(), || self.ledger().set_minconn(least))
    }

    /// How many connections there are at most.
    #[getter]
    fn maxconn(&self, py: Python<'_>) -> PyResult<usize> {
        edit(py, || self.ledger().counts().maxconn)
    }

    #[setter]
    fn set_maxconn(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let most = size("maxconn", value)?;
        ensure_above_reserve(slf, most)?;
        call(slf.py(), || discard_all(slf, slf.get().ledger().set_maxconn(most)))
    }

    /// Whether the pool is closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        edit(py, || self.ledger().counts().closed)
    }

    #[setter]
    fn set_closed(&self, py: Python<'_>, value: Truth) -> PyResult<()> {
        edit(py, || self.ledger().set_closed(value.0))
    }

    /// The last automatic key that was given out, as a number.
    #[getter(_keys)]
    fn keys(&self, py: Python<'_>) -> PyResult<u64> {
        edit(py, || self.ledger().last_number())
    }

    #[setter(_keys)]
    fn set_keys(&self, py: Python<'_>, value: u64) -> PyResult<()> {
        edit(py, || self.ledger().set_last_number(value))
    }

    // --- garbage collection ----------------------------------------------------------------------------------

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse(&visit)
    }

    fn __clear__(&self) {
        self.clear();
    }
}

/// Refuses a limit that leaves callers without priority nothing.
fn ensure_above_reserve(pool: &Bound<'_, AbstractPool>, maxconn: usize) -> PyResult<()> {
    match pool.get().options().policy.reserve {
        reserve if reserve > 0 && maxconn <= reserve => {
            let text = format!("maxconn must be greater than reserve, not maxconn={maxconn} and reserve={reserve}");
            Err(PyValueError::new_err(text))
        }
        _ => Ok(()),
    }
}

#[pymethods]
impl ThreadedPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __new__(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(AbstractPool::new()).add_subclass(Self)
    }

    /// Lend a connection; return it with `putconn`.
    ///
    /// :param key: the key to lend it under. The same key gets the same connection until it is returned.
    /// :param timeout: how many seconds to wait where every connection is lent. 0 refuses at once, None waits for ever;
    ///     left out, it is the pool's own.
    /// :param priority: whether this caller may take what `reserve` keeps back. If it waits, it is served before those without.
    /// :raises PoolClosed: the pool is closed, or was closed meanwhile.
    /// :raises PoolExhausted: every connection is lent, and `timeout` is 0.
    /// :raises PoolTimeout: no connection came free in time.
    /// :raises TooManyRequests: `max_waiting` callers wait already.
    /// :raises psycopg2.Error: a connection could not be opened.
    #[pyo3(
        signature = (key=None, *, timeout=TimeoutArg::Missing, priority=Priority::MISSING),
        text_signature = "($self, key=None, *, timeout=..., priority=False)"
    )]
    pub(crate) fn getconn(
        slf: &Bound<'_, Self>,
        key: Option<&Bound<'_, PyAny>>,
        timeout: TimeoutArg<'_>,
        priority: Priority,
    ) -> PyResult<Py<PyAny>> {
        let pool = slf.as_super();
        if !pool.get().has(flags::GETCONN_HOOK) {
            return borrow(pool, key, timeout_of(pool, &timeout)?, priority.0);
        }
        let timeout = match timeout {
            TimeoutArg::Missing => None,
            TimeoutArg::Given(_, timeout) => Some(timeout),
        };
        let kwargs = getconn_kwargs(slf.py(), timeout, priority.0)?;
        Ok(slf.call_method(name!(slf.py(), getconn_hook), (key,), kwargs.as_ref())?.unbind())
    }

    /// Take a connection back. The pool rolls back its transaction, and closes it if it is broken or not needed.
    ///
    /// :param conn: the connection; or None, to return what is lent under `key`.
    /// :param key: the key that it was lent under, which may be left out.
    /// :param close: close it in any case.
    /// :raises PoolClosed: the pool is closed, and so is the connection.
    /// :raises PoolError: it is not lent, or not under this key. Nothing has changed.
    #[pyo3(
        signature = (conn=None, key=None, close=Flag(None)),
        text_signature = "($self, conn=None, key=None, close=False)"
    )]
    pub(crate) fn putconn(
        slf: &Bound<'_, Self>,
        conn: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        close: Flag<'_>,
    ) -> PyResult<()> {
        let pool = slf.as_super();
        if !pool.get().has(flags::PUTCONN_HOOK) {
            return Ok(give_back(pool, conn, key, close.is_truthy()?)?);
        }
        let py = slf.py();
        let close = close.0.unwrap_or_else(|| PyBool::new(py, false).to_owned().into_any());
        slf.call_method1(name!(py, putconn_hook), (conn, key, close)).map(drop)
    }

    /// Close every connection, lent ones too, and refuse every call from then on.
    ///
    /// :raises PoolClosed: the pool is closed already.
    fn closeall(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.call_method0(name!(slf.py(), closeall_hook)).map(drop)
    }
}
