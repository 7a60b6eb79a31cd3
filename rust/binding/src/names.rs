//! The names that Python is asked for, each made once, before there are threads.
//!
//! Not `pyo3::intern!`, which makes a name where it is first used: whoever makes it may have to give up the GIL over it, and
//! the child of a fork in that moment would wait for him for ever.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

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
    args = "_args",
    async_ = "async_",
    autocommit = "autocommit",
    close = "close",
    closeall = "closeall",
    closeall_hook = "_closeall",
    closed = "closed",
    commit = "commit",
    connect = "connect",
    connect_hook = "_connect",
    connection = "connection",
    cursor = "cursor",
    error_class = "Error",
    execute = "execute",
    extensions_module = "psycopg2.extensions",
    f_lasti = "f_lasti",
    fileno = "fileno",
    get_ident = "get_ident",
    getconn = "getconn",
    getconn_hook = "_getconn",
    getkey_hook = "_getkey",
    info = "info",
    kwargs = "_kwargs",
    loans_module = "pgpool_rs._loans",
    lock_class = "Lock",
    log = "log",
    pgcode = "pgcode",
    poke = "poke",
    poke_quietly = "poke_quietly",
    poll = "poll",
    psycopg2_module = "psycopg2",
    putconn = "putconn",
    putconn_hook = "_putconn",
    release = "release",
    rollback = "rollback",
    sleep = "sleep",
    status = "status",
    threading_module = "threading",
    time_module = "time",
    timeout_max = "TIMEOUT_MAX",
    transaction_status = "transaction_status",
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
