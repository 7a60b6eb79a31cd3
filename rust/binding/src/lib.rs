//! The Python face of `pgpool-core`: signatures, conversions, and the few things we ever ask of a connection.
//!
//! | module       | what it holds                                                     |
//! |--------------|-------------------------------------------------------------------|
//! | `pool`       | the class that `AbstractConnectionPool` inherits                   |
//! | `threaded`   | the class that `ThreadedConnectionPool` inherits                   |
//! | `front`      | the fast path: an idle connection, a clean return                  |
//! | `detours`    | what keeps calls from the fast path                                |
//! | `start`      | the beginning and the end of a pool                                |
//! | `borrow`     | getconn, step by step                                              |
//! | `give_back`  | putconn, step by step                                              |
//! | `given`      | what is given to the pool, as a message may show it                |
//! | `loan`       | `with pool.connection() as conn`                                   |
//! | `connection` | everything that is ever asked of a connection                      |
//! | `check`      | finding out whether a connection is well                           |
//! | `maintain`   | housekeeping, step by step                                         |
//! | `watch`      | keeping an eye on loans                                            |
//! | `stats`      | statistics, as Python sees them                                    |
//! | `options`    | the options of a pool                                              |
//! | `call`       | the end of a call: lines are written, interrupts raised            |
//! | `python`     | all that is looked up in Python, once, and names of attributes     |
//! | `notes`      | what a refusal says beyond psycopg2.pool's words                   |
//! | `log`        | what a pool says of itself                                         |
//! | `text`       | Python's texts                                                     |
//! | `system`     | the clock, forks, sockets                                          |
//! | `filing`     | keys: hashing them, comparing them                                 |
//! | `timeout`    | timeouts, and waiting on a Python lock                             |
//! | `books`      | what `_pool`, `_used` and `_rused` are made of                     |
//! | `error`      | errors, on their way to Python                                     |

#![deny(unsafe_code)]

mod books;
mod borrow;
mod call;
mod check;
mod connection;
mod detours;
mod error;
mod filing;
#[expect(unsafe_code, reason = "it speaks the C API; each block says why it may")]
mod front;
mod give_back;
mod given;
mod loan;
mod log;
mod maintain;
mod notes;
mod options;
mod pool;
mod python;
mod start;
mod stats;
#[expect(unsafe_code, reason = "it calls the C library; each block says why it may")]
mod system;
mod text;
mod threaded;
mod timeout;
mod watch;

use pyo3::prelude::*;

/// The part of `pgpool_rs` that is written in Rust. Its classes are inherited by those in `pgpool_rs.pool`.
#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::books::{count_lent, enter_loan, idle, is_idle, key_of, lent, loan, replace_idle, strike_loan};
    #[pymodule_export]
    use super::check::check_socket;
    #[pymodule_export]
    use super::front::front_door;
    #[pymodule_export]
    use super::given::{kind, shown, whole};
    #[pymodule_export]
    use super::loan::Loan;
    #[pymodule_export]
    use super::log::speak;
    #[pymodule_export]
    use super::maintain::if_free;
    #[pymodule_export]
    use super::pool::AbstractPool;
    #[pymodule_export]
    use super::python::once;
    #[pymodule_export]
    use super::system::advance_clock;
    #[pymodule_export]
    use super::threaded::ThreadedPool;

    /// Read what the package has imported for us, and make now what is made once: see the module `python`.
    #[pyfunction]
    fn prepare(module: &Bound<'_, PyAny>) -> PyResult<()> {
        super::python::read_imports(module)?;
        let py = module.py();
        // PyO3 keeps these names in the same way, each from the first use on.
        let class = py.get_type::<pyo3::exceptions::PyException>();
        drop((class.name()?, class.qualname()?, class.module()?));
        super::front::prepare(py);
        super::watch::prepare(py);
        Ok(())
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::system::refuse_subinterpreters()?;
        super::python::names(module.py());
        super::system::notice_forks();
        Ok(())
    }
}
