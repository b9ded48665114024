from __future__ import annotations

from llm_gateway.domain.usage import RECORD_VERSION, CostStatus, Usage, UsageRecord, encode_record
from llm_gateway.journal.frames import Entry, Kind
from llm_gateway.journal.record_assembler import LOST, RecordAssembler
from llm_gateway.journal.segments import Position
from tests.journal.samples import attempt, intent, record, request_id, settled


class Folded:
    """An assembler and the entries that it could not decode."""

    def __init__(self) -> None:
        self.undecodable: list[tuple[str, str]] = []
        self.assembler = RecordAssembler(
            "writer", lambda entry, reason: self.undecodable.append((entry.request_id, reason))
        )

    def add(self, kind: Kind, number: int, payload: bytes, at: Position = Position(1, 0)) -> UsageRecord | None:  # noqa: B008
        entry = Entry(kind, request_id(number), payload, at.offset, at.offset + 1)
        return next(iter(self.assembler.add(at.segment, [entry])), None)


def test_a_settle_returns_the_record_and_closes_its_request() -> None:
    folded = Folded()

    assert folded.add("I", 1, intent(1)) is None
    assert len(folded.assembler) == 1
    assert folded.add("S", 1, settled(1)) == record(1, outcome="ok", status=200)
    assert len(folded.assembler) == 0
    assert folded.assembler.abandon() == []


def test_a_settle_without_an_intent_returns_the_record() -> None:
    assert Folded().add("S", 1, settled(1)) == record(1, outcome="ok", status=200)


def test_an_attempt_without_an_outcome_costs_the_upper_bound_of_its_intent() -> None:
    folded = Folded()
    folded.add("I", 1, encode_record(record(1, attempt("a"), status=502, latency_ms=7)))

    [abandoned] = folded.assembler.abandon()

    assert abandoned == record(
        1,
        attempt("a"),
        outcome="cancelled",
        error_code="gateway_crashed",
        status=0,
        latency_ms=0,
        provider="provider-a",
        model="model-a",
        usage=Usage(input_tokens=10, output_tokens=100),
        cost_nanos=210_000,
        cost_status="estimated",
    )
    assert abandoned.attempts[0].sent
    assert len(folded.assembler) == 0


def test_outcomes_replace_their_intents_and_attempts_are_summed() -> None:
    folded = Folded()
    first = attempt("a", cost_status="exact", output_tokens=3)
    folded.add("I", 1, intent(1, "a"))
    folded.add("O", 1, encode_record(first))
    folded.add("I", 1, intent(1, "b"))

    [abandoned] = folded.assembler.abandon()

    assert abandoned.attempts == [first, attempt("b")]
    assert abandoned.usage == Usage(input_tokens=20, output_tokens=103)
    assert abandoned.cost_nanos == 16_000 + 210_000
    assert (abandoned.provider, abandoned.model) == ("provider-b", "model-b")
    assert abandoned.cost_status == "estimated"


def test_the_cost_status_is_that_of_the_least_certain_attempt() -> None:
    def together(*statuses: CostStatus) -> CostStatus:
        folded = Folded()
        for status in statuses:
            folded.add("I", 1, encode_record(record(1, attempt(f"{status}", cost_status=status))))
        return folded.assembler.abandon()[0].cost_status

    assert together("exact") == "exact"
    assert together("exact", "estimated") == "estimated"
    assert together("estimated", "exact") == "estimated"
    assert together("unpriced", "estimated", "exact") == "unpriced"
    assert together("exact", "unpriced") == "unpriced"


def test_entries_that_come_twice_count_once() -> None:
    folded = Folded()
    outcome = attempt("a", cost_status="exact", output_tokens=1)
    for _ in range(2):
        folded.add("I", 1, intent(1, "a"))
        folded.add("O", 1, encode_record(outcome))

    [abandoned] = folded.assembler.abandon()

    assert abandoned.attempts == [outcome]
    assert abandoned.cost_nanos == 12_000


def test_a_request_whose_intent_is_damaged_keeps_its_cost() -> None:
    folded = Folded()
    outcome = attempt("a", cost_status="exact", output_tokens=1)

    assert folded.add("O", 1, encode_record(outcome), Position(2, 7)) is None
    assert folded.assembler.restart(Position(9, 9)) == Position(2, 7)
    [abandoned] = folded.assembler.abandon()

    assert abandoned == UsageRecord(
        id=request_id(1),
        at_ms=outcome.started_ms,
        instance="writer",
        key_name=LOST,
        user_id=LOST,
        service=LOST,
        task_type=LOST,
        surface=LOST,
        version=RECORD_VERSION,
        outcome="cancelled",
        error_code="gateway_crashed",
        provider="provider-a",
        model="model-a",
        usage=outcome.usage,
        cost_nanos=12_000,
        attempts=[outcome],
    )
    assert folded.undecodable == []


def test_an_outcome_before_the_first_readable_intent_counts() -> None:
    folded = Folded()
    first = attempt("a", cost_status="exact", output_tokens=1)
    folded.add("O", 1, encode_record(first))
    folded.add("I", 1, intent(1, "b"))

    [abandoned] = folded.assembler.abandon()

    assert abandoned.attempts == [first, attempt("b")]
    assert abandoned.user_id == "customer"


def test_a_settle_closes_a_request_opened_by_an_outcome() -> None:
    folded = Folded()
    folded.add("O", 1, encode_record(attempt("a")))

    assert folded.add("S", 1, settled(1)) == record(1, outcome="ok", status=200)
    assert folded.assembler.abandon() == []


def test_a_request_without_a_readable_entry_gives_no_record() -> None:
    folded = Folded()
    folded.add("O", 1, b"{}")

    assert folded.assembler.abandon() == []
    assert [number for number, _ in folded.undecodable] == [request_id(1)]


def test_reading_starts_again_at_the_oldest_open_request() -> None:
    folded, read = Folded(), Position(9, 9)
    assert folded.assembler.restart(read) == read

    folded.add("I", 1, intent(1), Position(1, 100))
    folded.add("I", 2, intent(2), Position(1, 200))
    folded.add("O", 1, encode_record(attempt("a")), Position(3, 5))
    assert folded.assembler.restart(read) == Position(1, 100)
    assert folded.assembler.segments() == {1, 3}

    folded.add("S", 1, settled(1), Position(3, 50))
    assert folded.assembler.restart(read) == Position(1, 200)
    assert folded.assembler.segments() == {1}


def test_an_undecodable_entry_is_reported_and_the_rest_is_assembled() -> None:
    folded = Folded()
    folded.add("I", 1, b"{}")
    folded.add("I", 2, intent(2, "a"))
    folded.add("I", 2, b"no JSON")
    folded.add("O", 2, b"{}")

    assert folded.add("S", 3, b"{}") is None
    assert [abandoned.id for abandoned in folded.assembler.abandon()] == [request_id(2)]
    assert [number for number, _ in folded.undecodable] == [request_id(n) for n in (3, 1, 2, 2)]
    assert folded.undecodable[0][1] == "Object missing required field `id`"


def test_a_payload_that_is_not_utf_8_is_reported() -> None:
    folded = Folded()

    assert folded.add("S", 1, b'{"id": "\xff"}') is None
    assert [number for number, _ in folded.undecodable] == [request_id(1)]
