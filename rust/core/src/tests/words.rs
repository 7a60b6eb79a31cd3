//! Texts and numbers: refusals, reasons, automatic numbers, spans.

use std::collections::HashSet;
use std::hash::Hasher;

use super::props::{World, seconds};
use crate::table::AddressHasher;
use crate::time::Span;
use crate::{CloseReason, Refusal};

#[test]
fn a_refusal_that_psycopg2_knows_too_is_put_in_its_words_and_one_of_our_own_says_what_is_wrong_with_the_key() {
    let said = |refusal: Refusal| refusal.to_string();
    assert_eq!(said(Refusal::Closed), "connection pool is closed");
    assert_eq!(said(Refusal::Exhausted), "connection pool exhausted");
    assert_eq!(said(Refusal::Unkeyed), "trying to put unkeyed connection");
    assert!(said(Refusal::WrongKey).contains("lent under another key"));
    assert!(said(Refusal::Reentrant).contains("this very call is opening"));
}

#[test]
fn every_reason_has_its_own_name_and_its_own_text() {
    let (names, texts): (HashSet<_>, HashSet<_>) =
        CloseReason::ALL.into_iter().map(|reason| (reason.name(), reason.text())).unzip();
    assert_eq!((names.len(), texts.len()), (CloseReason::ALL.len(), CloseReason::ALL.len()));
    // As keys of a dict, and as labels of a metric.
    assert!(names.iter().all(|name| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')));
}

#[test]
fn a_reason_is_told_by_its_name_in_statistics_and_by_its_text_in_the_log() {
    assert_eq!((CloseReason::Lost.name(), CloseReason::Lost.text()), ("lost", "it was found dead"));
    assert_eq!(
        (CloseReason::ByBorrower.name(), CloseReason::ByBorrower.text()),
        ("by_borrower", "its borrower closed it")
    );
}

#[test]
fn milliseconds_are_thousandths_of_a_second_and_are_counted_whole() {
    assert_eq!(Span::from_millis(250), seconds(0.25));
    assert_eq!((seconds(0.25).as_millis(), seconds(1.9999).as_millis(), Span::ZERO.as_millis()), (250, 1999, 0));
}

#[test]
fn automatic_numbers_go_on_from_the_one_that_was_set() {
    let world = World::new(0, 2);
    world.ledger.set_last_number(41);
    assert_eq!((world.ledger.next_number(), world.ledger.last_number()), (42, 42));
}

#[test]
fn a_slot_holds_its_connection_until_it_is_discarded() {
    let world = World::new(1, 1);
    let holds = || world.ledger.holds(1);
    assert!(!holds());
    world.open([1]);
    assert!(holds(), "it is lent");
    let mut returning = world.begin_return(1).expect("it is lent");
    assert!(holds(), "it is being returned");
    assert!(returning.keep(world.now()));
    drop(returning);
    assert!(holds(), "it is idle");
    drop(world.ledger.drain(0));
    assert!(!holds());
}

#[test]
fn the_collector_sees_what_was_noted_of_a_loan_and_finds_nothing_where_a_connection_is_yet_to_be_opened() {
    let world = World::new(0, 2).lending([1]);
    world.ledger.annotate(world.loan(1), world.thing(7));
    let _opening = world.reserve();
    let mut seen = Vec::new();
    world.ledger.try_visit(|thing| seen.push(thing.name));
    assert_eq!(seen, [1, 7]);
}

#[test]
fn the_collector_visits_nothing_while_the_ledger_is_edited_and_does_not_wait() {
    let world = World::new(0, 1).lending([1]);
    let mut seen = 0;
    world.ledger.edit(|_ledger| world.ledger.try_visit(|_| seen += 1));
    assert_eq!(seen, 0);
}

#[test]
fn addresses_are_spread_by_every_byte_of_them_however_they_are_told() {
    let spread = |told: &[u8]| {
        let mut hasher = AddressHasher::default();
        hasher.write(told);
        hasher.finish()
    };
    let addresses = (0..8_usize).flat_map(|byte| (1..=255_u8).map(move |value| (byte, value)));
    let hashes: HashSet<u64> = addresses
        .map(|(byte, value)| {
            let mut told = [0; 8];
            told[byte] = value;
            spread(&told)
        })
        .collect();
    assert_eq!(hashes.len(), 8 * 255);
}
