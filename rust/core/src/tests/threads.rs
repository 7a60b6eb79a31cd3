//! Real threads on one pool: the limit, the order, and nothing lost.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use crate::{
    CheckOut, Chore, CloseReason, Moment, Policy, Rank, Reserve, Returning, SharedLedger, Span, Stats, Wake, Want,
};

/// A waker that a thread sleeps on.
#[derive(Clone, Default)]
struct Parker(Arc<(Mutex<bool>, Condvar)>);

impl Wake for Parker {
    fn wake(&self) -> bool {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_one();
        true
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

/// A pool with a housekeeper, whose borrowers and connections have accidents.
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
        if let Some((_, connection)) = self.ledger.lend_idle(caller, self.now()) {
            return *connection;
        }
        if let Some((_, connection)) = self.ledger.lend_idle_as(Rank::Normal, None, caller, self.now()) {
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
                CheckOut::Check(_) | CheckOut::AskAgain | CheckOut::Seek(_) | CheckOut::ConnectFailed(_) => {}
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
        if self.once_in(2)
            && let Some((loan, _)) = self.ledger.loan_at(address(name))
            && self.ledger.take_back_any_clean(loan, None, self.now()).is_some()
        {
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
            match self.ledger.chore(7, true, self.now()) {
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

/// Lets threads borrow from a pool with a housekeeper, each so many times; tells what has come of it.
fn live(policy: Policy, loans: usize) -> Stats {
    const MAXCONN: usize = 3;
    let town = Town {
        ledger: SharedLedger::new(1),
        began: Instant::now(),
        names: AtomicU64::new(1),
        chance: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    town.ledger.set_policy(policy);
    drop(town.ledger.resize(2, MAXCONN));
    let (parker, held) = (Parker::default(), Mutex::new(HashSet::new()));
    town.ledger.set_housekeeper(parker.clone());
    std::thread::scope(|scope| {
        let housekeeper = scope.spawn(|| town.do_chores(&parker));
        let borrowers = (0..6).map(|number| {
            let (town, held) = (&town, &held);
            scope.spawn(move || {
                for _ in 0..loans {
                    let name = town.borrow(number + 10);
                    {
                        let mut held = held.lock().expect("no panic");
                        assert!(held.insert(name), "two hold {name}");
                        assert!(held.len() <= MAXCONN, "above the limit: {held:?}");
                    }
                    // Others find it lent, and wait.
                    if town.once_in(2) {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    held.lock().expect("no panic").remove(&name);
                    town.give_back(name);
                }
            })
        });
        let ends: Vec<_> = borrowers.collect::<Vec<_>>().into_iter().map(ScopedJoinHandle::join).collect();
        town.over.store(true, Ordering::SeqCst);
        parker.wake();
        housekeeper.join().expect("no panic");
        for end in ends {
            end.expect("no panic");
        }
    });
    while let Chore::Return(returning) = town.ledger.chore(7, true, town.now()) {
        drop(returning);
    }
    let (stats, counts) = town.ledger.stats(town.now());
    assert_eq!((counts.open(), counts.opening, counts.waiting), (counts.idle, 0, 0), "{counts:?}");
    let open = u64::try_from(counts.idle).expect("small");
    assert_eq!(stats.connections_num, open + stats.closed.iter().sum::<u64>(), "{stats:?}");
    stats
}

#[test]
fn many_threads_never_hold_one_connection_twice_nor_more_than_maxconn() {
    live(Policy { has_housekeeper: true, ..Policy::default() }, 4000);
}

#[test]
fn many_threads_and_a_housekeeper_lose_no_slot_and_no_wake_up_whichever_connections_die_or_expire() {
    let micros = |micros: f64| Span::from_secs_f64(micros * 1e-6);
    let stats = live(
        Policy {
            check_after: micros(5.0),
            max_idle: micros(50.0),
            max_lifetime: micros(500.0),
            has_housekeeper: true,
            ..Policy::default()
        },
        1000,
    );
    assert!(stats.checks_failed > 0 && stats.closed[CloseReason::Lifetime as usize] > 0, "{stats:?}");
}
