//! Everything that is ever asked of a connection, each in one place.
//!
//! Items need not be psycopg2 connections: proxies of tracing libraries, wrappers and mocks are lent too. Nothing
//! but what stands here is needed of one.

use pyo3::exceptions::PyReferenceError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyTuple, PyType};

use crate::error::{is_plain, psycopg2_error};
use crate::names::name;

/// A connection, a key or a note, as the ledger keeps it.
pub(crate) enum Handle {
    /// The object itself.
    Object(Py<PyAny>),
    /// A weak reference to a lent connection, which lives only as long as its borrower wants it.
    Weak(Py<PyAny>),
}

impl Handle {
    /// Gives the object.
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let gone = || PyReferenceError::new_err("the connection is gone: its borrower forgot it");
        self.living(py)?.ok_or_else(gone)
    }

    /// Gives the object if there still is one.
    pub(crate) fn living<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self {
            Self::Object(object) => Ok(Some(object.bind(py).clone())),
            Self::Weak(reference) => Ok(Some(reference.bind(py).call0()?).filter(|object| !object.is_none())),
        }
    }

    /// What a garbage collector has to know of.
    pub(crate) fn held(&self) -> &Py<PyAny> {
        match self {
            Self::Object(object) | Self::Weak(object) => object,
        }
    }
}

/// Where an object lives: what `id()` gives.
pub(crate) fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr().addr()
}

/// libpq's `PGTransactionStatusType`: open, and in no transaction.
/// <https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQTRANSACTIONSTATUS>
const IDLE: u8 = 0;
/// The connection is bad.
const UNKNOWN: u8 = 4;

/// Opens a connection as psycopg2.pool does: with the pool's live arguments, by `psycopg2.connect`, looked up now, unless
/// there is a function to be used `instead`.
pub(crate) fn connect<'py>(pool: &Bound<'py, PyAny>, instead: Option<&Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    let py = pool.py();
    let connect = match instead {
        Some(connect) => connect.bind(py).clone(),
        None => py.import(name!(py, psycopg2_module))?.getattr(name!(py, connect))?,
    };
    let args = pool.getattr(name!(py, args))?;
    let args = PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
    let kwargs = PyDict::new(py);
    kwargs.update(pool.getattr(name!(py, kwargs))?.cast()?)?;
    connect.call(args, Some(&kwargs))
}

/// The object that stands for [`IDLE`].
fn zero(py: Python<'_>) -> PyResult<&Py<PyAny>> {
    static ZERO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    ZERO.get_or_try_init(py, || Ok(IDLE.into_pyobject(py)?.into_any().unbind()))
}

/// See [`crate::error::prepare`].
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    zero(py).map(drop)
}

/// A type of connections for which `get_transaction_status` speaks: the type has the method by itself, and, being one of
/// psycopg2's, has no other idea of when a connection is closed or clean.
pub(crate) struct Plain {
    class: Py<PyType>,
    /// The method itself, where nobody can put another one in its place: that saves looking it up.
    status: Option<Py<PyAny>>,
}

impl Plain {
    /// Finds out whether a type is one of these.
    pub(crate) fn find(class: &Bound<'_, PyType>) -> PyResult<Option<Self>> {
        let py = class.py();
        let status = name!(py, get_transaction_status);
        if !class.hasattr(status)? {
            return Ok(None);
        }
        let psycopg2s = py.import(name!(py, extensions_module))?.getattr(name!(py, connection))?;
        if class.is_subclass(&psycopg2s)? {
            for name in ["closed", "info", "get_transaction_status"] {
                if !class.getattr(name)?.is(&psycopg2s.getattr(name)?) {
                    return Ok(None);
                }
            }
        }
        // What is no heap type cannot be changed. <https://docs.python.org/3/c-api/typeobj.html#c.Py_TPFLAGS_HEAPTYPE>
        let fixed = class.getattr("__flags__")?.extract::<u64>()? & (1 << 9) == 0;
        let status = if fixed { Some(class.getattr(status)?.unbind()) } else { None };
        Ok(Some(Self { class: class.clone().unbind(), status }))
    }

    #[inline]
    pub(crate) fn is_of(&self, connection: &Bound<'_, PyAny>) -> bool {
        self.class.as_ptr().cast() == connection.get_type_ptr()
    }

    /// Asks the one question of the fast path. Only an open connection in no transaction answers with the integer 0;
    /// anything else, and any error, says that a closer look is needed.
    #[inline]
    pub(crate) fn is_clean(&self, connection: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = connection.py();
        let status = match &self.status {
            Some(status) => status.bind(py).call1((connection,))?,
            None => connection.call_method0(name!(py, get_transaction_status))?,
        };
        // CPython has one object for each small integer. An equal one of another make gets the closer look.
        Ok(status.is(zero(py)?))
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.class)?;
        self.status.iter().try_for_each(|status| visit.call(status))
    }
}

/// What a closer look at a returned connection shows.
pub(crate) enum Look {
    /// Open, and in no transaction.
    Clean,
    /// Open, and in a transaction, failed or not; a statement may still be running.
    InTransaction,
    /// Not of any use.
    Broken,
    /// Closed: by somebody, or because it had failed.
    Closed(Closed),
}

/// How a connection came to be closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Somebody called `close()`.
    Properly,
    /// psycopg2 found it broken.
    Broken,
}

/// What `closed` says of a connection that psycopg2 found broken.
/// <https://www.psycopg.org/docs/connection.html#connection.closed>
const CLOSED_BROKEN: u8 = 2;

/// Looks at a returned connection, asking what psycopg2.pool asks, in its order.
pub(crate) fn look_at(connection: &Bound<'_, PyAny>) -> PyResult<Look> {
    let py = connection.py();
    let closed = connection.getattr(name!(py, closed))?;
    if closed.is_truthy()? {
        return Ok(Look::Closed(if closed.eq(CLOSED_BROKEN)? { Closed::Broken } else { Closed::Properly }));
    }
    let status = connection.getattr(name!(py, info))?.getattr(name!(py, transaction_status))?;
    Ok(if status.eq(UNKNOWN)? {
        Look::Broken
    } else if status.eq(IDLE)? {
        Look::Clean
    } else {
        Look::InTransaction
    })
}

/// Calls a user's function with a connection, which it must leave open and in no transaction.
pub(crate) fn leave_clean(connection: &Bound<'_, PyAny>, function: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
    function.call1((connection,))?;
    let left = match look_at(connection)? {
        Look::Clean => return Ok(()),
        Look::InTransaction => "in a transaction",
        Look::Broken | Look::Closed(Closed::Broken) => "broken",
        Look::Closed(Closed::Properly) => "closed",
    };
    let text = format!("connection discarded: {name} left it {left}");
    Err(psycopg2_error(connection.py(), "ProgrammingError", &text))
}

pub(crate) fn rollback(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(name!(connection.py(), rollback)).map(drop)
}

pub(crate) fn commit(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(name!(connection.py(), commit)).map(drop)
}

pub(crate) fn close(connection: &Bound<'_, PyAny>) -> PyResult<()> {
    connection.call_method0(name!(connection.py(), close)).map(drop)
}

/// Says whether somebody has called `close()` on a connection that was well. One that does not tell is open.
pub(crate) fn is_closed_properly(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = connection.py();
    match connection.getattr(name!(py, closed)) {
        // An integer: a mock's attribute is as true as it is meaningless.
        Ok(closed) => Ok(closed.is_instance_of::<PyInt>() && closed.eq(1)?),
        Err(error) if is_plain(py, &error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says whether this is one of psycopg2's asynchronous connections, which neither commit nor roll back. A connection that
/// knows nothing of it is none.
pub(crate) fn is_async(connection: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = connection.py();
    match connection.getattr(name!(py, async_)) {
        // Exactly an integer: a mock's attribute is as true as it is meaningless.
        Ok(flag) => Ok(flag.cast_exact::<PyInt>().is_ok_and(|flag| flag.extract::<i32>().is_ok_and(|on| on != 0))),
        Err(error) if is_plain(py, &error) => Ok(false),
        Err(error) => Err(error),
    }
}
