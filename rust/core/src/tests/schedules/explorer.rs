//! Every schedule, one after the other: a depth-first search through all choices of the thread that goes on.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, Runner};

thread_local! {
    static ANYONE_NEXT: Cell<bool> = const { Cell::new(false) };
    static LOOKING: Cell<bool> = const { Cell::new(false) };
    /// Which thread did what, in the schedule that runs now.
    static STEPS: RefCell<Vec<(usize, &'static str)>> = const { RefCell::new(Vec::new()) };
}

/// Says that the thread that runs now is about to take the pool's mutex, so that this is a moment for another to go on.
pub(crate) fn anyone_next() {
    ANYONE_NEXT.set(!LOOKING.get());
}

/// Looks at the ledger between two steps: no other thread goes on meanwhile.
pub(super) fn unobserved<T>(look: impl FnOnce() -> T) -> T {
    LOOKING.set(true);
    let seen = look();
    LOOKING.set(false);
    seen
}

/// Notes what a thread has done, to be told if this schedule fails.
pub(super) fn note(thread: usize, what: &'static str) {
    STEPS.with_borrow_mut(|steps| steps.push((thread, what)));
}

/// What was explored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Explored {
    pub(super) schedules: usize,
    /// The most choices in one schedule.
    pub(super) deepest: usize,
    /// Whether there are more schedules than these.
    pub(super) more: bool,
}

impl Explored {
    pub(super) fn add(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.deepest = self.deepest.max(other.deepest);
        self.more |= other.more;
    }

    /// Tells it in words.
    pub(super) fn told(self, profile: Profile) -> String {
        let Self { schedules, deepest, more } = self;
        let extent =
            if more { format!("at most {} preemptions", profile.preemptions) } else { "exhaustive".to_owned() };
        format!("{schedules} schedules, {extent}; at most {deepest} choices in one")
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// Where there are no more schedules than this, all of them are explored.
    pub(super) schedules: usize,
    /// Where there are more, those are that interrupt a thread no more than so many times while it could have gone on.
    pub(super) preemptions: usize,
}

impl Profile {
    pub(super) const EXHAUSTIVE: Self = Self { schedules: usize::MAX, preemptions: usize::MAX };
    pub(super) const NIGHTLY: Self = Self { schedules: 30_000, preemptions: 4 };
    pub(super) const QUICK: Self = Self { schedules: 0, preemptions: 2 };

    /// Runs the scenario in each schedule. A scenario that fails does so under its claim, with its steps.
    pub(super) fn explore(self, claim: &str, scenario: impl Fn() + Clone + Send + Sync + 'static) -> Explored {
        let all = explore(claim, usize::MAX, self.schedules, scenario.clone());
        if all.more { explore(claim, self.preemptions, usize::MAX, scenario) } else { all }
    }
}

/// Runs the scenario once in each schedule with so many preemptions at most, and no more than so many times.
fn explore(claim: &str, preemptions: usize, schedules: usize, scenario: impl Fn() + Send + Sync + 'static) -> Explored {
    let explored = Rc::new(RefCell::new(Explored::default()));
    let mut config = Config::new();
    // The steps say more than a schedule that is written down for shuttle to repeat.
    config.failure_persistence = FailurePersistence::None;
    let search = DepthFirst { preemptions, schedules, explored: Rc::clone(&explored), ..DepthFirst::default() };
    let run = AssertUnwindSafe(|| Runner::new(search, config).run(scenario));
    if let Err(panic) = catch_unwind(run) {
        eprintln!("not so: {claim}\nin schedule {}:", explored.borrow().schedules);
        for (thread, what) in STEPS.take() {
            eprintln!("  {thread} {what}");
        }
        resume_unwind(panic);
    }
    *explored.borrow()
}

/// One choice: which of how many.
struct Choice {
    taken: usize,
    of: usize,
}

/// The search. What is said of this schedule is forgotten before the next.
#[derive(Default)]
struct DepthFirst {
    preemptions: usize,
    schedules: usize,
    /// The choices that lead to this schedule.
    path: Vec<Choice>,
    /// How many of them have been made in it.
    depth: usize,
    /// How many of those were preemptions.
    preempted: usize,
    /// The thread that was chosen last.
    last: Option<TaskId>,
    /// The threads that are about to take the ledger's mutex, a bit for each.
    at_the_mutex: u64,
    explored: Rc<RefCell<Explored>>,
}

impl Scheduler for DepthFirst {
    fn new_execution(&mut self) -> Option<Schedule> {
        let mut explored = self.explored.borrow_mut();
        if explored.schedules > 0 {
            while self.path.last().is_some_and(|choice| choice.taken + 1 == choice.of) {
                self.path.pop();
            }
            self.path.last_mut()?.taken += 1;
        }
        if explored.schedules == self.schedules {
            explored.more = true;
            return None;
        }
        explored.schedules += 1;
        (self.depth, self.preempted, self.last) = (0, 0, None);
        self.at_the_mutex = 0;
        ANYONE_NEXT.set(false);
        STEPS.with_borrow_mut(Vec::clear);
        Some(Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, _: bool) -> Option<TaskId> {
        if let Some(current) = current
            && ANYONE_NEXT.take()
        {
            self.at_the_mutex |= bit(current);
        }
        // What a thread does between two locks is its own affair; so it does that at once.
        let mut busy = runnable.iter().map(|task| task.id()).filter(|&task| self.at_the_mutex & bit(task) == 0);
        if let Some(first) = busy.next() {
            let goes_on = Some(first) == current || busy.any(|task| Some(task) == current);
            return current.filter(|_| goes_on).or(Some(first));
        }
        let chosen = if let [only] = runnable { only.id() } else { self.choose(runnable) };
        self.last = Some(chosen);
        self.at_the_mutex &= !bit(chosen);
        Some(chosen)
    }

    fn next_u64(&mut self) -> u64 {
        panic!("nothing is left to chance")
    }
}

impl DepthFirst {
    /// Chooses the thread that takes the mutex next: at first the one that took it last, and in later schedules each other.
    fn choose(&mut self, runnable: &[&Task]) -> TaskId {
        let first = runnable.iter().position(|task| Some(task.id()) == self.last);
        let spent = first.is_some() && self.preempted == self.preemptions;
        let mut explored = self.explored.borrow_mut();
        if self.depth == self.path.len() {
            explored.more |= spent;
            self.path.push(Choice { taken: 0, of: if spent { 1 } else { runnable.len() } });
        }
        let taken = self.path[self.depth].taken;
        let chosen = match first {
            Some(first) if taken == 0 => first,
            Some(first) => {
                self.preempted += 1;
                if taken > first { taken } else { taken - 1 }
            }
            None => taken,
        };
        self.depth += 1;
        explored.deepest = explored.deepest.max(self.depth);
        runnable[chosen].id()
    }
}

fn bit(task: TaskId) -> u64 {
    1 << usize::from(task)
}
