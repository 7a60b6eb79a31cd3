//! The core in every schedule: threads that take the pool's mutex in one order, then in each other order that there is.
//!
//! The pool's mutex is that of a model checker here (see `sync`), and the threads are run by it, one at a time. Each
//! thread is a caller of the pool and does one of nine acts, or of ten if the pool shares a limit: see `acts`. Two of
//! them at once, and three, in every combination (with a press: see `limited`), from three states of the pool, in every
//! schedule; or, where these are too many, in every schedule that interrupts a thread no more than so many times while it
//! could have gone on. In each schedule, after each step and in the end:
//!
//! - no two threads hold one connection, unless both asked for the same key, which is then opened once;
//! - slots are never made more than the limit, as it is then, and the server never sees more connections than it was;
//! - no thread waits while a slot is free (with workers, while a connection is idle), waiters are served in their order, and all threads come to an end;
//! - a limited pool has filled what it was granted; its grantor, which grants late or never, has the rest;
//! - what was opened is idle or was closed, once, and is so counted; a closed pool has nothing open, an open one lends
//!   as many as its limit says;
//! - no handle is dropped and no waker called while the mutex is held.
//!
//! The model checker is shuttle, rather than loom: all that threads share is behind one mutex, so there is no memory
//! order for loom to examine, and its way of leaving out schedules that differ in nothing but the order of independent
//! steps finds hardly any, as no two locks of one mutex are independent. Shuttle takes a scheduler of our own, which
//! counts, bounds and leaves out what does not matter here (see `explorer`), and needs fewer crates.
//!
//! What a thread does between two locks of the mutex, others can't see, but for a waiter that it wakes: that one goes on
//! to its own next lock and stops there. So it is enough to choose, each time, the thread that takes the mutex next.
//!
//! ```text
//! cargo test -p pgpool-core --features shuttle -- --nocapture                             a few seconds
//! PGPOOL_PROFILE=nightly cargo test -p pgpool-core --features shuttle -- --nocapture      some minutes
//! ```

mod acts;
mod caller;
mod claims;
mod combinations;
pub(crate) mod explorer;
mod limited;
mod model;
mod things;
mod workers;
mod world;
