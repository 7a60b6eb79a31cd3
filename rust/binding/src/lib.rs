//! The extension `_core`: it gives `pgpool-core` to Python, and acts on connections as the ledger decides.
//!
//! Each module imports only from floors with a smaller number than its own.
//!
//! | floor | module                  | what it holds |
//! |-------|-------------------------|---------------|
//! | 1     | `python`                | all that is looked up in Python, once, and the names of attributes |
//! | 1     | `system`                | calls of the C library, and the C API's outside of `fast_path` |
//! | 1     | `text`                  | texts of Python, which may be no Unicode |
//! | 1     | `handle`                | Python objects, as the ledger keeps them |
//! | 1     | `blocks`                | the loans whose connection its own `close()` returns |
//! | 1     | `simulate`              | a pool in told time |
//! | 2     | `error`                 | errors, on their way to Python |
//! | 2     | `stats`                 | statistics, as Python sees them |
//! | 2     | `options`               | the options of a pool |
//! | 2     | `caller`                | which thread or greenlet is calling |
//! | 2     | `fast_path::flags`      | what keeps calls from the fast path |
//! | 2     | `fast_path::probe`      | psycopg2's connections, from within |
//! | 3     | `arguments`             | reading and showing what was given to the pool |
//! | 3     | `call`                  | the end of a call: lines are written, interrupts raised |
//! | 3     | `connection`            | everything that is ever asked of a connection |
//! | 3     | `keys`                  | hashing and comparing keys |
//! | 4     | `wait`                  | waiting on a Python lock, waking |
//! | 5     | `pool`                  | the state of a pool; the classes that the public ones inherit |
//! | 6     | `limit`                 | the limit that a pool shares with others |
//! | 6     | `log`                   | the lines of the log |
//! | 6     | `views`                 | what `_pool`, `_used` and `_rused` are made of |
//! | 7     | `news`                  | what the listener is told |
//! | 7     | `notes`                 | what a refusal says beyond psycopg2.pool's words |
//! | 8     | `check`                 | finding out whether a connection is well |
//! | 8     | `leaks`                 | where each loan was made; forgotten loans |
//! | 9     | `give_back`             | putconn, step by step |
//! | 10    | `loan`                  | `with pool.connection() as conn` |
//! | 10    | `open`                  | `_connect`, step by step |
//! | 10    | `returning`             | `close()` of a connection that returns it with `close_returns` |
//! | 11    | `borrow`                | getconn, step by step |
//! | 11    | `grow`                  | opening connections for the waiters |
//! | 11    | `maintain`              | housekeeping, step by step |
//! | 12    | `lifecycle`             | the beginning and the end of a pool |
//! | 13    | `methods`               | `#[pymethods]` of both classes |
//! | 14    | `fast_path::vectorcall` | a call, as CPython makes it |
//! | 15    | `fast_path`             | an idle connection, a clean return: what comes first in a call |

#![deny(unsafe_code)]

mod arguments;
mod blocks;
mod borrow;
mod call;
mod caller;
mod check;
mod connection;
mod error;
#[expect(unsafe_code, reason = "it speaks the C API; each block says why it may")]
mod fast_path;
mod give_back;
mod grow;
mod handle;
mod keys;
mod leaks;
mod lifecycle;
mod limit;
mod loan;
mod log;
mod maintain;
mod methods;
mod news;
mod notes;
mod open;
mod options;
mod pool;
mod python;
mod returning;
mod simulate;
mod stats;
#[expect(unsafe_code, reason = "it calls the C library; each block says why it may")]
mod system;
mod text;
mod views;
mod wait;

use pyo3::prelude::*;

/// The part of `pgpool_rs` that is written in Rust. Its classes are inherited by those in `pgpool_rs.pool`.
#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::arguments::{kind, shown, whole};
    #[pymodule_export]
    use super::check::check_socket;
    #[pymodule_export]
    use super::connection::ReturningConnection;
    #[pymodule_export]
    use super::fast_path::fast_path;
    #[pymodule_export]
    use super::loan::Loan;
    #[pymodule_export]
    use super::log::speak;
    #[pymodule_export]
    use super::maintain::if_free;
    #[pymodule_export]
    use super::pool::AbstractPool;
    #[pymodule_export]
    use super::pool::ThreadedPool;
    #[pymodule_export]
    use super::python::once;
    #[pymodule_export]
    use super::returning::Home;
    #[pymodule_export]
    use super::simulate::simulate;
    #[pymodule_export]
    use super::system::{advance_clock, clock};
    #[pymodule_export]
    use super::views::{count_lent, enter_loan, idle, key_of, lent, loan, replace_idle, strike_loan};

    /// Read the imports of `pgpool_rs._for_rust`, and make what is made once: see the module `python`.
    #[pyfunction]
    fn prepare(module: &Bound<'_, PyAny>) -> PyResult<()> {
        super::python::read_imports(module)?;
        let py = module.py();
        // PyO3 makes these names on their first use.
        let class = py.get_type::<pyo3::exceptions::PyException>();
        drop((class.name()?, class.qualname()?, class.module()?));
        super::fast_path::probe::prepare(py);
        super::leaks::prepare(py);
        Ok(())
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::system::refuse_subinterpreters()?;
        super::python::names(module.py());
        super::system::notice_forks();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
