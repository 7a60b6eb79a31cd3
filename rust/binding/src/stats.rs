//! Statistics, under psycopg_pool's names where it has the same.
//! <https://www.psycopg.org/psycopg3/docs/advanced/pool.html#pool-stats>

use pgpool_core::{CloseReason, Counts, Stats};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Gives the numbers as a dict.
pub(crate) fn to_dict(py: Python<'_>, (stats, counts): (Stats, Counts)) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    let (size, available) =
        if counts.closed { (counts.unclosed, 0) } else { (counts.open() + counts.opening, counts.idle) };
    for (name, number) in [
        ("pool_min", counts.minconn),
        ("pool_max", counts.maxconn),
        ("pool_size", size),
        ("pool_available", available),
        ("requests_waiting", counts.waiting),
    ] {
        dict.set_item(name, number)?;
    }
    for (name, number) in [
        ("requests_num", stats.requests_num),
        ("requests_queued", stats.requests_queued),
        ("requests_wait_ms", stats.requests_wait.as_millis()),
        ("requests_errors", stats.requests_errors),
        ("usage_ms", stats.usage.as_millis()),
        ("returns_bad", stats.returns_bad),
        ("connections_num", stats.connections_num),
        ("connections_ms", stats.connections_time.as_millis()),
        ("connections_errors", stats.connections_errors),
        ("connections_lost", stats.connections_lost),
        ("checks_failed", stats.checks_failed),
        ("leaks", stats.leaks),
        ("reclaimed", stats.reclaimed),
    ] {
        dict.set_item(name, number)?;
    }
    for (reason, number) in CloseReason::ALL.into_iter().zip(stats.closed) {
        dict.set_item(format!("closed_{}", reason.name()), number)?;
    }
    Ok(dict)
}
