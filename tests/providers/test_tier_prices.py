"""Prices of service tiers and units: every row has a source, and a price that is not known is never exact."""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.public_prices import ANY_VENDOR
from llm_gateway.domain.usage import FREE, AttemptRecord, Price, Usage, cost
from llm_gateway.providers.prices import GENAI_PROVIDERS, KINDS
from llm_gateway.providers.tier_prices import READ, TIER_FACTORS, UNIT_PRICES, TierFactor, UnitPrice, quote

PRICE = Price(
    input=((0, 2_000_000_000), (1_000, 4_000_000_000)), output=((0, 8_000_000_000),), cache_read=((0, 500_000_000),)
)
USAGE = Usage(input_tokens=100, output_tokens=10, cache_read_tokens=40)


def attempt(**fields: Any) -> AttemptRecord:
    plain: dict[str, Any] = {"id": "a", "provider_id": "p", "provider": "p", "kind": "openai", "started_ms": 0}
    return AttemptRecord(**{**plain, "model": "gpt-5.4", "usage": USAGE, **fields})


@pytest.mark.parametrize("row", [*TIER_FACTORS, *UNIT_PRICES], ids=str)
def test_every_price_has_the_page_of_a_vendor_as_its_source_and_a_day(row: TierFactor | UnitPrice) -> None:
    assert row.source.startswith("https://")
    assert row.vendor in GENAI_PROVIDERS.values()
    assert row.models
    assert all(glob == glob.lower() for glob in row.models)
    assert date.fromisoformat(READ) >= date(2026, 11, 27)


def test_a_tier_multiplies_every_kind_of_token_and_every_range_of_inputs() -> None:
    quoted = quote(PRICE, "openai", attempt(service_tier="priority"))
    assert quoted.is_known
    for kind in KINDS:
        doubled = tuple((start, 2 * nanos) for start, nanos in getattr(PRICE, kind))
        assert getattr(quoted.price, kind) == doubled


@pytest.mark.parametrize(
    ("vendor", "model", "tier", "factor"),
    [
        ("openai", "gpt-5.4", "flex", (1, 2)),
        ("openai", "any-model", "flex", (1, 2)),
        ("openai", "gpt-5.4-mini", "priority", (2, 1)),
        ("openai", "GPT-5.4-2026-03-05", "fast", (2, 1)),
        ("openai", "gpt-4o-2024-05-13", "priority", (7, 4)),
        ("openai", "gpt-4o-2024-08-06", "priority", (17, 10)),
        ("openai", "gpt-5.4-nano", "priority", None),
        ("openai", "gpt-5.4-pro", "priority", None),
        ("openai", "gpt-5.4", "scale", None),
        ("openai", "gpt-5.4", "auto", None),
        ("anthropic", "claude-opus-4-8", "fast", (2, 1)),
        ("anthropic", "claude-opus-4-8", "fast+geo:us", (11, 5)),
        ("anthropic", "claude-sonnet-5", "fast", None),
        ("anthropic", "claude-opus-4-8", "geo:eu", None),
        ("anthropic", "claude-opus-4-8", "priority", None),
        ("google", "gemini-3.5-flash", "provisioned_throughput", None),
        ("groq", "llama-3.3-70b-versatile", "flex", (1, 1)),
        ("openrouter", "openai/gpt-5.4", "flex", None),
        ("mistral", "mistral-large-latest", "priority", None),
        (ANY_VENDOR, "gpt-5.4", "priority", (2, 1)),
        (ANY_VENDOR, "claude-opus-4-8", "geo:us", (11, 10)),
        (ANY_VENDOR, "llama-3.3-70b-versatile", "flex", None),
        (None, "gpt-5.4", "flex", None),
    ],
)
def test_a_tier_has_the_factor_of_its_vendor_and_model(
    vendor: str | None, model: str, tier: str, factor: tuple[int, int] | None
) -> None:
    quoted = quote(PRICE, vendor, attempt(model=model, service_tier=tier))
    assert quoted.is_known is (factor is not None)
    assert quoted.price.output[0][1] == Fraction(*factor or (1, 1)) * PRICE.output[0][1]


def test_the_model_that_the_provider_reported_tells_the_tier_of_an_alias() -> None:
    made = attempt(model="our-best", upstream_model="gpt-5.5-2026-04-23", service_tier="priority")
    assert quote(PRICE, "openai", made).price.output == ((0, 20_000_000_000),)


def test_a_known_part_of_a_tier_counts_though_another_is_not_known() -> None:
    quoted = quote(PRICE, "anthropic", attempt(model="claude-opus-4-8", service_tier="priority+fast"))
    assert (quoted.price.output, quoted.is_known) == (((0, 16_000_000_000),), False)


@pytest.mark.parametrize(
    ("vendor", "model", "units", "nanos", "is_known"),
    [
        ("openai", "gpt-5.4", {"web_search": 3}, 30_000_000, True),
        ("openai", "gpt-4.1", {"web_search": 3}, 75_000_000, False),
        ("openai", "gpt-5.4", {"web_search": 1, "file_search": 2}, 15_000_000, True),
        ("openai", "gpt-5.4", {"web_search": 1, "code_interpreter": 1}, 10_000_000, False),
        ("anthropic", "claude-haiku-4-5", {"web_search": 1}, 10_000_000, True),
        ("google", "gemini-2.0-flash", {"web_search": 9}, 35_000_000, False),
        ("google", "gemini-3.5-flash", {"web_search": 2}, 28_000_000, False),
        ("x-ai", "grok-4.7", {"search_source": 2}, 0, False),
        ("mistral", "mistral-large", {"web_search": 2}, 0, False),
        (None, "m", {"web_search": 2}, 0, False),
    ],
)
def test_units_are_added_to_the_cost_of_tokens(
    vendor: str | None, model: str, units: dict[str, int], nanos: int, is_known: bool
) -> None:
    made = attempt(model=model, units=units)
    quoted = quote(PRICE, vendor, made)
    assert (quoted.price, quoted.units_nanos, quoted.is_known) == (PRICE, nanos, is_known)
    assert quoted.cost_of(made) == (cost(PRICE, USAGE) + nanos, "exact" if is_known else "estimated")


def test_estimated_counts_stay_estimated_at_a_known_price() -> None:
    made = attempt(service_tier="flex", usage_estimated=True)
    assert quote(PRICE, "openai", made).cost_of(made)[1] == "estimated"


def test_what_is_free_is_free_at_every_tier() -> None:
    made = attempt(service_tier="turbo", units={"web_search": 2})
    assert quote(FREE, None, made).cost_of(made) == (0, "exact")


@given(st.integers(0, 10**15), st.sampled_from(TIER_FACTORS))
def test_a_price_at_a_tier_is_rounded_to_the_nearest_nano_dollar(nanos: int, row: TierFactor) -> None:
    model = row.models[-1].replace("*", "x").replace("-20x", "-2026")
    price = Price(input=((0, nanos),), output=((0, nanos),))
    quoted = quote(price, row.vendor, attempt(model=model, service_tier=row.tiers[0]))
    exact = Fraction(*row.factor) * nanos
    if price != FREE:
        assert abs(quoted.price.input[0][1] - exact) <= Fraction(1, 2)
