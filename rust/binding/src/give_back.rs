//! putconn, step by step.

use pgpool_core::{Refusal, Return, Returned, Returning};
use pyo3::prelude::*;

use crate::connection::{self, Fate, Handle, address};
use crate::error::{Error, is_plain};
use crate::filing::Filing;
use crate::patience::Waker;
use crate::pool::AbstractPool;

/// Takes a connection back: into the pool if it is well and there is a use for it, or else out of the world.
pub(crate) fn give_back(
    slf: &Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<(), Error> {
    let py = slf.py();
    let returning = begin(slf, connection, key, close)?;
    if !returning.wanted() {
        return Ok(retire(py, returning)?);
    }
    // An error that is returned from here is that of an object which is no connection. Its slot is freed all the same.
    match connection::clean(returning.connection().bind(py))? {
        Ok(Fate::Keep) if returning.keep() => Ok(()),
        Ok(Fate::Keep | Fate::Close) => Ok(retire(py, returning)?),
        Ok(Fate::Drop) => Ok(()),
        Err(error) => {
            // Whatever state it is in, nobody may have it.
            let closed = connection::close(returning.connection().bind(py));
            drop(returning);
            let stronger = closed.err().filter(|closing| !is_plain(py, closing) && is_plain(py, &error));
            Ok(connection::report(py, "rollback()", stronger.unwrap_or(error))?)
        }
    }
}

/// Takes the connection out of its borrower's hands.
fn begin<'p>(
    slf: &'p Bound<'_, AbstractPool>,
    connection: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
    close: bool,
) -> Result<Returning<'p, Handle, Waker>, Error> {
    let pool = slf.get();
    let place = connection.map(address);
    pool.ensure_open()?;
    let mut filing = key.map(Filing::under).transpose()?;
    loop {
        let returned = match &filing {
            // Nothing lives at address 0, so nothing is found for it.
            None => Returned::Connection(place.unwrap_or(0)),
            Some(Filing::Any(number) | Filing::Number(number)) => Returned::Number(*number, place),
            Some(Filing::Key(ask)) => Returned::Key(ask, place),
        };
        match pool.pool.begin_return(&returned, close) {
            Err(Refusal::WrongKey) => return Err(Error::WrongKey(key.map_or_else(|| Ok(String::new()), repr)?)),
            Err(refusal) => return Err(refusal.into()),
            Ok(Return::Begun(returning)) => return Ok(returning),
            Ok(Return::Compare(candidates)) => {
                if let Some(filing) = &mut filing {
                    filing.compare(slf.py(), &candidates)?;
                }
            }
        }
    }
}

fn repr(key: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(key.repr()?.to_string())
}

/// Closes a connection that nobody has a use for. Its slot is free once that is done, however it ends.
pub(crate) fn retire(py: Python<'_>, returning: Returning<'_, Handle, Waker>) -> PyResult<()> {
    let closed = connection::close(returning.connection().bind(py));
    drop(returning);
    closed.or_else(|error| connection::report(py, "close()", error))
}
