//! Tests of the core, without Python, without a clock and, but for one file, without threads.

mod ageing;
mod anything;
mod backoff;
mod chores;
mod counting;
mod granted;
mod growth;
mod health;
mod jitter;
mod keys;
mod lengths;
mod many;
mod priority;
mod props;
mod scenarios;
mod threads;
mod words;
