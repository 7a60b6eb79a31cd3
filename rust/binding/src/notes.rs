//! What a refusal says beyond psycopg2.pool's words: see `pgpool_rs._notes`.

use std::time::Duration;

use pyo3::prelude::*;

use crate::connection::address;
use crate::error::{Error, is_plain};
use crate::names::{module, name};
use crate::pool::AbstractPool;
use crate::system::now;
use crate::threaded::ThreadedPool;

/// What `putconn` got: the object, and whether a key came with it.
pub(crate) type Returned<'a, 'py> = (Option<&'a Bound<'py, PyAny>>, bool);

/// Tells a refusal of a call that gave nothing back and did not wait what is known of the pool.
pub(crate) fn told<T>(slf: &Bound<'_, AbstractPool>, done: Result<T, impl Into<Error>>) -> Result<T, Error> {
    done.map_err(|error| annotated(slf, error.into(), Duration::ZERO, None))
}

/// Tells a refusal what is known of the pool. An error of anybody else stays as it is.
#[cold]
pub(crate) fn annotated(
    slf: &Bound<'_, AbstractPool>,
    error: Error,
    waited: Duration,
    returned: Option<Returned<'_, '_>>,
) -> Error {
    if let Error::Raised(_) = error {
        return error;
    }
    let refusal = PyErr::from(error);
    match annotate(slf, &refusal, waited, returned) {
        Err(interrupt) if !is_plain(slf.py(), &interrupt) => interrupt.into(),
        _ => refusal.into(),
    }
}

fn annotate(
    slf: &Bound<'_, AbstractPool>,
    refusal: &PyErr,
    waited: Duration,
    returned: Option<Returned<'_, '_>>,
) -> PyResult<()> {
    let py = slf.py();
    let ledger = slf.get().ledger();
    let counts = ledger.counts();
    let oldest = ledger.oldest_loan(now()).map(|(age, borrower)| (age.as_secs_f64(), borrower));
    let returned = returned.map(|(given, keyed)| {
        let place = given.map(address);
        let idle = place.is_some_and(|place| ledger.is_idle(place));
        (given, keyed, idle, place.is_some_and(|place| ledger.key_of(place).is_some()))
    });
    let figures = (
        counts.spoken_for(),
        counts.maxconn,
        counts.opening,
        counts.waiting,
        waited.as_secs_f64(),
        slf.is_instance_of::<ThreadedPool>(),
    );
    let notes = module(name!(py, notes_module))?;
    notes.call_method1(name!(py, annotate), (refusal.value(py), slf.get().name(), figures, oldest, returned)).map(drop)
}
