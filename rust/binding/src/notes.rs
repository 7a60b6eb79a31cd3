//! Notes and attributes that a refusal has beyond psycopg2.pool's text: see `pgpool_rs._notes`.

use std::time::Duration;

use pgpool_core::Refusal;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::{Error, both, is_shortage, weightier};
use crate::handle::address;
use crate::limit::limit_of;
use crate::pool::{AbstractPool, ThreadedPool};
use crate::python::imports;
use crate::system::{float, int, now};

/// What `putconn` got: the object, and whether the caller gave a key.
pub(crate) type Returned<'a, 'py> = (Option<&'a Bound<'py, PyAny>>, bool);

/// Adds the notes to a refusal of a call that did not wait and returned nothing.
pub(crate) fn with_notes<T>(pool: &Bound<'_, AbstractPool>, done: Result<T, impl Into<Error>>) -> Result<T, Error> {
    done.map_err(|error| annotated(pool, error.into(), Duration::ZERO, None))
}

/// Adds the notes to a refusal. Leaves an error of other code as it is.
#[cold]
pub(crate) fn annotated(
    pool: &Bound<'_, AbstractPool>,
    error: Error,
    waited: Duration,
    returned: Option<Returned<'_, '_>>,
) -> Error {
    let error = match error {
        Error::Raised(_) => return error,
        Error::Refused(Refusal::Unopened) => {
            Error::Unopened(format!("the {} is not open: call open()", pool.get().shown_name(pool.py())))
        }
        error => error,
    };
    let limited = matches!(error, Error::Refused(Refusal::Limited) | Error::Limited(_));
    let limit = limited.then(|| limit_of(pool)).flatten();
    let (py, refusal) = (pool.py(), PyErr::from(error));
    let unless_short = |error: PyErr| if is_shortage(py, &error) { Ok(()) } else { Err(error) };
    let noted = annotate(pool, &refusal, waited, returned).or_else(unless_short);
    let held = limit.map_or(Ok(()), |limit| annotate_limited(&refusal, &limit)).or_else(unless_short);
    weightier(py, refusal, both(py, noted, held).err()).into()
}

fn annotate(
    pool: &Bound<'_, AbstractPool>,
    refusal: &PyErr,
    waited: Duration,
    returned: Option<Returned<'_, '_>>,
) -> PyResult<()> {
    let py = pool.py();
    let ledger = pool.get().ledger();
    let counts = ledger.counts();
    let oldest = ledger.oldest_loan(now());
    let age = oldest.as_ref().map(|(age, _)| float(py, age.as_secs_f64())).transpose()?;
    let borrower = oldest.map(|(_, borrower)| int(py, borrower)).transpose()?;
    let told = returned.map_or(0, |(given, keyed)| {
        let place = given.map(address);
        let idle = place.is_some_and(|place| ledger.is_idle(place));
        let lent = place.is_some_and(|place| ledger.loan_at(place).is_some());
        1 << 3 | u64::from(keyed) | u64::from(idle) << 1 | u64::from(lent) << 2
    });
    let flags = told | u64::from(pool.is_instance_of::<ThreadedPool>()) << 4;
    // Make each by itself: PyO3's own conversion panics if there is no memory.
    let number = |number: usize| int(py, number as u64);
    let fields = (
        refusal.value(py),
        PyString::from_bytes(py, pool.get().name().as_bytes())?,
        number(counts.in_use())?,
        number(counts.maxconn)?,
        number(pool.get().options().policy.reserve)?,
        number(counts.opening)?,
        number(counts.waiting)?,
        float(py, waited.as_secs_f64())?,
        age,
        borrower,
        returned.and_then(|(given, _)| given),
        int(py, flags)?,
    );
    imports()?.annotate.bind(py).call1(fields).map(drop)
}

fn annotate_limited(refusal: &PyErr, limit: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = limit.py();
    imports()?.annotate_limited.bind(py).call1((refusal.value(py), limit)).map(drop)
}
