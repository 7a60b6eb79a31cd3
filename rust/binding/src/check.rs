//! Finding out whether a connection is well.

use pgpool_core::{Check, CheckOut, Checking, CloseReason, SlotId};
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt};

use crate::connection::{self, Closed, Look};
use crate::error::{Error, is_database_error, new_error, weightier};
use crate::handle::Handle;
use crate::limit;
use crate::log::{CHECK_FAILED, CLOSE_FAILED, log_unclean, report};
use crate::news::{News, close_for, tell};
use crate::pool::AbstractPool;
use crate::python::{imports, name};
use crate::system::{Socket, look_at_socket, now};
use crate::wait::Waker;

/// Look whether the server has hung up, without a query and without waiting; the default of `check=`.
///
/// It makes two system calls at most. If the server has sent something, the driver reads it: a notification goes into
/// `conn.notifies`. An object that has no file descriptor passes.
///
/// :raises psycopg2.Error: the connection is closed, or the server has closed it.
#[pyfunction]
pub(crate) fn check_socket(conn: &Bound<'_, PyAny>) -> PyResult<()> {
    for _ in 0..2 {
        let Some(descriptor) = descriptor(conn)? else { return Ok(()) };
        match look_at_socket(descriptor) {
            Socket::Quiet => return Ok(()),
            Socket::HungUp => return Err(hung_up()),
            // The driver may need two reads to see that the server has closed the connection after a last message.
            Socket::Readable => drop(conn.call_method0(name!(conn.py(), poll))?),
        }
    }
    match descriptor(conn)?.map(look_at_socket) {
        Some(Socket::HungUp) => Err(hung_up()),
        Some(Socket::Readable | Socket::Quiet) | None => match connection::look_at(conn)? {
            Look::Clean | Look::InTransaction(_) => Ok(()),
            Look::Broken | Look::Closed(_) => Err(hung_up()),
        },
    }
}

fn descriptor(conn: &Bound<'_, PyAny>) -> PyResult<Option<i32>> {
    let py = conn.py();
    let fileno = match conn.getattr(name!(py, fileno)) {
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => return Ok(None),
        fileno => fileno?.call0()?,
    };
    // A mock may give anything.
    fileno.cast_exact::<PyInt>().ok().map(|number| number.extract()).transpose()
}

fn hung_up() -> PyErr {
    new_error(|imports| &imports.OperationalError, "the server has closed the connection")
}

/// Calls a user's function, which must leave the connection open and in no transaction.
pub(crate) fn leave_clean(
    pool: &Bound<'_, AbstractPool>,
    connection: &Bound<'_, PyAny>,
    function: &Py<PyAny>,
    name: &str,
) -> PyResult<()> {
    function.bind(pool.py()).call1((connection,))?;
    ensure_clean(name, &pool.get().look_at(connection)?)
}

/// Rolls back the transaction in which `connect=` has left a new connection.
pub(crate) fn begin_clean(pool: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
    let seen = match pool.get().look_at(connection) {
        Ok(Look::InTransaction(seen)) => seen,
        // A program may give what it likes.
        Err(error) if !error.is_instance_of::<PyAttributeError>(pool.py()) => return Err(error),
        _ => return Ok(()),
    };
    // The accounts of a mock say nothing.
    if seen.are_clean() {
        return Ok(());
    }
    match connection::make_clean(connection, seen)? {
        look @ Look::InTransaction(_) => ensure_clean("connect", &look),
        _ => Ok(()),
    }
}

/// Raises the error for a connection that a user's function left in another condition than clean.
fn ensure_clean(name: &str, look: &Look) -> PyResult<()> {
    let condition = match look {
        Look::Clean => return Ok(()),
        Look::InTransaction(accounts) => accounts.to_string(),
        Look::Broken | Look::Closed(Closed::Broken) => "broken".to_owned(),
        Look::Closed(Closed::Properly) => "closed".to_owned(),
    };
    let text = format!("connection discarded: {name} left it {condition}");
    Err(new_error(|imports| &imports.ProgrammingError, &text))
}

/// Calls the pool's check on a connection and looks at the connection afterwards. Rolls back a transaction that the check leaves.
fn ask(pool: &Bound<'_, AbstractPool>, connection: &Bound<'_, PyAny>) -> PyResult<Look> {
    if connection::is_async(connection)? {
        return Ok(Look::Clean);
    }
    let options = pool.get().options();
    // The default check looks at the socket and leaves no transaction. A user's check may.
    let Some(check) = &options.check else { return check_socket(connection).map(|()| Look::Clean) };
    check.bind(pool.py()).call1((connection,))?;
    match pool.get().look_at(connection)? {
        Look::InTransaction(seen) => connection::make_clean(connection, seen),
        look => Ok(look),
    }
}

/// Finds out whether a connection under check is healthy. If not, closes it and gives the reason.
pub(crate) fn examine(
    pool: &Bound<'_, AbstractPool>,
    checking: &Checking<'_, Handle, Waker>,
) -> PyResult<Option<CloseReason>> {
    let py = pool.py();
    let connection = checking.connection().object(py)?;
    if let Check::Expired(reason) = checking.kind() {
        close_for(pool, &connection, reason)?;
        return Ok(Some(reason));
    }
    let (reason, failed) = match ask(pool, &connection) {
        Ok(Look::Clean) => return Ok(None),
        Ok(Look::InTransaction(left)) => (CloseReason::Unclean, Ok(left)),
        Ok(Look::Broken | Look::Closed(_)) => (CloseReason::Lost, Err(hung_up())),
        Err(error) => (CloseReason::Lost, Err(error)),
    };
    tell(pool, News::Closed(reason));
    match (failed, limit::close(pool, &connection)) {
        (Ok(left), Ok(())) => log_unclean(pool, left),
        (Ok(_), Err(error)) => report(pool, CLOSE_FAILED, error),
        (Err(error), closed) => report(pool, CHECK_FAILED, weightier(py, error, closed.err())),
    }?;
    Ok(Some(reason))
}

/// Lends a connection under check if it is healthy. If not, closes it and asks for another one.
pub(crate) fn lend<'p>(
    pool: &'p Bound<'_, AbstractPool>,
    checking: Checking<'p, Handle, Waker>,
) -> Result<CheckOut<'p, Handle, Waker>, Error> {
    let reason = match examine(pool, &checking)? {
        Some(reason) => reason,
        None => match checking.lend(now()) {
            Ok(()) => return Ok(CheckOut::Lent(checking.connection().clone())),
            Err(reason) => {
                close_for(pool, &checking.connection().object(pool.py())?, reason)?;
                reason
            }
        },
    };
    Ok(checking.next(reason, now())?)
}

/// Puts a connection under check back into the pool if it is healthy. If not, closes it.
pub(crate) fn put_back(pool: &Bound<'_, AbstractPool>, checking: Checking<'_, Handle, Waker>) -> PyResult<()> {
    if let Some(reason) = examine(pool, &checking)? {
        checking.discard(reason);
    } else if let Err(reason) = checking.put_back(now()) {
        close_for(pool, &checking.connection().object(pool.py())?, reason)?;
        checking.discard(reason);
    }
    Ok(())
}

/// Learns from the error that ended a `connection()` block whether its connection, and older ones, can still be used.
///
/// The server says that it ends this session (57P01, 57P02) or accepts no connections now (57P03), the connection has failed (08*),
/// or the server takes no writes (25006), as a primary that has been demoted: then older connections lead to it, too.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
///
/// The code alone does not prove it: a function on the server may raise each of these codes, and a borrower may make a transaction
/// read only. The return finds a broken connection in any case.
pub(crate) fn learn(
    pool: &Bound<'_, AbstractPool>,
    loan: SlotId,
    connection: &Bound<'_, PyAny>,
    error: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = pool.py();
    if !error.is_instance(imports()?.Error.bind(py))? {
        return Ok(());
    }
    let state = error.getattr(name!(py, pgcode))?.extract::<Option<String>>().ok().flatten().unwrap_or_default();
    let read_only = state == "25006";
    let ends = state.starts_with("08") || ["57P01", "57P02", "57P03"].contains(&state.as_str());
    if (read_only && takes_no_writes(connection)?) || (ends && ends_the_session(error)?) {
        pool.get().ledger().invalidate(loan, read_only);
    }
    Ok(())
}

/// Says whether the server ends the session with this error. A server before version 9.6 tells the severity in its own language
/// only. An error without any, for instance one that another process has pickled, ends nothing.
fn ends_the_session(error: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = error.py();
    let diag = error.getattr(name!(py, diag))?;
    for name in [name!(py, severity_nonlocalized), name!(py, severity)] {
        if let Some(severity) = diag.getattr(name)?.extract::<Option<String>>()? {
            return Ok(["FATAL", "PANIC"].contains(&severity.as_str()));
        }
    }
    Ok(false)
}

/// Says whether the server has reported that it takes no writes. A server before version 14 reports neither parameter, and may be
/// such a server.
fn takes_no_writes(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    let standby = reported(connection, "in_hot_standby")?;
    if standby.as_deref() == Some("on") {
        return Ok(true);
    }
    // With autocommit, psycopg2 makes its `readonly` the default of the session.
    let set_by_borrower = connection.getattr_opt(name!(connection.py(), readonly))?;
    if set_by_borrower.is_some_and(|value| value.is(PyBool::new(connection.py(), true))) {
        return Ok(false);
    }
    let read_only = reported(connection, "default_transaction_read_only")?;
    Ok(read_only.map_or(standby.is_none(), |value| value == "on"))
}

/// Gives the value of a parameter that the server reports.
fn reported(connection: &Bound<'_, PyAny>, parameter: &str) -> PyResult<Option<String>> {
    let py = connection.py();
    let info = connection.getattr(name!(py, info));
    let reported = info.and_then(|info| info.call_method1(name!(py, parameter_status), (parameter,)));
    match reported.and_then(|reported| reported.extract()) {
        // Not a psycopg2 connection, or a closed one.
        Err(error) if error.is_instance_of::<PyAttributeError>(py) || error.is_instance_of::<PyTypeError>(py) => {
            Ok(None)
        }
        Err(error) if is_database_error(py, &error) => Ok(None),
        reported => reported,
    }
}
