//! Real threads on one pool: the limit, the order, and nothing lost.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::{CheckOut, Chore, CloseReason, Moment, Policy, Reserve, Returning, SharedLedger, Span, Wake, Want};

/// A waker that a thread sleeps on.
#[derive(Clone, Default)]
struct Parker(Arc<(Mutex<bool>, Condvar)>);

impl Wake for Parker {
    fn wake(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_one();
    }
}

impl Parker {
    fn park(&self) {
        assert!(self.park_for(Duration::from_mins(1)), "a wake-up was lost");
    }

    /// Says whether it was woken in that time.
    fn park_for(&self, time: Duration) -> bool {
        let woken = self.0.0.lock().expect("no panic");
        let (mut woken, late) = self.0.1.wait_timeout_while(woken, time, |woken| !*woken).expect("no panic");
        *woken = false;
        !late.timed_out()
    }
}

fn borrow(ledger: &SharedLedger<usize, Parker>, names: &AtomicUsize) -> usize {
    if let Some(connection) = ledger.lend_idle(0, Moment::START) {
        return *connection;
    }
    let want = Want::Any(ledger.next_number(), 0);
    let parker = Parker::default();
    let mut waiter = None;
    loop {
        match ledger.check_out(&want, waiter.as_ref(), Some(parker.clone()), Moment::START).expect("the pool is open") {
            CheckOut::Lent(connection) => return *connection,
            CheckOut::Reserved(reservation) => {
                let name = names.fetch_add(1, Ordering::SeqCst);
                ledger.fulfil(reservation.slot(), name, &Arc::new(name), Moment::START).expect("the pool is open");
                return name;
            }
            CheckOut::Check(_) | CheckOut::FinishReturn(_) => panic!("this pool checks nothing and leaves nothing"),
            CheckOut::Busy(_, joined) => {
                waiter = joined.or(waiter);
                parker.park();
            }
        }
    }
}

#[test]
fn many_threads_never_hold_one_connection_twice_nor_more_than_maxconn() {
    const THREADS: usize = 8;
    const LOANS: usize = 3000;
    const MAXCONN: usize = 3;
    let ledger = SharedLedger::<usize, Parker>::new(1);
    ledger.set_minconn(2);
    drop(ledger.set_maxconn(MAXCONN));
    let names = AtomicUsize::new(1);
    let holders = (0..THREADS * LOANS + 2).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>();
    let out = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ledger, names, holders, out) = (&ledger, &names, &holders, &out);
            scope.spawn(move || {
                for loan in 0..LOANS {
                    let name = borrow(ledger, names);
                    assert_eq!(holders[name].fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    assert!(out.fetch_add(1, Ordering::SeqCst) < MAXCONN, "above the limit");
                    out.fetch_sub(1, Ordering::SeqCst);
                    holders[name].fetch_sub(1, Ordering::SeqCst);
                    if (loan + thread) % 3 > 0 && ledger.take_back_clean(name, Moment::START) {
                        continue;
                    }
                    let close = (loan + thread) % 7 == 0;
                    let Ok(mut returning) = ledger.begin_return(Some(name), None, close, Moment::START) else {
                        panic!("it is lent")
                    };
                    let _kept = returning.closing().is_none() && returning.keep(Moment::START);
                }
            });
        }
    });
    let counts = ledger.counts();
    assert_eq!((counts.lent, counts.opening, counts.returning, counts.waiting), (0, 0, 0, 0));
    assert!(counts.idle <= 2 + 1, "no more than minconn, and one that was kept for a waiter that left");
}

/// A pool with a housekeeper, in which every connection is checked, many die, and none lives long.
struct Town {
    ledger: SharedLedger<u64, Parker>,
    began: Instant,
    names: AtomicU64,
    chance: AtomicU64,
    over: AtomicBool,
}

impl Town {
    fn now(&self) -> Moment {
        Moment::from_nanos(u64::try_from(self.began.elapsed().as_nanos()).expect("it takes no centuries"))
    }

    /// Says yes once in so many times.
    fn once_in(&self, many: u64) -> bool {
        self.chance.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & 0xFFFF < 0xFFFF / many
    }

    fn open(&self) -> (u64, Arc<u64>) {
        self.ledger.note_connect(Span::ZERO, false);
        let name = self.names.fetch_add(1, Ordering::SeqCst);
        (name, Arc::new(name))
    }

    fn finish(&self, mut returning: Returning<'_, u64, Parker>) {
        if returning.closing().is_none() && !self.once_in(9) {
            let _kept = returning.keep(self.now());
        }
    }

    fn borrow(&self, caller: u64) -> u64 {
        if let Some(connection) = self.ledger.lend_idle(caller, self.now()) {
            return *connection;
        }
        let (want, parker) = (Want::Any(self.ledger.next_number(), caller), Parker::default());
        let mut waiter = None;
        loop {
            let mut answer =
                self.ledger.check_out(&want, waiter.as_ref(), Some(parker.clone()), self.now()).expect("open");
            while let CheckOut::Check(checking) = answer {
                answer = if self.once_in(5) {
                    checking.next(CloseReason::Lost, self.now()).expect("open")
                } else {
                    match checking.lend(self.now()) {
                        Ok(()) => CheckOut::Lent(Arc::clone(checking.connection())),
                        Err(reason) => checking.next(reason, self.now()).expect("open"),
                    }
                };
            }
            match answer {
                CheckOut::Lent(connection) => return *connection,
                CheckOut::Reserved(reservation) if self.once_in(7) => drop(reservation),
                CheckOut::Reserved(reservation) => {
                    let (name, connection) = self.open();
                    self.ledger.fulfil(reservation.slot(), address(name), &connection, self.now()).expect("open");
                    return name;
                }
                CheckOut::FinishReturn(returning) => self.finish(returning),
                CheckOut::Check(_) => {}
                CheckOut::Busy(_, joined) => {
                    waiter = joined.or(waiter);
                    parker.park();
                }
            }
        }
    }

    fn give_back(&self, name: u64) {
        if self.once_in(2) && self.ledger.take_back_clean(address(name), self.now()) {
            return;
        }
        let returning = self.ledger.begin_return(Some(address(name)), None, self.once_in(9), self.now());
        let Ok(returning) = returning else { panic!("it is lent") };
        if let Some(returning) = if self.once_in(2) { returning.defer(self.now()) } else { Some(returning) } {
            self.finish(returning);
        }
    }

    fn do_chores(&self, parker: &Parker) {
        while !self.over.load(Ordering::SeqCst) {
            match self.ledger.chore(7, self.now()) {
                Chore::Return(returning) => self.finish(returning),
                Chore::Report(_) => panic!("loans are short, or for ever"),
                Chore::Open(refill) => match self.ledger.reserve(None, 7) {
                    Ok(Reserve::New(reservation)) if !self.once_in(3) => {
                        let (name, connection) = self.open();
                        let filled = self.ledger.fulfil(reservation.slot(), address(name), &connection, self.now());
                        filled.expect("there is room");
                    }
                    _ => refill.fail(self.now()),
                },
                Chore::Rest(until) => {
                    parker
                        .park_for(Duration::from_nanos(until.since(self.now()).as_nanos()).min(Duration::from_secs(1)));
                }
            }
        }
    }
}

fn address(name: u64) -> usize {
    usize::try_from(name).expect("64 bits")
}

#[test]
fn many_threads_and_a_housekeeper_lose_no_slot_and_no_wake_up_whichever_connections_die_or_expire() {
    const LOANS: usize = 1000;
    let town = Town {
        ledger: SharedLedger::new(1),
        began: Instant::now(),
        names: AtomicU64::new(1),
        chance: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let micros = |micros: f64| Span::from_secs_f64(micros * 1e-6);
    town.ledger.set_policy(Policy {
        check_after: micros(5.0),
        max_idle: micros(50.0),
        max_lifetime: micros(500.0),
        has_housekeeper: true,
        ..Policy::default()
    });
    drop(town.ledger.resize(2, 3));
    let parker = Parker::default();
    town.ledger.set_housekeeper(parker.clone());
    std::thread::scope(|scope| {
        let housekeeper = scope.spawn(|| town.do_chores(&parker));
        let borrowers = (0..6).map(|number| {
            let town = &town;
            scope.spawn(move || {
                for _ in 0..LOANS {
                    let name = town.borrow(number + 10);
                    // Others find it lent, and wait.
                    if town.once_in(2) {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    town.give_back(name);
                }
            })
        });
        borrowers.collect::<Vec<_>>().into_iter().for_each(|borrower| borrower.join().expect("no panic"));
        town.over.store(true, Ordering::SeqCst);
        parker.wake();
        housekeeper.join().expect("no panic");
    });
    while let Chore::Return(returning) = town.ledger.chore(7, town.now()) {
        drop(returning);
    }
    let (stats, counts) = town.ledger.stats(town.now());
    assert_eq!((counts.open(), counts.opening, counts.waiting), (counts.idle, 0, 0), "{counts:?}");
    let open = u64::try_from(counts.idle).expect("small");
    assert_eq!(stats.connections_num, open + stats.closed.iter().sum::<u64>(), "{stats:?}");
}
