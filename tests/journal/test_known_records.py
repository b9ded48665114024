from __future__ import annotations

from llm_gateway.journal.known_records import MOST_KNOWN, KnownRecords
from tests.journal.samples import record, request_id


def test_a_known_record_is_taken_once() -> None:
    known = KnownRecords()
    settled = record(1)
    known.remember(settled)

    assert known.pop(request_id(1), None) is settled
    assert known.pop(request_id(1), None) is None


def test_the_number_of_known_records_is_bounded() -> None:
    known = KnownRecords()
    for number in range(MOST_KNOWN):
        known.remember(record(number))
    assert len(known) == MOST_KNOWN

    known.remember(record(MOST_KNOWN))

    assert list(known) == [request_id(MOST_KNOWN)]
