"""Cost of a call (tiers, kinds of tokens, contradictory counts, rounding), sums of usage, encoding of records."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.usage import (
    FREE,
    NANOS_PER_USD,
    RECORD_VERSION,
    AttemptRecord,
    Price,
    Tier,
    Usage,
    UsageRecord,
    add_usage,
    cost,
    dearest_cost,
    decode_attempt,
    decode_record,
    encode_record,
    plain_cost,
)
from tests.examples import examples

M = 1_000_000
WHOLE = Price(
    input=((0, 2 * M),),
    output=((0, 3 * M),),
    cache_read=((0, 5 * M),),
    cache_write=((0, 7 * M),),
    cache_write_1h=((0, 11 * M),),
    reasoning=((0, 13 * M),),
    audio_input=((0, 17 * M),),
    audio_output=((0, 19 * M),),
)
PLAIN = Price(input=((0, 2 * M),), output=((0, 3 * M),))


def without(*kinds: str) -> Price:
    return msgspec.structs.replace(WHOLE, **dict.fromkeys(kinds, ()))


def usage(input: int = 0, output: int = 0, **kinds: int) -> Usage:  # noqa: A002 -- the kind's name
    return Usage(input_tokens=input, output_tokens=output, **{f"{kind}_tokens": n for kind, n in kinds.items()})


def test_prices_per_million_tokens_give_costs_in_nano_dollars() -> None:
    assert NANOS_PER_USD == 1_000_000_000
    usd_3_per_million = 3 * NANOS_PER_USD
    assert cost(Price(((0, usd_3_per_million),), ((0, 0),)), usage(1_000_000)) == 3 * NANOS_PER_USD
    assert cost(Price(((0, usd_3_per_million),), ((0, 0),)), usage(1)) == 3000


def test_a_call_without_tokens_costs_nothing() -> None:
    assert cost(WHOLE, Usage()) == 0


def test_any_usage_costs_nothing_at_the_free_price() -> None:
    assert cost(FREE, usage(10**9, 10**9, cache_read=5, reasoning=7)) == 0


@pytest.mark.parametrize(
    ("counts", "nanos"),
    [
        (usage(10), 20),
        (usage(0, 10), 30),
        (usage(10, 10), 50),
        (usage(10, cache_read=1), 9 * 2 + 5),
        (usage(10, cache_read=10), 50),
        (usage(10, cache_write=1), 9 * 2 + 7),
        (usage(10, cache_write=10), 70),
        (usage(10, cache_write=4, cache_write_1h=1), 6 * 2 + 3 * 7 + 11),
        (usage(10, cache_write=4, cache_write_1h=4), 6 * 2 + 4 * 11),
        (usage(10, audio_input=1), 9 * 2 + 17),
        (usage(10, audio_input=10), 170),
        (usage(10, cache_read=1, cache_write=4, cache_write_1h=1, audio_input=2), 3 * 2 + 5 + 3 * 7 + 11 + 2 * 17),
        (usage(0, 10, reasoning=1), 9 * 3 + 13),
        (usage(0, 10, reasoning=10), 130),
        (usage(0, 10, audio_output=1), 9 * 3 + 19),
        (usage(0, 10, reasoning=4, audio_output=6), 4 * 13 + 6 * 19),
        (usage(10, 10, reasoning=4, audio_output=5, cache_read=3), 7 * 2 + 3 * 5 + 1 * 3 + 4 * 13 + 5 * 19),
    ],
)
def test_tokens_of_a_kind_with_a_price_are_subtracted_from_its_parent(counts: Usage, nanos: int) -> None:
    assert cost(WHOLE, counts) == nanos


@pytest.mark.parametrize(
    ("price", "counts", "nanos"),
    [
        (PLAIN, usage(10, 10, cache_read=3, cache_write=2, cache_write_1h=1, audio_input=1, reasoning=3), 50),
        (PLAIN, usage(10, 10, audio_output=4), 50),
        (without("cache_read"), usage(10, cache_read=4, cache_write=1), 9 * 2 + 7),
        (without("cache_write_1h"), usage(10, cache_write=4, cache_write_1h=3), 6 * 2 + 4 * 7),
        (without("cache_write"), usage(10, cache_write=4, cache_write_1h=3), 7 * 2 + 3 * 11),
        (without("cache_write"), usage(10, cache_write=4), 20),
        (without("cache_write", "cache_write_1h"), usage(10, cache_write=4, cache_write_1h=3), 20),
        (without("audio_input"), usage(10, audio_input=4, cache_read=1), 9 * 2 + 5),
        (without("reasoning"), usage(0, 10, reasoning=4, audio_output=1), 9 * 3 + 19),
        (without("audio_output"), usage(0, 10, reasoning=4, audio_output=1), 6 * 3 + 4 * 13),
    ],
)
def test_a_kind_without_a_price_costs_what_its_parent_costs(price: Price, counts: Usage, nanos: int) -> None:
    assert cost(price, counts) == nanos


@pytest.mark.parametrize(
    ("counts", "nanos"),
    [
        (usage(10, cache_read=11), 50),
        (usage(0, cache_read=11, cache_write=4, audio_input=3), 0),
        (usage(10, cache_read=8, cache_write=5), 8 * 5 + 2 * 7),
        (usage(10, cache_read=8, cache_write=5, cache_write_1h=1), 8 * 5 + 11 + 7),
        (usage(10, cache_write=2, cache_write_1h=3), 8 * 2 + 2 * 11),
        (usage(10, cache_write_1h=3), 20),
        (usage(10, cache_write=9, audio_input=5), 9 * 7 + 17),
        (usage(10, cache_read=10, cache_write=1, cache_write_1h=1, audio_input=1), 50),
        (usage(0, 10, reasoning=11, audio_output=4), 130),
        (usage(0, 10, reasoning=8, audio_output=4), 8 * 13 + 2 * 19),
        (usage(0, 0, reasoning=8, audio_output=4), 0),
        (usage(-1, -1), 0),
        (usage(-5, 10, cache_read=3), 30),
        (usage(10, -5, reasoning=3), 20),
        (usage(10, 10, cache_read=-1, cache_write=-2, cache_write_1h=-3, audio_input=-4), 50),
        (usage(10, 10, reasoning=-1, audio_output=-1), 50),
        (usage(10, cache_write=4, cache_write_1h=-1), 6 * 2 + 4 * 7),
    ],
)
def test_counts_that_contradict_each_other_are_capped_at_their_parent(counts: Usage, nanos: int) -> None:
    assert cost(WHOLE, counts) == nanos


TIERED = Price(
    input=((0, 1 * M), (100, 2 * M), (200, 4 * M)),
    output=((0, 10 * M), (100, 20 * M), (200, 40 * M)),
    cache_read=((0, 3 * M), (150, 5 * M)),
    reasoning=((0, 7 * M), (150, 9 * M)),
)


@pytest.mark.parametrize(
    ("tokens", "input_price", "output_price"),
    [(0, 1, 10), (1, 1, 10), (100, 1, 10), (101, 2, 20), (200, 2, 20), (201, 4, 40), (10_000, 4, 40)],
)
def test_a_tier_applies_to_all_tokens_if_the_input_exceeds_its_threshold(
    tokens: int, input_price: int, output_price: int
) -> None:
    assert cost(TIERED, usage(tokens, 1)) == tokens * input_price + output_price


def test_the_total_input_selects_the_tier_of_every_kind() -> None:
    assert cost(TIERED, usage(150, 10, cache_read=100, reasoning=4)) == 50 * 2 + 100 * 3 + 6 * 20 + 4 * 7
    assert cost(TIERED, usage(151, 10, cache_read=100, reasoning=4)) == 51 * 2 + 100 * 5 + 6 * 20 + 4 * 9
    assert cost(TIERED, usage(50, 1000)) == 50 + 10_000


def test_the_first_tier_applies_below_every_threshold() -> None:
    assert cost(Price(((1000, 5 * M),), ((1000, 7 * M), (2000, 9 * M))), usage(10, 1)) == 57


@pytest.mark.parametrize(
    ("price", "tokens", "nanos"),
    [
        (499_999, 1, 0),
        (500_000, 1, 1),
        (500_001, 1, 1),
        (250_000, 2, 1),
        (1_499_999, 1, 1),
        (1_500_000, 1, 2),
        (1, 1, 0),
    ],
)
def test_a_cost_is_rounded_half_up(price: int, tokens: int, nanos: int) -> None:
    assert cost(Price(((0, price),), ((0, 0),)), usage(tokens)) == nanos
    assert cost(Price(((0, 0),), ((0, price),)), usage(0, tokens)) == nanos


def test_a_cost_is_rounded_once_over_all_kinds() -> None:
    third = ((0, 333_333),)
    price = Price(third, third, third, third, third, third, third, third)
    counts = usage(4, 3, cache_read=1, cache_write=2, cache_write_1h=1, audio_input=1, reasoning=1, audio_output=1)
    assert cost(price, counts) == 2
    assert cost(Price(((0, 300_000),), ((0, 200_000),)), usage(1, 1)) == 1


def test_costs_of_very_large_counts_are_exact() -> None:
    assert cost(Price(((0, 10**15),), ((0, 10**15),)), usage(10**12, 10**12)) == 2 * 10**21


tiers = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10**10)), min_size=1, max_size=3).map(
    lambda rows: ((0, rows[0][1]), *sorted(rows[1:]))
)
some_tiers = st.one_of(st.just(()), tiers)
prices = st.builds(Price, tiers, tiers, some_tiers, some_tiers, some_tiers, some_tiers, some_tiers, some_tiers)
counts = st.builds(
    Usage,
    **{name: st.one_of(st.integers(-3, 80), st.integers(0, 10**6), st.just(0)) for name in Usage.__struct_fields__},
)


def exactly(price: Price, usage: Usage) -> Fraction:
    """Compute the cost with exact fractions: a slow, independent implementation of the same rule."""

    def at(tiers: tuple[Tier, ...]) -> Fraction:
        above = [nanos for start, nanos in tiers[1:] if usage.input_tokens > start]
        return Fraction((above or [tiers[0][1]])[-1], NANOS_PER_USD * M)

    left = {"input": max(0, usage.input_tokens), "output": max(0, usage.output_tokens)}
    writes = min(max(0, usage.cache_write_tokens), left["input"] - min(max(0, usage.cache_read_tokens), left["input"]))
    if not price.cache_read:
        writes = min(max(0, usage.cache_write_tokens), left["input"])
    writes_1h = min(max(0, usage.cache_write_1h_tokens), writes) if price.cache_write_1h else 0
    sum_ = Fraction(0)
    for kind, parent, count in [
        ("cache_read", "input", usage.cache_read_tokens),
        ("cache_write_1h", "input", writes_1h),
        ("cache_write", "input", writes - writes_1h),
        ("audio_input", "input", usage.audio_input_tokens),
        ("reasoning", "output", usage.reasoning_tokens),
        ("audio_output", "output", usage.audio_output_tokens),
    ]:
        if getattr(price, kind):
            charged = min(max(0, count), left[parent])
            left[parent] -= charged
            sum_ += charged * at(getattr(price, kind))
    return sum_ + left["input"] * at(price.input) + left["output"] * at(price.output)


@examples(5)
@given(prices, counts)
def test_the_cost_is_the_exact_sum_rounded_half_up(price: Price, usage: Usage) -> None:
    assert cost(price, usage) == floor(exactly(price, usage) * NANOS_PER_USD + Fraction(1, 2))


@examples(4)
@given(prices, counts)
def test_the_cost_is_at_most_the_totals_at_the_highest_price(price: Price, usage: Usage) -> None:
    highest = max(nanos for kind in Price.__struct_fields__ for _, nanos in getattr(price, kind))
    tokens = max(0, usage.input_tokens) + max(0, usage.output_tokens)
    assert 0 <= cost(price, usage) <= (tokens * highest + 500_000) // M


@given(prices, st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_the_short_ways_to_costs_agree_with_the_long_one(price: Price, inputs: int, outputs: int, cached: int) -> None:
    assert plain_cost(price, inputs, outputs) == cost(price, usage(inputs, outputs))
    dearest = dearest_cost(price, inputs, outputs)
    assert dearest >= plain_cost(price, inputs, outputs)
    assert dearest >= cost(price, usage(inputs, outputs, cache_write=cached))
    assert dearest >= cost(price, usage(inputs, outputs, cache_write=cached, cache_write_1h=cached))
    assert dearest >= cost(price, usage(inputs, outputs, cache_write=cached, reasoning=cached))
    with_audio = dearest_cost(price, inputs, outputs, has_audio=True)
    assert with_audio >= dearest
    assert with_audio >= cost(price, usage(inputs, outputs, audio_input=cached, reasoning=cached))
    assert with_audio >= cost(price, usage(inputs, outputs, cache_write=cached, audio_output=cached))


@given(counts, counts)
def test_add_usage_adds_kind_by_kind(a: Usage, b: Usage) -> None:
    assert msgspec.structs.astuple(add_usage(a, b)) == tuple(
        map(sum, zip(msgspec.structs.astuple(a), msgspec.structs.astuple(b), strict=True))
    )


def test_records_are_the_same_after_encoding_and_decoding() -> None:
    attempt = AttemptRecord(
        id="a",
        provider_id="p",
        provider="openai",
        kind="openai",
        model="m",
        started_ms=5,
        price=TIERED,
        usage=usage(3, 4),
    )
    record = UsageRecord(
        id="r",
        at_ms=1,
        instance="i",
        key_name="k",
        user_id="u",
        service="s",
        task_type="t",
        surface="generate",
        version=RECORD_VERSION,
        tags={"team": "ä"},
        attempts=[attempt],
    )
    assert decode_record(encode_record(record)) == record
    assert decode_attempt(encode_record(attempt)) == attempt
    for decode in (decode_record, decode_attempt):
        with pytest.raises(msgspec.DecodeError):
            decode(b'{"id": 7}')
        with pytest.raises(msgspec.DecodeError):
            decode(b"torn")
