"""Comparison with genai-prices: every model of its list has the same cost here, or is unpriced for a reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from decimal import ROUND_HALF_UP, Decimal

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices, TimeOfDateConstraint

from llm_gateway.domain import public_prices
from llm_gateway.domain.usage import Price, Usage, cost
from llm_gateway.providers import prices
from llm_gateway.providers.prices import PriceList

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
INPUT_KEYS = ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "input_audio_tokens")
OUTPUT_KEYS = ("output_reasoning_tokens", "output_audio_tokens")
OUR_NAMES = {
    "input_audio_tokens": "audio_input_tokens",
    "output_audio_tokens": "audio_output_tokens",
    "output_reasoning_tokens": "reasoning_tokens",
}
PRICE_KEYS = {key: key.replace("_tokens", "_mtok") for key in (*INPUT_KEYS, *OUTPUT_KEYS) if "1h" not in key}
"""Without cache_write_1h, which cannot occur alone: its tokens are a subset of cache_write."""
CACHED_BY_MODALITY = ("cache_audio_read_tokens", "cache_image_read_tokens")
"""Kinds that a `Usage` does not distinguish: it counts all cached tokens as text."""


def every_model() -> Iterator[tuple[Provider, ModelInfo]]:
    for provider in get_snapshot().providers:
        for model in provider.models:
            yield provider, model


def moments(model: ModelInfo) -> Iterator[datetime]:
    """Yield now, and the times just before and after every change of the model's price."""
    yield NOW
    for conditional in model.prices if isinstance(model.prices, list) else []:
        edges = []
        if isinstance(conditional.constraint, StartDateConstraint):
            edges = [datetime.combine(conditional.constraint.start_date, time_of_day(), UTC)]
        elif isinstance(conditional.constraint, TimeOfDateConstraint):
            times = (conditional.constraint.start_time, conditional.constraint.end_time)
            edges = [datetime.combine(NOW, edge).replace(tzinfo=edge.tzinfo or UTC) for edge in times]
        for edge in edges:
            yield from (edge - timedelta(seconds=1), edge)


def rows_of(value: object) -> list[Decimal]:
    if isinstance(value, TieredPrices):
        return [value.base, *(tier.price for tier in value.tiers)]
    return [value] if isinstance(value, Decimal) else []


def in_whole_nanos(model_price: ModelPrice) -> ModelPrice:
    """Round every price half up to the nano-dollar per million tokens; return the same object if nothing changes."""

    def rounded(price: Decimal) -> Decimal:
        return price.quantize(Decimal("1e-9"), ROUND_HALF_UP)

    changed: dict[str, Decimal | TieredPrices | None] = {}
    for key, value in model_price.__dict__.items():
        if isinstance(value, TieredPrices):
            tiers = [type(tier)(start=tier.start, price=rounded(tier.price)) for tier in value.tiers]
            changed[key] = TieredPrices(base=rounded(value.base), tiers=tiers)
        else:
            changed[key] = rounded(value) if isinstance(value, Decimal) else value
    whole = ModelPrice(**changed)
    return model_price if whole == model_price else whole


def usages(model_price: ModelPrice, rng: random.Random, *, is_new: bool) -> Iterator[tuple[Usage, genai_prices.Usage]]:
    """Yield equal usages, ours and theirs: no kind, each kind, all kinds; of random sizes and around every tier.

    For a price that another model has, too, yield one usage of all kinds.
    """
    starts = {
        tier.start for value in model_price.__dict__.values() if isinstance(value, TieredPrices) for tier in value.tiers
    }
    edges = [total for start in starts for total in (start - 1, start, start + 1, 2 * start)]
    totals = [rng.randrange(2), rng.randrange(2, 100_000), rng.randrange(10**6), *edges]
    for total in totals if is_new else [rng.randrange(10**6)]:
        output = rng.choice([0, 1, rng.randrange(20_000)])
        cuts = sorted(rng.randrange(total + 1) for _ in range(3))
        write = cuts[1] - cuts[0]
        every = {
            "cache_read_tokens": cuts[0],
            "cache_write_tokens": write,
            "cache_write_1h_tokens": rng.randrange(write + 1),
            "input_audio_tokens": cuts[2] - cuts[1],
            "output_reasoning_tokens": output // 3,
            "output_audio_tokens": output // 5,
        }
        part = {key: rng.randrange(total + 1) for key in INPUT_KEYS} | dict.fromkeys(OUTPUT_KEYS, output)
        alone = [{key: part[key]} for key in part if getattr(model_price, PRICE_KEYS.get(key, "requests_kcount"))]
        hour = {"cache_write_tokens": part["cache_write_tokens"], "cache_write_1h_tokens": part["cache_write_tokens"]}
        for kinds in ({}, every, hour, *alone) if is_new else (every,):
            ours = {OUR_NAMES.get(key, key): count for key, count in kinds.items()}
            theirs = dict.fromkeys((*INPUT_KEYS, *OUTPUT_KEYS, *CACHED_BY_MODALITY), 0) | kinds
            yield (
                Usage(input_tokens=total, output_tokens=output, **ours),
                genai_prices.Usage(input_tokens=total, output_tokens=output, **theirs),
            )


def nanos(usd: Decimal) -> int:
    return int((usd * 10**9).to_integral_value(ROUND_HALF_UP))


def test_every_model_costs_what_genai_prices_says() -> None:
    rng = random.Random(7)
    compared: Counter[str] = Counter()
    fractions: Counter[str] = Counter()
    known: set[str] = set()
    for provider, model in every_model():
        for at in moments(model):
            model_price = model.get_prices(at)
            price = prices._from_genai(model_price)
            if price is None:
                continue
            whole = in_whole_nanos(model_price)
            compared["prices"] += 1
            if whole is not model_price:
                fractions[provider.id] += 1
            shown = repr(sorted(model_price.__dict__.items()))
            for ours, theirs in usages(model_price, rng, is_new=shown not in known):
                compared["calls"] += 1
                said = model.calc_price(theirs, provider, genai_request_timestamp=at).total_price
                assert abs(cost(price, ours) - nanos(said)) <= (whole is not model_price), (provider.id, model.id, ours)
                if whole is not model_price:
                    assert cost(price, ours) == nanos(whole.calc_price(theirs)["total_price"])
            known.add(shown)
    assert compared["prices"] > 2500
    assert len(known) > 1000
    assert compared["calls"] > 10 * len(known)
    # Binary fractions, such as 0.0833333333333333 for a twelfth of a dollar and 0.18000000000000002 for 0.18.
    assert set(fractions) == {"openrouter", "huggingface_together"}
    assert sum(fractions.values()) < 60


def test_the_comparison_covers_every_kind_of_price() -> None:
    known = {
        kind
        for _, model in every_model()
        for at in moments(model)
        if (price := prices._from_genai(model.get_prices(at))) is not None
        for kind in prices.KINDS
        if getattr(price, kind)
    }
    assert known == set(prices.KINDS)


NOT_PER_TOKEN = {"requests_kcount", "output_citation_mtok"}
REFUSED = {
    ("openai", "gpt-4o-search-preview"),
    ("openai", "gpt-5-search-api"),
    ("openai", "o3-deep-research"),
    ("openai", "o4-mini-deep-research"),
    ("perplexity", "llama-3.1-sonar-large-128k-online"),
    ("perplexity", "llama-3.1-sonar-small-128k-online"),
    ("perplexity", "perplexity/sonar"),
    ("perplexity", "sonar"),
    ("perplexity", "sonar-deep-research"),
    ("perplexity", "sonar-pro"),
    ("perplexity", "sonar-pro-search"),
    ("perplexity", "sonar-reasoning"),
    ("perplexity", "sonar-reasoning-pro"),
}
"""Models with a price per token whose calls are billed for more than tokens: unpriced, since it would be too low."""


def has_token_price(model: ModelInfo) -> bool:
    return model.get_prices(NOW).input_mtok is not None


def test_the_models_left_unpriced_despite_a_price_per_token_are_known() -> None:
    price_list = PriceList(NOW.timestamp)
    vendors = {theirs: ours for ours, theirs in prices.GENAI_PROVIDERS.items()}
    refused = set()
    for provider, model in every_model():
        vendor = vendors.get(provider.id)
        is_known = vendor is not None and has_token_price(model) and provider.find_model(model.id) is model
        if is_known and price_list.find(vendor, model.id) is None:
            refused.add((vendor, model.id))
    resold = {(vendor, model) for vendor, model in refused if vendor == "openrouter"}
    assert refused - resold == REFUSED
    assert 10 < len(resold) < 20
    assert all(public_prices.SEARCHING.search(model) for _, model in refused)


@pytest.mark.parametrize(("vendor", "model"), sorted(REFUSED))
def test_a_model_left_unpriced_has_no_price_at_any_vendor(vendor: str, model: str) -> None:
    price_list = PriceList(NOW.timestamp)
    assert price_list.find(vendor, model) is None
    assert price_list.find(None, model) is None
    assert price_list.find_at(vendor, model, int(NOW.timestamp() * 1000)) is None


def test_only_models_without_a_price_per_token_or_with_one_per_request_are_unpriced() -> None:
    for _, model in every_model():
        named = model.get_prices(NOW).__dict__
        keys = {key for key, value in named.items() if value is not None}
        price: Price | None = prices._from_genai(model.get_prices(NOW))
        if price is None:
            assert "input_mtok" not in keys or keys & NOT_PER_TOKEN
        else:
            assert not keys & NOT_PER_TOKEN


def test_the_list_price_at_a_time_is_the_one_valid_then() -> None:
    price_list = PriceList(NOW.timestamp)
    checked = 0
    for provider, model in every_model():
        vendor = next((ours for ours, theirs in prices.GENAI_PROVIDERS.items() if theirs == provider.id), None)
        if vendor is None or not isinstance(model.prices, list) or public_prices.SEARCHING.search(model.id):
            continue
        if provider.find_model(model.id) is not model:
            continue
        for at in moments(model):
            expected = prices._from_genai(model.get_prices(at))
            assert price_list.find_at(vendor, model.id, int(at.timestamp() * 1000)) == expected
            checked += 1
    assert checked > 50
    assert price_list.find_at("ollama", "gpt-4o-mini", 0) is None
    assert price_list.find_at("openai", "gpt-4o-mini", 0) == price_list.find("openai", "gpt-4o-mini")
