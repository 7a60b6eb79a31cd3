//! All that the pool asks of a connection.
//!
//! A connection need not be psycopg2's: the pool lends proxies of tracing libraries, wrappers and mocks too. It needs of them
//! only what this module asks.

use std::fmt;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PySuper, PyTuple};

use crate::error::both;
use crate::fast_path::probe::{IDLE, READY, has_begun_two_phase};
use crate::python::{imports, name};

/// libpq's account of a transaction, `PGTransactionStatusType`.
/// <https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS>
const LIBPQ_SAYS: [&str; 5] =
    ["IDLE", "ACTIVE (a command is under way, COPY perhaps)", "INTRANS", "INERROR", "UNKNOWN"];
const INTRANS: i32 = 2;
const INERROR: i32 = 3;
/// The connection is bad.
const UNKNOWN: i32 = 4;

/// psycopg2's own account, `connection.status`, in a transaction that it has begun.
const BEGIN: i32 = 2;
/// psycopg2's own account: in a two-phase transaction that is prepared on the server.
const PREPARED: i32 = 5;

/// Opens a connection as psycopg2.pool does: with the pool's live arguments, by `psycopg2.connect`, which a program may replace and
/// which is looked up now, or by `instead`.
pub(crate) fn connect<'py>(pool: &Bound<'py, PyAny>, instead: Option<&Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    let py = pool.py();
    let connect = match instead {
        Some(connect) => connect.bind(py).clone(),
        None => imports()?.psycopg2.bind(py).getattr(name!(py, connect))?,
    };
    let args = pool.getattr(name!(py, args))?;
    let args = PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
    let kwargs = PyDict::new(py);
    kwargs.update(pool.getattr(name!(py, kwargs))?.cast()?)?;
    connect.call(args, Some(&kwargs))
}

/// The state of a connection.
pub(crate) enum Look {
    /// Open, and in no transaction by either account.
    Clean,
    /// Open, and in a transaction by one account at least, which may have failed. A statement may still run.
    InTransaction(Accounts),
    /// Open, as far as psycopg2 knows, but libpq calls it bad.
    Broken,
    /// Closed.
    Closed(Closed),
}

/// How a connection came to be closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// `close()` was called.
    Properly,
    /// psycopg2 found it broken.
    Broken,
}

/// The value of `closed` of a connection that psycopg2 found broken.
/// <https://www.psycopg.org/docs/connection.html#connection.closed>
const CLOSED_BROKEN: u8 = 2;

/// Both accounts of a connection's transaction. A proxy or a mock may have none.
#[derive(Clone, Copy)]
pub(crate) struct Accounts {
    libpq: Option<i32>,
    psycopg2: Option<i32>,
    /// A two-phase transaction has begun. Until it ends, psycopg2 refuses `commit()` and `rollback()`.
    two_phase: bool,
}

impl Accounts {
    /// Says whether neither account speaks of a transaction.
    pub(crate) fn are_clean(self) -> bool {
        let psycopg2_is_in_one = matches!(self.psycopg2, Some(BEGIN | PREPARED));
        self.libpq.is_none_or(|status| status == IDLE) && !psycopg2_is_in_one && !self.two_phase
    }

    /// Says whether the pool must not roll the transaction back: the coordinator of a two-phase transaction ends it.
    fn is_two_phase(self) -> bool {
        self.two_phase || self.psycopg2 == Some(PREPARED)
    }

    /// Says whether only libpq knows of the transaction, so that psycopg2's own `commit()` and `rollback()` do nothing.
    fn only_libpq_knows(self) -> bool {
        self.psycopg2 == Some(READY) && matches!(self.libpq, Some(INTRANS | INERROR))
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let libpq = self.libpq.and_then(|status| LIBPQ_SAYS.get(usize::try_from(status).ok()?));
        let psycopg2 = match self.psycopg2 {
            Some(READY) => "READY",
            Some(BEGIN) => "BEGIN",
            Some(PREPARED) => "PREPARED",
            _ => "nothing",
        };
        write!(f, "in a transaction: libpq says {}, psycopg2 says {psycopg2}", libpq.unwrap_or(&"nothing"))?;
        if self.two_phase { f.write_str(", a two-phase transaction was begun") } else { Ok(()) }
    }
}

/// Looks at a connection: asks what psycopg2.pool asks, in its order, and then for psycopg2's own account.
pub(crate) fn look_at(connection: &Bound<'_, PyAny>) -> PyResult<Look> {
    let py = connection.py();
    let closed = connection.getattr(name!(py, closed))?;
    if closed.is_truthy()? {
        return Ok(Look::Closed(if closed.eq(CLOSED_BROKEN)? { Closed::Broken } else { Closed::Properly }));
    }
    let libpq = connection.getattr(name!(py, info))?.getattr(name!(py, transaction_status))?;
    if libpq.eq(UNKNOWN)? {
        return Ok(Look::Broken);
    }
    let idle = libpq.eq(IDLE)?;
    let accounts = Accounts {
        libpq: libpq.cast::<PyInt>().ok().and_then(|status| status.extract().ok()),
        psycopg2: psycopg2_status(connection)?,
        two_phase: has_begun_two_phase(connection),
    };
    Ok(if idle && accounts.are_clean() { Look::Clean } else { Look::InTransaction(accounts) })
}

/// Asks for psycopg2's own account. A mock's status, which is no integer, does not count.
fn psycopg2_status(connection: &Bound<'_, PyAny>) -> PyResult<Option<i32>> {
    let status = connection.getattr_opt(name!(connection.py(), status))?;
    Ok(status.and_then(|status| status.cast_exact::<PyInt>().ok()?.extract().ok()))
}

/// Rolls back the transaction, and looks again, as a rollback may have no effect. Keeps an object without accounts, as
/// psycopg2.pool does.
pub(crate) fn make_clean(connection: &Bound<'_, PyAny>, seen: Accounts) -> PyResult<Look> {
    if seen.is_two_phase() {
        return Ok(Look::InTransaction(seen));
    }
    rollback(connection)?;
    Ok(match look_at(connection)? {
        Look::InTransaction(accounts) if accounts.are_clean() => Look::Clean,
        look => look,
    })
}

/// Rolls back, whichever account knows of the transaction.
pub(crate) fn rollback(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(name!(connection.py(), rollback))?;
    end_in_sql(connection, "ROLLBACK")
}

/// Commits, whichever account knows of the transaction.
pub(crate) fn commit(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(name!(connection.py(), commit))?;
    end_in_sql(connection, "COMMIT")
}

/// Ends a transaction that only libpq knows of.
fn end_in_sql(connection: &Bound<'_, PyAny>, statement: &str) -> PyResult<()> {
    if psycopg2_status(connection)? != Some(READY) {
        return Ok(());
    }
    match look_at(connection)? {
        Look::InTransaction(accounts) if accounts.only_libpq_knows() => {}
        _ => return Ok(()),
    }
    let py = connection.py();
    let Some(cursor) = plain_cursor(connection)? else { return Ok(()) };
    // Without autocommit psycopg2 would send BEGIN first, which a failed transaction refuses.
    let autocommit = name!(py, autocommit);
    // A replication connection's autocommit is on, and cannot be read.
    let off = connection.getattr_opt(autocommit)?.map(|on| on.is_truthy()).transpose()? == Some(false);
    if off {
        connection.setattr(autocommit, true)?;
    }
    let executed = cursor.call_method1(name!(py, execute), (statement,)).map(drop);
    let restored = if off { connection.setattr(autocommit, false) } else { Ok(()) };
    both(py, executed, restored)
}

/// Makes a plain cursor. A subclass may override `cursor()`.
fn plain_cursor<'py>(connection: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = connection.py();
    let imports = imports()?;
    if connection.get_type().is_subclass(imports.connection.bind(py))? {
        return imports.cursor.bind(py).call1((connection,)).map(Some);
    }
    connection.getattr_opt(name!(py, cursor))?.map(|cursor| cursor.call0()).transpose()
}

/// A base for connection classes whose `close()` returns the connection. It adds no field to an object, so a class can inherit it
/// together with any other class.
#[pyclass(subclass, frozen, name = "Returning", module = "pgpool_rs._core")]
pub(crate) struct ReturningConnection;

/// Closes a connection as its class would without [`ReturningConnection`].
pub(crate) fn close_for_good(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = connection.py();
    let next = PySuper::new(&py.get_type::<ReturningConnection>(), connection)?;
    next.call_method0(name!(py, close)).map(drop)
}

/// Closes a connection, also one whose `close()` returns it.
pub(crate) fn close(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    if connection.is_instance_of::<ReturningConnection>() {
        return close_for_good(connection);
    }
    connection.call_method0(name!(connection.py(), close)).map(drop)
}

/// Says whether `close()` was called on a connection that was healthy. An object without `closed` is open.
pub(crate) fn is_closed_properly(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = connection.py();
    match connection.getattr_opt(name!(py, closed))? {
        // A mock's attribute is true, but no integer.
        Some(closed) => Ok(closed.is_instance_of::<PyInt>() && closed.eq(1)?),
        None => Ok(false),
    }
}

/// Says whether this is one of psycopg2's asynchronous connections, which neither commit nor roll back.
pub(crate) fn is_async(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = connection.py();
    let flag = connection.getattr_opt(name!(py, async_))?;
    // A mock's attribute is true, but no integer.
    Ok(flag
        .is_some_and(|flag| flag.cast_exact::<PyInt>().is_ok_and(|flag| flag.extract().is_ok_and(|on: i32| on != 0))))
}
