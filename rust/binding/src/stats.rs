//! Statistics, under psycopg_pool's names where it has the same.
//! <https://www.psycopg.org/psycopg3/docs/advanced/pool.html#pool-stats>

use pgpool_core::{CloseReason, Counts, Histogram, Span, Stats, Times};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::python::imports;
use crate::system::float;

/// Gives the numbers as a dict. Those of this moment come first.
pub(crate) fn to_dict(py: Python<'_>, (stats, counts): (Stats, Counts)) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    // A closed pool may go on to list connections that are closed.
    let unclosed = |number: usize| if counts.unclosed == 0 { 0 } else { number };
    for (name, number) in [
        ("pool_min", counts.minconn),
        ("pool_max", counts.maxconn),
        ("pool_size", counts.unclosed),
        ("pool_available", unclosed(counts.idle)),
        ("pool_lent", unclosed(counts.lent + counts.promised)),
        ("pool_opening", unclosed(counts.opening)),
        ("pool_checking", unclosed(counts.checking)),
        ("pool_returning", unclosed(counts.returning)),
        ("requests_waiting", counts.waiting),
    ] {
        dict.set_item(name, number)?;
    }
    dict.set_item("oldest_loan_ms", stats.oldest_loan.as_millis())?;
    for (name, number) in [
        ("requests_num", stats.requests_num),
        ("requests_queued", stats.requests_queued),
        ("requests_wait_ms", stats.requests_wait.as_millis()),
        ("requests_errors", stats.requests_errors),
        ("requests_timed_out", stats.requests_timed_out),
        ("requests_refused", stats.requests_refused),
        ("requests_crowded", stats.requests_crowded),
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

/// Gives the histograms as a dict of `pgpool_rs.Histogram`s, in seconds.
pub(crate) fn histograms<'py>(py: Python<'py>, times: &Times) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, times) in [("wait", times.waits), ("use", times.uses), ("create", times.connects)] {
        dict.set_item(name, histogram(py, &times)?)?;
    }
    Ok(dict)
}

fn histogram<'py>(py: Python<'py>, times: &Histogram) -> PyResult<Bound<'py, PyAny>> {
    let buckets = PyDict::new(py);
    for (bound, count) in times.cumulative() {
        let bound = if bound == Span::FOREVER { f64::INFINITY } else { bound.as_secs_f64() };
        buckets.set_item(float(py, bound)?, count)?;
    }
    imports()?.Histogram.bind(py).call1((buckets, float(py, times.sum().as_secs_f64())?))
}
