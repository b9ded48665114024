"""Comparison with genai-prices: every model name it knows has the same price in the converted lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import msgspec
import pytest
from genai_prices import types
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.public_prices import SEARCHING, PricedModel, PublicPrices
from llm_gateway.domain.usage import Price
from llm_gateway.providers import prices
from llm_gateway.providers.price_lookup import PriceLookup
from llm_gateway.providers.prices import PriceList
from tests.examples import examples

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
PRESETS = (None, *prices.GENAI_PROVIDERS)
ENDINGS = ("-2025-12-11", "-20251211", "-20251399", "-latest", ":free")


@pytest.fixture(scope="module")
def price_list() -> PriceList:
    return PriceList(NOW.timestamp, max_names=1_000_000)


@pytest.fixture(scope="module")
def theirs() -> DataSnapshot:
    """Return a separate snapshot of genai-prices, since it caches every name."""
    return DataSnapshot(providers=get_snapshot().providers, from_auto_update=False)


def price_by_genai_prices(theirs: DataSnapshot, preset: str | None, name: str) -> Price | None:
    if SEARCHING.search(name):
        return None
    try:
        _, model = theirs.find_provider_model(name, None, prices.GENAI_PROVIDERS[preset] if preset else None, None)
    except LookupError:
        return None
    return prices._from_genai(model.get_prices(NOW))


def texts(clause: types.MatchLogic) -> Iterator[str]:
    """Yield names made of a clause's text: one that matches, and one that need not match."""
    match clause:
        case types.ClauseEquals(equals=text):
            yield text
        case types.ClauseStartsWith(starts_with=text):
            yield from (text, f"{text}-x", f"x-{text}")
        case types.ClauseEndsWith(ends_with=text):
            yield from (text, f"x-{text}", f"{text}-x")
        case types.ClauseContains(contains=text):
            yield from (text, f"x-{text}-y")
        case types.ClauseOr(or_=clauses) | types.ClauseAnd(and_=clauses):
            for part in clauses:
                yield from texts(part)
            yield "".join(text for part in clauses for text in list(texts(part))[:1])


def names_of(provider: types.Provider) -> Iterator[str]:
    for number, model in enumerate(provider.models):
        yield model.id
        if number % (1 + len(provider.models) // 120):  # a sample of very long lists
            continue
        yield f"{model.id.upper()}{ENDINGS[len(model.id) % len(ENDINGS)]}"
        yield f"{provider.id}/{model.id}"
        yield from texts(model.match)


def sellers(preset: str | None) -> list[types.Provider]:
    """Return the vendors whose lists are searched for names of the preset."""
    listed = {provider.id: provider for provider in get_snapshot().providers}
    if preset is None:
        return [provider for provider in listed.values() if provider.id != "openrouter"]
    vendor = listed[prices.GENAI_PROVIDERS[preset]]
    return [vendor, *(listed[name] for name in vendor.fallback_model_providers or [])]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_name_of_a_vendors_list_has_the_price_that_genai_prices_returns(
    price_list: PriceList, theirs: DataSnapshot, preset: str | None
) -> None:
    names = {name for provider in sellers(preset) for name in names_of(provider)}
    expected = {name: price_by_genai_prices(theirs, preset, name) for name in names}

    assert {name: price_list.find(preset, name) for name in names} == expected
    assert any(price is not None for price in expected.values()) or preset == "perplexity"
    assert len(names) > 20


@examples(0.25)
@given(st.data())
def test_a_name_that_matches_a_regular_expression_has_the_price_that_genai_prices_returns(
    price_list: PriceList, theirs: DataSnapshot, data: st.DataObject
) -> None:
    patterns = [rule for provider in get_snapshot().providers for model in provider.models for rule in regexes(model)]
    name = data.draw(st.from_regex(data.draw(st.sampled_from(patterns)), alphabet=st.characters(codec="ascii")))
    preset = data.draw(st.sampled_from(PRESETS))

    assert len(patterns) > 50
    assert price_list.find(preset, name[:256]) == price_by_genai_prices(theirs, preset, name[:256])


def regexes(model: types.ModelInfo) -> Iterator[str]:
    waiting: list[object] = [model.match]
    while waiting:
        match waiting.pop():
            case types.ClauseRegex(regex=pattern):
                yield pattern
            case types.ClauseOr(or_=clauses) | types.ClauseAnd(and_=clauses):
                waiting += clauses


def test_every_clause_of_the_lists_is_converted() -> None:
    for provider in get_snapshot().providers:
        for clause in (*(model.match for model in provider.models), *filter(None, [provider.model_match])):
            assert "Rule(how='any', text='', parts=())" not in repr(prices._rule(clause))
    assert prices._rule(object()) == prices._rule(types.ClauseOr(or_=[])), "what is not understood matches nothing"


TIMES = st.times(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=-5, minutes=30))))
DAYS = st.dates(date(2026, 6, 28), date(2026, 7, 4))
CONSTRAINTS = (
    st.none()
    | st.builds(types.StartDateConstraint, DAYS)
    | st.builds(types.TimeOfDateConstraint, start_time=TIMES, end_time=TIMES)
)


@given(st.lists(CONSTRAINTS, min_size=1, max_size=4), st.integers(-4 * 86_400, 4 * 86_400))
def test_the_price_valid_at_a_time_is_the_one_that_genai_prices_returns(
    constraints: list[types.StartDateConstraint | types.TimeOfDateConstraint | None], seconds: int
) -> None:
    at = NOW + timedelta(seconds=seconds)
    timed = [
        types.ConditionalPrice(constraint, prices=types.ModelPrice(input_mtok=Decimal(n)))
        for n, constraint in enumerate(constraints)
    ]
    model = types.ModelInfo("m", types.ClauseEquals("m"), prices=timed)

    ours = PricedModel(prices._rule(model.match), prices._timed(model)).price_at(at.timestamp())

    assert ours == prices._from_genai(model.get_prices(at))


def test_lists_are_the_same_after_encoding_and_decoding(price_list: PriceList) -> None:
    for preset in PRESETS:
        price_list.vendor_of(preset)
    sent = msgspec.msgpack.encode(price_list.public)

    assert msgspec.msgpack.decode(sent, type=PublicPrices) == price_list.public
    assert len(sent) < 300_000


def test_a_vendors_list_is_converted_once_for_all_its_providers() -> None:
    price_list = PriceList(NOW.timestamp)
    assert (price_list.vendor_of("openai"), price_list.vendor_of("ollama")) == ("openai", None)
    openai = price_list.public
    assert (price_list.vendor_of("openai"), price_list.public) == ("openai", openai)
    assert price_list.public is openai
    assert list(openai.vendors) == ["openai"]
    assert (price_list.vendor_of(None), price_list.vendor_of("gemini")) == ("*", "google")
    assert price_list.public.vendors["openai"] is openai.vendors["openai"]


def test_new_lists_are_used_at_once() -> None:
    lists = [PublicPrices()]
    lookup = PriceLookup(lambda: lists[-1], NOW.timestamp)
    assert lookup.find("openai", "gpt-4o-mini") is None
    openai = PriceList()
    openai.vendor_of("openai")
    lists.append(openai.public)
    assert lookup.find("openai", "gpt-4o-mini") == openai.find("openai", "gpt-4o-mini") is not None
