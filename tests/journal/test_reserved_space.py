from __future__ import annotations

import pytest

from llm_gateway.domain.usage import AttemptRecord, Price, Tier, Usage, UsageRecord, encode_record
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.journal.frames import FRAME_BYTES, Kind, encode_frame
from llm_gateway.journal.reserved_space import (
    ERROR_CHARACTERS,
    NAME_CHARACTERS,
    UNBILLED_BYTES,
    ReservedSpace,
    UnbilledBuffer,
    promised_bytes,
)

WORST = "\x01"
"""A character that JSON writes as six bytes."""
MOST = 10**9
LONG = 2**53


def worst_usage() -> Usage:
    return Usage(**dict.fromkeys(Usage.__struct_fields__, MOST))


def worst_price() -> Price:
    tiers: tuple[Tier, ...] = tuple((10**7 + n, 10**13) for n in range(3))
    return Price(**dict.fromkeys(Price.__struct_fields__, tiers))


def worst_intent(number: int, *, label: str) -> AttemptRecord:
    return AttemptRecord(
        id=new_id(),
        provider_id=new_id(),
        provider="p" * 63,
        kind="anthropic",
        model=f"{number}" * 200,
        started_ms=1_700_000_000_000,
        reserved_tokens=1,
        limit_tokens=1,
        usage=Usage(input_tokens=1, output_tokens=1),
        cost_status="exact",
    )


def end(attempt: AttemptRecord, text: str) -> None:
    """End the attempt with the longest values that it can record."""
    attempt.upstream_model = attempt.upstream_request_id = attempt.finish_reason = text * NAME_CHARACTERS
    attempt.error = text * ERROR_CHARACTERS
    attempt.sent, attempt.status = False, 599
    attempt.usage, attempt.price, attempt.cost_status = worst_usage(), worst_price(), "estimated"
    attempt.service_tier, attempt.units = text * 32, {f"{n}" + text * 31: LONG for n in range(8)}
    attempt.limit_tokens = attempt.cost_nanos = attempt.latency_ms = LONG


@pytest.mark.parametrize("attempts", [1, 3, 9])
@pytest.mark.parametrize("label", ["x", WORST * 256], ids=["short", "long"])
@pytest.mark.parametrize("text", [WORST, "\N{FULL MOON SYMBOL}"], ids=["control", "moon"])
def test_no_request_writes_more_bytes_than_were_promised(attempts: int, label: str, text: str) -> None:
    record = UsageRecord(
        id=new_id(),
        at_ms=1_700_000_000_000,
        instance=new_id(),
        key_name="k",
        user_id=label,
        service=label,
        task_type=label,
        surface="generate",
    )

    def size(kind: Kind, what: AttemptRecord | UsageRecord) -> int:
        return len(encode_frame(kind, record.id, encode_record(what)))

    promised = written = 0
    kept: list[AttemptRecord] = []
    for number in range(attempts):
        attempt = worst_intent(number, label=label)
        record.attempts = [attempt]
        promised += promised_bytes(size("I", record))
        end(attempt, text)
        written += size("O", attempt)
        kept.append(attempt)
    record.attempts = kept
    record.outcome, record.status, record.error_code = "no_provider", 599, "journal_unavailable"
    record.cache, record.provider, record.model = "bypass", kept[-1].provider, kept[-1].model
    record.usage, record.cost_status = worst_usage(), "estimated"
    record.cost_nanos = record.latency_ms = record.first_token_ms = LONG
    written += size("S", record)

    assert written <= promised
    if (label, text) == ("x", WORST):
        assert promised < 1.2 * written  # the bound is tight: little more is reserved than can be needed


def test_promised_bytes_stay_reserved_until_the_request_ends() -> None:
    space = ReservedSpace(100)
    assert (len(space), space.bytes_with(0), space.bytes_with(100), space.bytes_with(101)) == (0, 100, 100, 101)

    space.promise("a", 80)
    space.promise("b", 50)
    space.promise("a", 7)
    assert (len(space), space.bytes_with(3)) == (2, 140)

    assert space.redeem("a")
    assert not space.redeem("a")
    assert (len(space), space.bytes_with(60)) == (1, 110)
    assert not space.redeem("c")
    assert space.redeem("b")
    assert (len(space), space.bytes_with(101)) == (0, 101)


def always_short(_size: int) -> bool:
    return True


def test_the_buffer_of_unbilled_entries_is_bounded() -> None:
    buffer = UnbilledBuffer()
    assert not buffer

    room = UNBILLED_BYTES - 2 * FRAME_BYTES
    assert buffer.exchange(bytes(room - 1), always_short) == []
    assert buffer.exchange(b"xy", always_short) == []
    assert buffer.exchange(b"z", always_short) == []
    assert buffer.exchange(b"z", always_short) == []

    assert buffer
    assert buffer.bytes == UNBILLED_BYTES == 8 * 1024 * 1024
    entries, lost = buffer.take()
    assert ([len(entry) for entry in entries], lost) == ([room - 1, 1], 2)
    assert not buffer
    assert buffer.bytes == 0
    assert buffer.take() == ([], 0)


def test_a_buffer_with_only_lost_entries_counts_as_filled() -> None:
    buffer = UnbilledBuffer()
    assert buffer.exchange(bytes(UNBILLED_BYTES + 1), always_short) == []

    assert buffer
    assert buffer.take() == ([], 1)


def test_the_oldest_entries_leave_the_buffer_for_new_ones_of_as_many_bytes() -> None:
    buffer, entries = UnbilledBuffer(), [b"a" * 10, b"b", b"c", b"d" * 5, b"e" * (FRAME_BYTES + 3), b"f"]
    for entry in entries[:3]:
        assert buffer.exchange(entry, always_short) == []
    assert buffer.exchange(entries[3], lambda _: False) == entries[:1]
    assert buffer.exchange(entries[4], lambda _: False) == entries[1:4], "two are a byte less than the new one"
    assert buffer.exchange(entries[5], lambda size: size > FRAME_BYTES + 1) == [], "there is space for the new one only"
    assert buffer.bytes == sum(FRAME_BYTES + len(entry) for entry in entries[4:])
    assert buffer.take() == (entries[4:], 0)
    assert buffer.exchange(entries[0], lambda _: False) == entries[:1], "nothing waits"
    assert (bool(buffer), buffer.bytes) == (False, 0)
