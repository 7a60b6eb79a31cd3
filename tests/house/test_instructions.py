"""No way to borrow takes more instructions than is recorded in benches/ratios.json."""

from __future__ import annotations

import pytest

from benches.instructions import NotCountedError, least, ratios, recorded, worse
from benches.ways import BOUND, OUR_PAIR, WAYS


def test_no_way_to_borrow_takes_more_instructions_than_is_recorded(dsn: str) -> None:
    try:
        record = recorded()
        counts = least(dsn, record)
    except NotCountedError as error:
        pytest.skip(f"instructions were not counted: {error}")
    found = worse(counts, record)
    if found:
        text = "`python -m benches.instructions` has the table; with --record, it records what is now"
        pytest.fail("\n".join([*found, text]), pytrace=False)


def test_a_way_that_is_two_per_cent_above_its_record_or_has_none_is_named() -> None:
    counts = {way.name: 1_000.0 for way in WAYS} | {BOUND: 100.0}
    record = ratios(counts)
    assert not worse(counts | {OUR_PAIR: 1_020.0}, record)
    (above,) = worse(counts | {OUR_PAIR: 1_021.0}, record)
    assert above.startswith(OUR_PAIR)
    (unrecorded,) = worse(counts, {name: ratio for name, ratio in record.items() if name != OUR_PAIR})
    assert unrecorded.startswith(OUR_PAIR)
