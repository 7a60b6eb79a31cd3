//! Reading and showing what a caller gave. A message never shows a connection string that was given in the wrong place.

use std::time::{Duration, Instant};

use pgpool_core::Rank;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyEllipsis, PyFloat, PyInt, PyString};

use crate::error::is_exception;
use crate::text::{repr_of, text_of};

/// A text with one of these parts may be a connection string, or hold a password.
const SUSPICIOUS: [&str; 4] = ["://", "=", "@", "passw"];
/// A message shows at most so many characters.
const LONGEST: usize = 40;

/// Read a number of connections, as `int()` does. Where `int()` raises a `TypeError` or `ValueError`, raise one that names the
/// parameter and not the value, which may be a connection string.
#[pyfunction]
pub(crate) fn whole<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    py.get_type::<PyInt>().call1((value,)).map_err(|error| {
        let text = || format!("{name} must be a whole number, not {}", kind_of(value));
        if error.is_instance_of::<PyTypeError>(py) {
            PyTypeError::new_err(text())
        } else if error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<PyOverflowError>(py) {
            PyValueError::new_err(text())
        } else {
            error
        }
    })
}

/// Reads a size: anything that `int()` takes and that is not negative.
pub(crate) fn size(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let number = whole(name, value)?;
    if number.lt(0)? {
        return Err(PyValueError::new_err(format!("{name} must be 0 or more, not {number}")));
    }
    // A number that is too large to count means no limit.
    Ok(number.extract().unwrap_or(usize::MAX))
}

/// Show the value of an option. Of a value that may be a connection string, show only the type.
#[pyfunction]
pub(crate) fn shown(given: &Bound<'_, PyAny>) -> PyResult<String> {
    let shown = match repr_of(given) {
        Ok(shown) => shown,
        Err(error) if is_exception(given.py(), &error) => return Ok(kind_of(given)),
        Err(error) => return Err(error),
    };
    let number = given.is_exact_instance_of::<PyInt>() || given.is_exact_instance_of::<PyFloat>();
    let short = shown.chars().count() <= LONGEST && !SUSPICIOUS.iter().any(|part| shown.contains(part));
    Ok(if number || short { shown } else { kind_of(given) })
}

/// Name the type of a value, which may be a secret in the wrong place.
#[pyfunction]
pub(crate) fn kind<'py>(given: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    // PyO3 would make the text after the return, and panic if there is no memory for it.
    PyString::from_bytes(given.py(), kind_of(given).as_bytes())
}

fn kind_of(given: &Bound<'_, PyAny>) -> String {
    if given.is_none() {
        return "None".to_owned();
    }
    let name = given.get_type().name().and_then(|name| text_of(&name)).unwrap_or_else(|_| "object".to_owned());
    let article = if name.starts_with(|first: char| "aeiouAEIO".contains(first)) { "an" } else { "a" };
    format!("{article} {name}")
}

/// A flag that is tested for truth, as psycopg2.pool does.
#[derive(Clone, Copy)]
pub(crate) struct Truth(pub(crate) bool);

impl<'py> FromPyObject<'_, 'py> for Truth {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        given.is_truthy().map(Self)
    }
}

/// A flag, which is tested for truth, or passed on to a hook as it is. It is False if the caller did not give it.
pub(crate) struct Flag<'py>(pub(crate) Option<Bound<'py, PyAny>>);

impl Flag<'_> {
    pub(crate) fn is_truthy(&self) -> PyResult<bool> {
        self.0.as_ref().map_or(Ok(false), PyAnyMethods::is_truthy)
    }
}

impl<'py> FromPyObject<'_, 'py> for Flag<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Some(given.to_owned())))
    }
}

/// A `priority=` argument: whether the caller may take the reserve. Only True and False are taken.
#[derive(Clone, Copy)]
pub(crate) struct Priority(pub(crate) Rank);

impl Priority {
    /// The default.
    pub(crate) const MISSING: Self = Self(Rank::Normal);
}

impl<'py> FromPyObject<'_, 'py> for Priority {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match given.cast::<PyBool>() {
            Ok(given) => Ok(Self(if given.is_true() { Rank::Priority } else { Rank::Normal })),
            Err(_) => Err(PyTypeError::new_err(format!("priority must be True or False, not {}", shown(&given)?))),
        }
    }
}

/// How many seconds a caller waits for room. With 0 it does not wait; infinity means for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timeout(pub(crate) f64);

impl Timeout {
    /// The pool refuses at once.
    pub(crate) const ZERO: Self = Self(0.0);

    /// Gives the end of a wait that begins at `start`. `None` if it has no end.
    pub(crate) fn deadline(self, start: Instant) -> Option<Instant> {
        // A time beyond Duration or Instant has no end, in practice.
        start.checked_add(Duration::try_from_secs_f64(self.0).ok()?)
    }
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if given.is_none() {
            return Ok(Self(f64::INFINITY));
        }
        let no_number = || {
            let text = |shown| format!("timeout must be a number of seconds or None, not {shown}");
            shown(&given).map_or_else(|error| error, |shown| PyTypeError::new_err(text(shown)))
        };
        if given.is_instance_of::<PyBool>() {
            return Err(no_number());
        }
        let seconds: f64 = match given.extract() {
            Ok(seconds) => seconds,
            // An integer that no float can hold.
            Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) => {
                if given.gt(0)? {
                    f64::INFINITY
                } else {
                    f64::NEG_INFINITY
                }
            }
            Err(error) if error.is_instance_of::<PyTypeError>(given.py()) => return Err(no_number()),
            Err(error) => return Err(error),
        };
        if seconds.is_nan() || seconds < 0.0 {
            let text = format!("timeout must be 0 or more seconds, or None, not {}", shown(&given)?);
            return Err(PyValueError::new_err(text));
        }
        Ok(Self(seconds))
    }
}

/// A `timeout=` argument.
pub(crate) enum TimeoutArg<'py> {
    /// `...`, the default: the pool's own.
    Missing,
    /// Its meaning, and the object itself, for a hook that is overridden.
    Given(Timeout, Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for TimeoutArg<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if given.is_instance_of::<PyEllipsis>() {
            return Ok(Self::Missing);
        }
        Ok(Self::Given(given.extract()?, given.to_owned()))
    }
}
