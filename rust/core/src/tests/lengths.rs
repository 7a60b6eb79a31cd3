//! How long the random tests go on: `PGPOOL_PROFILE=nightly cargo test` runs sequences of thousands of steps, and as
//! many of them as `PROPTEST_CASES` says.

use std::env;
use std::ops::Range;

use proptest::test_runner::Config;

fn is_nightly() -> bool {
    match env::var("PGPOOL_PROFILE").as_deref() {
        Ok("nightly") => true,
        Ok("quick") | Err(_) => false,
        Ok(other) => panic!("PGPOOL_PROFILE may be quick or nightly, not {other:?}"),
    }
}

/// So many sequences; in the nightly profile, as many as `PROPTEST_CASES` says, if it does.
pub(super) fn config(cases: u32) -> Config {
    let default = Config { failure_persistence: None, ..Config::default() };
    if is_nightly() && env::var_os("PROPTEST_CASES").is_some() { default } else { Config { cases, ..default } }
}

/// So many steps each; in the nightly profile, up to so many that what adds up slowly shows. A failure shrinks to few.
pub(super) fn steps(quick: Range<usize>) -> Range<usize> {
    if is_nightly() { 1..4_000 } else { quick }
}
