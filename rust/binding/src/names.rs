//! The names that Python is asked for, each made once, before there are threads.
//!
//! Not `pyo3::intern!`, which makes a name where it is first used: whoever makes it may have to give up the GIL over it, and
//! the child of a fork in that moment would wait for him for ever.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};

macro_rules! names {
    ($($name:ident = $text:literal,)*) => {
        /// All of them.
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
    annotate = "annotate",
    automatic_key = "pgpool_rs._books.AutomaticKey",
    blocking = "blocking",
    args = "_args",
    async_ = "async_",
    autocommit = "autocommit",
    canceled_class = "QueryCanceledError",
    close = "close",
    closeall = "closeall",
    closeall_hook = "_closeall",
    closed = "closed",
    commit = "commit",
    connect = "connect",
    connect_hook = "_connect",
    connection = "connection",
    cursor = "cursor",
    diag = "diag",
    error_class = "Error",
    errors_module = "pgpool_rs.errors",
    execute = "execute",
    extensions_module = "psycopg2.extensions",
    f_lasti = "f_lasti",
    fileno = "fileno",
    get_ident = "get_ident",
    getconn = "getconn",
    getconn_hook = "_getconn",
    getkey_hook = "_getkey",
    housekeeping_module = "pgpool_rs._housekeeping",
    info = "info",
    is_heard = "is_heard",
    kwargs = "_kwargs",
    loans_module = "pgpool_rs._loans",
    lock_class = "Lock",
    log_module = "pgpool_rs._log",
    notes_module = "pgpool_rs._notes",
    opening_module = "pgpool_rs._opening",
    parameter_status = "parameter_status",
    pgcode = "pgcode",
    pgpool_close = "_pgpool_close",
    pgpool_whole = "_pgpool_whole",
    poke = "poke",
    poke_quietly = "poke_quietly",
    poll = "poll",
    psycopg2_module = "psycopg2",
    putconn = "putconn",
    putconn_hook = "_putconn",
    release = "release",
    rollback = "rollback",
    secrets_module = "pgpool_rs._secrets",
    severity = "severity_nonlocalized",
    sleep = "sleep",
    status = "status",
    threading_module = "threading",
    time_module = "time",
    timeout = "timeout",
    timeout_max = "TIMEOUT_MAX",
    transaction_status = "transaction_status",
    write = "write",
}

/// Gives the names; the first call, while the module is initialised, makes them.
pub(crate) fn names(py: Python<'_>) -> &Names {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    NAMES.get_or_init(py, || Names::new(py))
}

/// Gives one name as a Python string.
macro_rules! name {
    ($py:expr, $name:ident) => {{
        let py = $py;
        $crate::names::names(py).$name.bind(py)
    }};
}
pub(crate) use name;

/// What is looked up once, by name: at the end of the interpreter nothing can be imported any more, and what one thread is just
/// importing, the child of a fork would wait for for ever.
fn kept(py: Python<'_>) -> &Bound<'_, PyDict> {
    static KEPT: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    KEPT.get_or_init(py, || PyDict::new(py).unbind()).bind(py)
}

/// Gives a module. Its attributes are looked up each time, since gevent puts others in their place.
pub(crate) fn module<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    match kept(name.py()).get_item(name)? {
        Some(module) => Ok(module),
        None => keep_module(name),
    }
}

fn keep_module<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let module = name.py().import(name)?.into_any();
    kept(name.py()).set_item(name, &module)?;
    Ok(module)
}

/// Look up all modules that are needed later: the package calls it when it has been imported. Where it is imported anew, the
/// new modules take the place of the old ones.
#[pyfunction]
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    let names = names(py);
    for module in [
        &names.extensions_module,
        &names.housekeeping_module,
        &names.loans_module,
        &names.log_module,
        &names.notes_module,
        &names.opening_module,
        &names.psycopg2_module,
        &names.secrets_module,
        &names.threading_module,
        &names.time_module,
    ] {
        keep_module(module.bind(py))?;
    }
    // Not `once`: it is psycopg2's.
    let pool_error = keep_module(names.errors_module.bind(py))?.getattr("PoolError")?;
    kept(py).set_item("pgpool_rs.errors.PoolError", pool_error)?;
    // PyO3 keeps these names in the same way, each from the first use on.
    let class = py.get_type::<pyo3::exceptions::PyException>();
    drop((class.name()?, class.qualname()?, class.module()?));
    crate::front::prepare(py);
    crate::watch::prepare(py)
}

/// Have a class stay the same where its module is imported anew: return the one that was made first; a decorator.
///
/// A class whose bases are others now, since their modules were imported anew too, takes the place of the first one.
#[pyfunction]
pub(crate) fn once<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyType>> {
    let name = format!("{}.{}", class.module()?, class.qualname()?);
    let kept = kept(class.py());
    if let Some(first) = kept.get_item(&name)?
        && first.getattr("__bases__")?.eq(class.getattr("__bases__")?)?
    {
        return Ok(first.cast_into()?);
    }
    kept.set_item(name, class)?;
    Ok(class.clone())
}

/// Makes the dict of one argument that is given by name. `PyO3`'s own way panics where there is no memory for it.
pub(crate) fn by_name<'py>(name: &Bound<'py, PyString>, value: impl IntoPyObject<'py>) -> PyResult<Bound<'py, PyDict>> {
    let dict = name.py().get_type::<PyDict>().call0()?.cast_into::<PyDict>()?;
    dict.set_item(name, value)?;
    Ok(dict)
}

/// Gives a class that [`once`] has seen.
pub(crate) fn class<'py>(name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyType>> {
    let missing = || pyo3::exceptions::PyImportError::new_err("pgpool_rs has not been imported");
    Ok(kept(name.py()).get_item(name)?.ok_or_else(missing)?.cast_into()?)
}
