//! All that Rust looks up in Python, and the names of attributes.
//!
//! Both are made once, before there are threads, and not where they are first used: another thread may fork in the middle of a
//! first use, and the child would wait for it for ever. So this crate uses neither `pyo3::intern!` nor an import inside a call.

use std::sync::{PoisonError, RwLock};

use pgpool_core::Rank;
use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};

macro_rules! imports {
    ($($name:ident,)*) => {
        /// The names of the module `pgpool_rs._for_rust`.
        #[expect(non_snake_case, reason = "classes have the names that Python gives them")]
        pub(crate) struct Imports {
            $(pub(crate) $name: Py<PyAny>,)*
        }

        impl Imports {
            fn read(module: &Bound<'_, PyAny>) -> PyResult<Self> {
                Ok(Self { $($name: module.getattr(stringify!($name))?.unbind(),)* })
            }
        }
    };
}

imports! {
    AutomaticKey,
    Error,
    Histogram,
    OperationalError,
    PoolClosed,
    PoolError,
    PoolExhausted,
    PoolTimeout,
    ProgrammingError,
    QueryCanceledError,
    TooManyRequests,
    annotate,
    annotate_limited,
    await_end,
    check_socket,
    connection,
    copied,
    cursor,
    describe_loan,
    get_frame,
    housekeeper,
    is_heard,
    is_server_full,
    leave_in_parent,
    make_loan,
    mask,
    open_in_parallel,
    place,
    psycopg2,
    session_of,
    start_worker,
    threading,
    time,
    write_line,
}

static IMPORTS: RwLock<Option<&Imports>> = RwLock::new(None);

/// Gives the imports.
pub(crate) fn imports() -> PyResult<&'static Imports> {
    let missing = || PyImportError::new_err("pgpool_rs has not been imported");
    IMPORTS.read().unwrap_or_else(PoisonError::into_inner).ok_or_else(missing)
}

/// Reads the imports. If a program imports the package anew, the new imports replace the old ones. A call in another thread may
/// still use those, so they are never freed.
pub(crate) fn read_imports(module: &Bound<'_, PyAny>) -> PyResult<()> {
    let imports = Box::leak(Box::new(Imports::read(module)?));
    *IMPORTS.write().unwrap_or_else(PoisonError::into_inner) = Some(imports);
    Ok(())
}

macro_rules! names {
    ($($name:ident = $text:literal,)*) => {
        /// The names, as Python strings.
        pub(crate) struct Names {
            $(pub(crate) $name: Py<PyString>,)*
        }

        impl Names {
            fn new(py: Python<'_>) -> Self {
                Self { $($name: PyString::intern(py, $text).unbind(),)* }
            }
        }
    };
}

names! {
    acquire = "acquire",
    blocking = "blocking",
    args = "_args",
    attach = "_attach",
    give = "_give",
    take = "_take",
    wait = "_wait",
    async_ = "async_",
    autocommit = "autocommit",
    close = "close",
    closeall = "closeall",
    closeall_hook = "_closeall",
    closed = "closed",
    commit = "commit",
    connect = "connect",
    connect_hook = "_connect",
    cursor = "cursor",
    diag = "diag",
    execute = "execute",
    end_visits = "end_visits",
    f_lasti = "f_lasti",
    fileno = "fileno",
    get_ident = "get_ident",
    getconn = "getconn",
    getconn_hook = "_getconn",
    getkey_hook = "_getkey",
    info = "info",
    kwargs = "_kwargs",
    lock_class = "Lock",
    parameter_status = "parameter_status",
    pgcode = "pgcode",
    pgpool_home = "_pgpool_home",
    pgpool_whole = "_pgpool_whole",
    poke = "poke",
    poke_quietly = "poke_quietly",
    poll = "poll",
    putconn = "putconn",
    putconn_hook = "_putconn",
    release = "release",
    rollback = "rollback",
    readonly = "readonly",
    severity = "severity",
    severity_nonlocalized = "severity_nonlocalized",
    sleep = "sleep",
    status = "status",
    priority = "priority",
    timeout = "timeout",
    timeout_max = "TIMEOUT_MAX",
    transaction_status = "transaction_status",
}

/// Gives the names. The first call makes them, while the module is initialised.
pub(crate) fn names(py: Python<'_>) -> &Names {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    NAMES.get_or_init(py, || Names::new(py))
}

/// Gives one name as a Python string.
macro_rules! name {
    ($py:expr, $name:ident) => {{
        let py = $py;
        $crate::python::names(py).$name.bind(py)
    }};
}
pub(crate) use name;

/// Return the class that was made first under this name; a decorator. A class stays the same if a program imports its module anew.
///
/// If the bases have changed, since their modules were imported anew too, the new class replaces the first one.
#[pyfunction]
pub(crate) fn once<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyType>> {
    static FIRST: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let py = class.py();
    let first = FIRST.get_or_init(py, || PyDict::new(py).unbind()).bind(py);
    let name = format!("{}.{}", class.module()?, class.qualname()?);
    if let Some(first) = first.get_item(&name)?
        && first.getattr("__bases__")?.eq(class.getattr("__bases__")?)?
    {
        return Ok(first.cast_into()?);
    }
    first.set_item(name, class)?;
    Ok(class.clone())
}

/// Makes the dict of one keyword argument. `PyO3`'s own way panics if there is no memory for it.
pub(crate) fn by_name<'py>(name: &Bound<'py, PyString>, value: impl IntoPyObject<'py>) -> PyResult<Bound<'py, PyDict>> {
    let dict = name.py().get_type::<PyDict>().call0()?.cast_into::<PyDict>()?;
    dict.set_item(name, value)?;
    Ok(dict)
}

/// Makes the keywords with which `getconn` is called. Leaves out what is as by default: a subclass may not take it.
pub(crate) fn getconn_kwargs<'py>(
    py: Python<'py>,
    timeout: Option<Bound<'py, PyAny>>,
    rank: Rank,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    if timeout.is_none() && rank == Rank::Normal {
        return Ok(None);
    }
    let dict = py.get_type::<PyDict>().call0()?.cast_into::<PyDict>()?;
    if let Some(timeout) = timeout {
        dict.set_item(name!(py, timeout), timeout)?;
    }
    if rank == Rank::Priority {
        dict.set_item(name!(py, priority), true)?;
    }
    Ok(Some(dict))
}
