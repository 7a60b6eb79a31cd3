//! All calls of the C library: the time, the process, the thread, and whether a socket is connected. And the few of CPython's C
//! API outside of `fast_path`.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use pgpool_core::{Caller, Moment, Span};
use pyo3::exceptions::{PyImportError, PyValueError};
use pyo3::prelude::*;

/// How far a test has put the clock forward, in nanoseconds.
static AHEAD: AtomicU64 = AtomicU64::new(0);

/// Reads the clock that all ages are measured with. It takes a few nanoseconds and is exact to a few milliseconds.
#[inline]
pub(crate) fn now() -> Moment {
    Moment::from_nanos(monotonic_nanos().wrapping_add(AHEAD.load(Ordering::Relaxed)))
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[inline]
fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to. The clock exists since Linux 2.6.32; where it did not, the time would
    // stand still at 0.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    (time.tv_sec.cast_unsigned()).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.cast_unsigned())
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn monotonic_nanos() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Read the clock that all ages are measured with, in seconds since some moment.
#[pyfunction]
pub(crate) fn clock(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    float(py, now().since(Moment::START).as_secs_f64())
}

/// Put the clock forward that all ages are measured with, for tests. Timeouts of waiting are not touched.
#[pyfunction]
pub(crate) fn advance_clock(seconds: f64) -> PyResult<()> {
    let span = Span::from_secs_f64(seconds);
    if !(0.0..=1e9).contains(&seconds) {
        return Err(PyValueError::new_err(format!("seconds must be between 0 and 1e9, not {seconds}")));
    }
    AHEAD.fetch_add(span.as_nanos(), Ordering::Relaxed);
    Ok(())
}

/// Numbers this process among its ancestors, in steps of [`PROCESS_STEP`].
static PROCESS: AtomicU64 = AtomicU64::new(0);

/// The bits below it are free for other uses.
pub(crate) const PROCESS_STEP: u64 = 1 << 8;

/// Gives the number of this process, which differs from that of its parent.
#[inline]
pub(crate) fn process() -> u64 {
    PROCESS.load(Ordering::Relaxed)
}

/// Notices all forks from now on, also those that run no hooks of Python, as uWSGI's.
pub(crate) fn notice_forks() {
    extern "C" fn in_child() {
        PROCESS.fetch_add(PROCESS_STEP, Ordering::Relaxed);
    }
    static ONCE: Once = Once::new();
    #[cfg(unix)]
    ONCE.call_once(|| {
        // SAFETY: the handler is a function that does nothing but add to an atomic, which is safe after a fork; glibc forgets
        // it if the extension is unloaded. Registering fails only where memory is out, and then no fork would work.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Gives the ident of this thread, as CPython's own `threading.get_ident` does.
#[inline]
pub(crate) fn thread_ident() -> Caller {
    // Elsewhere a pthread_t is a pointer, or shorter.
    #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
    // SAFETY: it asks nothing of its caller. It is what CPython takes for the ident.
    return unsafe { libc::pthread_self() };
    #[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
    // SAFETY: it asks nothing of its caller.
    return Caller::from(unsafe { pyo3::ffi::PyThread_get_thread_ident() });
}

/// Makes a float. `PyO3`'s own way panics if there is no memory for it.
pub(crate) fn float(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: it is called attached, and gives a new reference, or null with an error set.
    unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyFloat_FromDouble(value)) }
}

/// Makes an integer. `PyO3`'s own way panics if there is no memory for it.
pub(crate) fn int(py: Python<'_>, value: u64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: as above.
    unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyLong_FromUnsignedLongLong(value)) }
}

/// Refuses every interpreter but the main one, with which it would share the static variables.
pub(crate) fn refuse_subinterpreters() -> PyResult<()> {
    // SAFETY: it is called attached, so there is a current interpreter.
    let number = unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) };
    if number == 0 {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "pgpool_rs works in the main interpreter only, and this is a subinterpreter; \
         under mod_wsgi, set WSGIApplicationGroup %{GLOBAL}",
    ))
}

/// The state of a socket, seen without reading from it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Socket {
    /// Nothing has arrived.
    Quiet,
    /// There is something to read.
    Readable,
    /// The other side has closed, or the connection has failed.
    HungUp,
}

/// Looks at a socket without waiting.
pub(crate) fn look_at_socket(descriptor: i32) -> Socket {
    #[cfg(target_os = "linux")]
    const PEER_CLOSED: i16 = libc::POLLRDHUP;
    #[cfg(not(target_os = "linux"))]
    const PEER_CLOSED: i16 = 0;
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN | PEER_CLOSED, revents: 0 };
    // SAFETY: `poll` is one valid pollfd, and 1 says so. A descriptor that is not open is answered with POLLNVAL.
    let found = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if found <= 0 {
        return Socket::Quiet;
    }
    if poll.revents & (PEER_CLOSED | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
        return Socket::HungUp;
    }
    Socket::Readable
}
