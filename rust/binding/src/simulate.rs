//! A pool in told time: the ledger serves requests whose arrivals and loans are given. Nothing connects, waits or reads a clock,
//! so thousands of seconds of a busy pool take less than one.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use pgpool_core::{CheckOut, Moment, Reserve, SharedLedger, Span, Waiter, Wake, Want};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// Serve requests by a pool of so many open connections, and return how long each waited, in seconds.
///
/// Each request arrives at its moment, in the order given, and holds its connection for its time.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "PyO3 converts lists into vectors")]
pub(crate) fn simulate(py: Python<'_>, connections: usize, arrivals: Vec<f64>, holds: Vec<f64>) -> PyResult<Vec<f64>> {
    let times = |times: &[f64]| times.iter().all(|time| matches!(time, 0.0..=1e9));
    if connections == 0 || !times(&arrivals) || !times(&holds) || !arrivals.is_sorted() || arrivals.len() != holds.len()
    {
        return Err(PyValueError::new_err(
            "simulate() takes 1 connection or more, and as many arrivals, in order, as holds, each of 0 to 1e9 seconds",
        ));
    }
    py.detach(|| serve_all(connections, &arrivals, &holds))
        .ok_or_else(|| PyRuntimeError::new_err("the ledger has not served every request"))
}

/// Wakes a waiting request, by its number.
struct SimulatedWaker(usize, Rc<RefCell<Vec<usize>>>);

impl Wake for SimulatedWaker {
    fn wake(&self) -> bool {
        self.1.borrow_mut().push(self.0);
        true
    }
}

/// A connection is its number.
type Ledger = SharedLedger<usize, SimulatedWaker>;

fn serve_all(connections: usize, arrivals: &[f64], holds: &[f64]) -> Option<Vec<f64>> {
    let ledger = Ledger::new(0);
    drop(ledger.resize(connections, connections));
    for connection in 1..=connections {
        let Ok(Reserve::New(reservation)) = ledger.reserve(None, 1) else { return None };
        ledger.fulfil(reservation.slot(), connection, &Arc::new(connection), Moment::START).ok()?;
    }
    let mut service = Service {
        ledger: &ledger,
        holds,
        lent: BinaryHeap::new(),
        waiting: BTreeMap::new(),
        woken: Rc::default(),
        waits: vec![f64::NAN; arrivals.len()],
    };
    for (request, &arrival) in arrivals.iter().enumerate() {
        let now = Moment::START.after(Span::from_secs_f64(arrival));
        service.take_back_until(now)?;
        service.arrive(request, now)?;
    }
    service.take_back_until(Moment::NEVER)?;
    service.waiting.is_empty().then_some(service.waits)
}

/// A request that waits: what it wants, since when, and its place in the queue.
struct Waiting<'l> {
    want: Want<usize>,
    since: Moment,
    place: Waiter<'l, usize, SimulatedWaker>,
}

/// The requests that are being served, by their numbers.
struct Service<'l> {
    ledger: &'l Ledger,
    holds: &'l [f64],
    /// When each lent connection comes back, the next one first.
    lent: BinaryHeap<Reverse<(Moment, usize)>>,
    waiting: BTreeMap<usize, Waiting<'l>>,
    woken: Rc<RefCell<Vec<usize>>>,
    waits: Vec<f64>,
}

impl Service<'_> {
    /// Does as getconn: it asks for an idle connection, or joins the queue.
    fn arrive(&mut self, request: usize, now: Moment) -> Option<()> {
        // No caller has the number 0.
        let caller = request as u64 + 1;
        if let Some((_, connection)) = self.ledger.lend_idle(caller, now) {
            self.lend(request, *connection, now, now);
            return Some(());
        }
        let want = Want::Any(self.ledger.next_number(), caller);
        match self.ledger.check_out(&want, None, Some(SimulatedWaker(request, Rc::clone(&self.woken))), now).ok()? {
            CheckOut::Lent(connection) => self.lend(request, *connection, now, now),
            CheckOut::Busy(_, Some(place)) => drop(self.waiting.insert(request, Waiting { want, since: now, place })),
            _ => return None,
        }
        Some(())
    }

    fn lend(&mut self, request: usize, connection: usize, since: Moment, now: Moment) {
        self.waits[request] = now.since(since).as_secs_f64();
        self.lent.push(Reverse((now.after(Span::from_secs_f64(self.holds[request])), connection)));
    }

    /// Does as putconn with each connection that comes back until then. Each request that the ledger wakes claims what it was promised.
    fn take_back_until(&mut self, end: Moment) -> Option<()> {
        while let Some(&Reverse((now, connection))) = self.lent.peek()
            && now <= end
        {
            self.lent.pop();
            if !self.ledger.take_back_clean(connection, now) {
                let mut returning = self.ledger.begin_return(Some(connection), None, false, now).ok()?;
                returning.keep(now).then_some(())?;
            }
            for request in self.woken.take() {
                let Waiting { want, since, place } = self.waiting.remove(&request)?;
                let Ok(CheckOut::Lent(connection)) = self.ledger.check_out(&want, Some(&place), None, now) else {
                    return None;
                };
                self.lend(request, *connection, since, now);
            }
        }
        Some(())
    }
}
