//! Real threads on one pool: the limit, the order, and nothing lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::{CheckOut, Moment, Pool, Wake, Want};

/// A waker that a thread sleeps on.
#[derive(Clone, Default)]
struct Doorbell(Arc<(Mutex<bool>, Condvar)>);

impl Wake for Doorbell {
    fn wake(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_one();
    }
}

impl Doorbell {
    fn wait(&self) {
        let rung = self.0.0.lock().expect("no panic");
        let (mut rung, late) =
            self.0.1.wait_timeout_while(rung, Duration::from_mins(1), |rung| !*rung).expect("no panic");
        assert!(!late.timed_out(), "a wake-up was lost");
        *rung = false;
    }
}

fn borrow(pool: &Pool<usize, Doorbell>, names: &AtomicUsize) -> usize {
    if let Some(connection) = pool.lend_idle(0, Moment::START) {
        return *connection;
    }
    let want = Want::Any(pool.next_number(), 0);
    let bell = Doorbell::default();
    let mut waiter = None;
    loop {
        match pool.check_out(&want, waiter.as_ref(), Some(bell.clone()), Moment::START).expect("the pool is open") {
            CheckOut::Lent(connection) => return *connection,
            CheckOut::Reserved(reservation) => {
                let name = names.fetch_add(1, Ordering::SeqCst);
                pool.fulfil(reservation.slot(), name, &Arc::new(name), Moment::START).expect("the pool is open");
                return name;
            }
            CheckOut::Doubtful(_) | CheckOut::Errand(_) => panic!("this pool checks nothing and leaves nothing"),
            CheckOut::Busy(_, joined) => {
                waiter = joined.or(waiter);
                bell.wait();
            }
        }
    }
}

#[test]
fn many_threads_never_hold_one_connection_twice_nor_more_than_maxconn() {
    const THREADS: usize = 8;
    const LOANS: usize = 3000;
    const MAXCONN: usize = 3;
    let pool = Pool::<usize, Doorbell>::new(1);
    pool.set_minconn(2);
    drop(pool.set_maxconn(MAXCONN));
    let names = AtomicUsize::new(1);
    let holders = (0..THREADS * LOANS + 2).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>();
    let out = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pool, names, holders, out) = (&pool, &names, &holders, &out);
            scope.spawn(move || {
                for loan in 0..LOANS {
                    let name = borrow(pool, names);
                    assert_eq!(holders[name].fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    assert!(out.fetch_add(1, Ordering::SeqCst) < MAXCONN, "above the limit");
                    out.fetch_sub(1, Ordering::SeqCst);
                    holders[name].fetch_sub(1, Ordering::SeqCst);
                    if (loan + thread) % 3 > 0 && pool.keep_clean(name, Moment::START) {
                        continue;
                    }
                    let close = (loan + thread) % 7 == 0;
                    let Ok(mut returning) = pool.begin_return(Some(name), None, close, Moment::START) else {
                        panic!("it is lent")
                    };
                    let _kept = returning.closing().is_none() && returning.keep(Moment::START);
                }
            });
        }
    });
    let counts = pool.counts();
    assert_eq!((counts.lent, counts.opening, counts.returning, counts.waiting), (0, 0, 0, 0));
    assert!(counts.idle <= 2 + 1, "no more than minconn, and one that was kept for a waiter that left");
}
